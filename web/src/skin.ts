// Gaussians of a moment, as nest_nerfstudio/fields/rig.py: linear blend skinning, light, view-dependent colour.

import { addHarmonics, C0, turned } from "./harmonics";
import { Changes } from "./changes";
import { conjugate, matrix, multiply, Pose, Quat, Vec3 } from "./se3";
import { Scene } from "./scene";

const ROW = 16; // of a token's table: rotation matrix, shift, quaternion
const DARK = 0.01;

export class Skin {
  readonly means: Float32Array;
  /** wxyz, unit. */
  readonly quats: Float32Array;
  /** sRGB as seen from the camera, not clamped. */
  readonly rgb: Float32Array;
  private readonly table: Float32Array;
  private readonly lights: Float32Array;
  private readonly harmonics: number;

  constructor(private readonly scene: Scene) {
    const count = scene.gaussians;
    this.means = new Float32Array(3 * count);
    this.quats = new Float32Array(4 * count);
    this.rgb = new Float32Array(3 * count);
    this.table = new Float32Array(ROW * scene.tokens);
    this.lights = new Float32Array(scene.header.lit ? 27 * scene.tokens : 0);
    this.harmonics = 1 + scene.shapes.sh[1];
  }

  /** Moves all Gaussians; colours are those seen from `eye`, under a light of three times nine harmonics. */
  pose(poses: Pose[], eye: Vec3, light: number[], changes: Changes): void {
    poses.forEach((pose, k) => this.setToken(k, pose, light));
    const { means, quats, rig_tokens: tokens } = this.scene.arrays;
    const { weights, sh: colours } = changes;
    const near = tokens.length / this.scene.gaussians;
    const { table, harmonics } = this;
    const sum = new Float64Array(ROW);
    for (let n = 0; n < this.scene.gaussians; n++) {
      sum.fill(0);
      for (let j = n * near; j < (n + 1) * near; j++) {
        const [weight, row] = [weights[j], ROW * tokens[j]];
        if (weight > 0) for (let i = 0; i < ROW; i++) sum[i] += weight * table[row + i];
      }
      const [a, b] = [3 * n, 4 * n];
      const [x, y, z] = [means[a], means[a + 1], means[a + 2]];
      for (let i = 0; i < 3; i++) {
        this.means[a + i] = sum[3 * i] * x + sum[3 * i + 1] * y + sum[3 * i + 2] * z + sum[9 + i];
      }
      const size = 1 / Math.hypot(sum[12], sum[13], sum[14], sum[15]);
      const [w, i, j, k] = [sum[12] * size, sum[13] * size, sum[14] * size, sum[15] * size];
      const [qw, qx, qy, qz] = [quats[b], quats[b + 1], quats[b + 2], quats[b + 3]];
      this.quats[b] = w * qw - i * qx - j * qy - k * qz;
      this.quats[b + 1] = w * qx + i * qw + j * qz - k * qy;
      this.quats[b + 2] = w * qy - i * qz + j * qw + k * qx;
      this.quats[b + 3] = w * qz + i * qy - j * qx + k * qw;
      if (this.scene.header.lit) this.shade(n, near, changes);
      else for (let c = 0; c < 3; c++) this.rgb[a + c] = changes.rgb[a + c];
      if (harmonics > 1) {
        // the harmonics turn with the Gaussian: look along the direction turned back
        let [dx, dy, dz] = [this.means[a] - eye[0], this.means[a + 1] - eye[1], this.means[a + 2] - eye[2]];
        const far = 1 / Math.hypot(dx, dy, dz);
        [dx, dy, dz] = [dx * far, dy * far, dz * far];
        const [tx, ty, tz] = [2 * (dy * k - dz * j), 2 * (dz * i - dx * k), 2 * (dx * j - dy * i)];
        const vx = dx + w * tx + ty * k - tz * j;
        const vy = dy + w * ty + tz * i - tx * k;
        const vz = dz + w * tz + tx * j - ty * i;
        addHarmonics(colours, 3 * (harmonics - 1) * n, harmonics, vx, vy, vz, this.rgb, a);
      }
    }
  }

  private setToken(k: number, pose: Pose, light: number[]): void {
    const { bind_quats: quats, bind_translations: centres } = this.scene.arrays;
    const bound: Quat = [quats[4 * k], quats[4 * k + 1], quats[4 * k + 2], quats[4 * k + 3]];
    const turn = multiply(pose.quat, conjugate(bound));
    const r = matrix(turn);
    const [x, y, z] = [centres[3 * k], centres[3 * k + 1], centres[3 * k + 2]];
    const shift = [0, 1, 2].map((i) => pose.shift[i] - r[3 * i] * x - r[3 * i + 1] * y - r[3 * i + 2] * z);
    this.table.set([...r, ...shift, ...turn], ROW * k);
    if (!this.lights.length) return;
    const back = matrix(conjugate(turn));
    for (let c = 0; c < 3; c++) this.lights.set(turned(light.slice(9 * c, 9 * c + 9), back), 27 * k + 9 * c);
  }

  /** Colour of albedo ρ and transfer t under the blended light L: sRGB of ρ (t · L) / π. */
  private shade(n: number, near: number, { weights, rgb: albedo }: Changes): void {
    const { rig_tokens: tokens, transfer } = this.scene.arrays;
    for (let c = 0; c < 3; c++) {
      let gathered = 0;
      for (let j = n * near; j < (n + 1) * near; j++) {
        if (weights[j] <= 0) continue;
        const row = 27 * tokens[j] + 9 * c;
        let sum = 0;
        for (let i = 0; i < 9; i++) sum += transfer[9 * n + i] * this.lights[row + i];
        gathered += weights[j] * sum;
      }
      if (gathered <= DARK) gathered = DARK * Math.exp(Math.min(gathered / DARK - 1, 0));
      this.rgb[3 * n + c] = srgb((albedo[3 * n + c] * gathered) / Math.PI);
    }
  }
}

function srgb(x: number): number {
  const curve = x <= 0.0031308 ? 12.92 * x : 1.055 * Math.min(x, 1) ** (1 / 2.4) - 0.055;
  return curve + Math.max(x - 1, 0) * (1.055 / 2.4);
}

/** Colours of degree 0 as sRGB. */
export function fromDc(dc: Float32Array): Float32Array {
  return dc.map((value) => value * C0 + 0.5);
}
