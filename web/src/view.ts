// Draws the scene with Spark on three.js, as gsplat does.

import { ExtSplats, SparkRenderer, SplatMesh, utils } from "@sparkjsdev/spark";
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { TransformControls } from "three/addons/controls/TransformControls.js";
import { Changes } from "./changes";
import { Pose } from "./se3";
import { Scene } from "./scene";
import { Skin } from "./skin";

const TEXTURE_ROW = 2048; // Spark's

export class View {
  readonly camera: THREE.PerspectiveCamera;
  private fov: number;
  readonly orbit: OrbitControls;
  readonly gizmo: TransformControls;
  /** What the gizmo moves. */
  readonly handle = new THREE.Object3D();
  private readonly renderer: THREE.WebGLRenderer;
  private readonly world = new THREE.Scene();
  private readonly spark: SparkRenderer;
  private readonly splats: ExtSplats;
  private readonly scales: Float32Array;
  private readonly mesh: SplatMesh;
  private readonly dots: THREE.Points;
  private readonly helper: THREE.Object3D;

  constructor(canvas: HTMLCanvasElement, private readonly scene: Scene, redraw: () => void) {
    const { background, antialiased, camera } = scene.header;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: false });
    this.renderer.setClearColor(new THREE.Color().setRGB(...background, THREE.SRGBColorSpace));
    const size = new THREE.Vector3(...camera.position).distanceTo(new THREE.Vector3(...camera.target));
    this.fov = camera.fov;
    this.camera = new THREE.PerspectiveCamera(camera.fov, 1, Math.min(0.01, size / 100), size * 1000);
    this.camera.up.set(0, 0, 1);
    this.orbit = new OrbitControls(this.camera, canvas);
    this.orbit.addEventListener("change", redraw);
    this.lookFromStart();
    // gsplat's classic mode: 0.3 square pixels are added to a projected covariance, what is below 1/255 is left out
    this.spark = new SparkRenderer({
      renderer: this.renderer,
      preBlurAmount: antialiased ? 0 : 0.3,
      blurAmount: antialiased ? 0.3 : 0,
      maxStdDev: Math.sqrt(2 * Math.log(255)),
      minAlpha: 1 / 255,
      maxPixelRadius: 4096,
      clipXY: 3,
      sortRadial: false,
      accumExtSplats: true,
      enableLod: false,
      onDirty: redraw,
    });
    this.scales = scene.arrays.log_scales.map(Math.exp);
    const padded = TEXTURE_ROW * Math.ceil(scene.gaussians / TEXTURE_ROW);
    const extArrays: [Uint32Array, Uint32Array] = [new Uint32Array(4 * padded), new Uint32Array(4 * padded)];
    this.splats = new ExtSplats({ extArrays, numSplats: scene.gaussians });
    this.mesh = new SplatMesh({ extSplats: this.splats, raycastable: false });
    this.mesh.frustumCulled = false;
    const dots = new THREE.BufferGeometry();
    dots.setAttribute("position", new THREE.BufferAttribute(new Float32Array(3 * scene.tokens), 3));
    dots.setAttribute("color", new THREE.BufferAttribute(new Float32Array(3 * scene.tokens), 3));
    const look = { size: 5, sizeAttenuation: false, vertexColors: true, depthTest: false, transparent: true };
    this.dots = new THREE.Points(dots, new THREE.PointsMaterial(look));
    this.dots.renderOrder = 1;
    this.dots.frustumCulled = false;
    this.gizmo = new TransformControls(this.camera, canvas);
    this.gizmo.addEventListener("change", redraw);
    this.gizmo.addEventListener("dragging-changed", (event) => (this.orbit.enabled = !event.value));
    this.helper = this.gizmo.getHelper();
    this.world.add(this.spark, this.mesh, this.dots, this.handle, this.helper);
  }

  lookFromStart(): void {
    const { position, target } = this.scene.header.camera;
    this.camera.position.set(...(position as [number, number, number]));
    this.orbit.target.set(...(target as [number, number, number]));
    this.orbit.update();
  }

  /** Fits the picture to the element, in at most twice as many pixels as CSS counts. */
  resize(width: number, height: number): void {
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.setFov(this.fov);
  }

  /** Sets the angle of the shorter side, in degrees. */
  setFov(fov: number): void {
    this.fov = fov;
    const half = Math.tan(THREE.MathUtils.degToRad(fov / 2)) / Math.min(1, this.camera.aspect);
    this.camera.fov = THREE.MathUtils.radToDeg(2 * Math.atan(half));
    this.camera.updateProjectionMatrix();
  }

  /** Takes over moved Gaussians. */
  update(skin: Skin, changes: Changes): void {
    const { opacities } = this.scene.arrays;
    const { means, quats, rgb } = skin;
    for (let n = 0; n < this.scene.gaussians; n++) {
      const [a, b] = [3 * n, 4 * n];
      utils.encodeExtSplat(
        this.splats.extArrays, n,
        means[a], means[a + 1], means[a + 2],
        this.scales[a], this.scales[a + 1], this.scales[a + 2],
        quats[b + 1], quats[b + 2], quats[b + 3], quats[b],
        changes.isHidden(n) ? 0 : opacities[n],
        rgb[a], rgb[a + 1], rgb[a + 2],
      );
    }
    for (const texture of this.splats.textures) texture.needsUpdate = true;
    this.mesh.updateVersion();
  }

  /** Shows the tokens where they are, the chosen ones in another colour; null shows none. */
  showTokens(poses: Pose[] | null, chosen: Set<number>): void {
    this.dots.visible = poses !== null;
    if (!poses) return;
    const { position, color } = this.dots.geometry.attributes;
    poses.forEach((pose, k) => {
      position.setXYZ(k, ...pose.shift);
      color.setXYZ(k, ...((chosen.has(k) ? [1, 0.35, 0] : [0.1, 0.35, 0.8]) as [number, number, number]));
    });
    position.needsUpdate = color.needsUpdate = true;
  }

  /** The foremost token within 16 CSS pixels of a point of the element, or else the nearest within 48. */
  tokenAt(x: number, y: number, poses: Pose[]): number | null {
    const size = this.renderer.getSize(new THREE.Vector2());
    let [best, least] = [null as number | null, 1];
    poses.forEach((pose, k) => {
      const p = new THREE.Vector3(...pose.shift).project(this.camera);
      const away = Math.hypot(((p.x + 1) / 2) * size.x - x, ((1 - p.y) / 2) * size.y - y);
      const rank = away < 16 ? p.z - 2 : away / 48;
      if (p.z < 1 && rank < least) [best, least] = [k, rank];
    });
    return best;
  }

  draw(): void {
    this.renderer.render(this.world, this.camera);
  }

  /** Draws until the Gaussians are sorted for this camera and moment. */
  async settle(): Promise<void> {
    for (let calm = 0; calm < 3; ) {
      this.draw();
      await new Promise(requestAnimationFrame);
      calm = this.spark.sorting || this.spark.sortDirty ? 0 : calm + 1;
    }
  }
}
