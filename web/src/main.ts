// The page: time, camera and controls. `window.nest` is for scripts and tests.

import * as THREE from "three";
import { Changes, lightTurn } from "./changes";
import { turned } from "./harmonics";
import { posesAt } from "./motion";
import { compose, IDENTITY, inverse, matrix, Pose, Quat, Vec3 } from "./se3";
import { Scene } from "./scene";
import { fromDc, Skin } from "./skin";
import { View } from "./view";

const element = <T extends HTMLElement = HTMLInputElement>(id: string) => document.getElementById(id) as T;

class Page {
  time = 0;
  playing = false;
  private readonly view: View;
  private readonly skin: Skin;
  private readonly changes: Changes;
  private chosen: number[] = [];
  private seen = { time: NaN, eye: new THREE.Vector3(NaN) };
  private stale = true;
  private dirty = true;
  private last = 0;

  constructor(private readonly scene: Scene) {
    const { arrays, header } = scene;
    this.view = new View(element<HTMLCanvasElement>("canvas"), scene, () => (this.dirty = true));
    this.skin = new Skin(scene);
    this.changes = new Changes(scene, header.lit ? arrays.albedo : fromDc(arrays.dc));
    document.body.style.background = `rgb(${header.background.map((x) => 255 * x).join(" ")})`;
    this.connectTime();
    this.connectTokens();
    this.connectLight();
    const resize = () => {
      this.view.resize(window.innerWidth, window.innerHeight);
      this.dirty = true;
    };
    window.addEventListener("resize", resize);
    window.addEventListener("hashchange", () => this.readHash());
    resize();
    this.readHash();
    requestAnimationFrame((now) => this.frame(now));
  }

  /** Shows a moment from a camera: a camera-to-world matrix by rows, OpenGL axes, and the angle of the shorter side, in degrees. */
  async show(time: number, camera?: { matrix: number[]; fov: number }): Promise<void> {
    this.setPlaying(false);
    this.setTime(time);
    if (camera) {
      const { camera: eye } = this.view;
      this.view.orbit.enabled = false;
      new THREE.Matrix4().fromArray(camera.matrix).transpose().decompose(eye.position, eye.quaternion, eye.scale);
      this.view.setFov(camera.fov);
      eye.updateMatrixWorld();
    }
    this.refresh();
    await this.view.settle();
  }

  /** Means, quaternions (wxyz) and colours of all Gaussians, as now shown. */
  get gaussians(): { means: number[]; quats: number[]; rgb: number[] } {
    const { means, quats, rgb } = this.skin;
    return { means: [...means], quats: [...quats], rgb: [...rgb] };
  }

  private frame(now: number): void {
    const passed = Math.min((now - this.last) / 1000, 0.1);
    this.last = now;
    if (this.playing) this.advance(passed);
    const moved = this.scene.shapes.sh[1] > 0 && !this.view.camera.position.equals(this.seen.eye);
    if (this.stale || moved || this.time !== this.seen.time) this.refresh();
    if (this.dirty) {
      this.dirty = false;
      this.view.draw();
    }
    requestAnimationFrame((later) => this.frame(later));
  }

  private advance(passed: number): void {
    const { first, last, seconds, endless } = this.scene.header.time;
    let time = this.time + (passed / seconds) * Number(element("speed").value);
    if (!endless && time > last) time = first;
    if (!endless && time < first) time = last;
    this.setTime(time);
  }

  /** Poses the scene as it is now. */
  private refresh(): void {
    const poses = this.changes.moved(posesAt(this.scene, this.time));
    const { position } = this.view.camera;
    this.skin.pose(poses, [position.x, position.y, position.z], this.light(), this.changes);
    this.view.update(this.skin, this.changes);
    this.view.showTokens(element("tokens").checked ? poses : null, new Set(this.chosen));
    this.seen = { time: this.time, eye: position.clone() };
    this.stale = false;
    this.dirty = true;
  }

  // ---------------------------------------------------------------- time

  private connectTime(): void {
    const { first, last } = this.scene.header.time;
    const still = this.scene.header.motion.kind === "still";
    element("timebar").hidden = still;
    const slider = element("time");
    [slider.min, slider.max, slider.step] = [String(first), String(last), "any"];
    slider.addEventListener("input", () => this.setTime(Number(slider.value)));
    element("play").addEventListener("click", () => this.setPlaying(!this.playing));
    element("speed").addEventListener("input", () => this.setTime(this.time));
    window.addEventListener("keydown", (event) => {
      if (event.code !== "Space" || event.target instanceof HTMLButtonElement) return;
      event.preventDefault();
      this.setPlaying(!this.playing);
    });
    element("clip").style.left = `${(-first / (last - first)) * 100}%`;
    element("clip").style.width = `${100 / (last - first)}%`;
    this.setPlaying(!still);
    this.setTime(0);
  }

  private setPlaying(playing: boolean): void {
    this.playing = playing;
    element("play").textContent = playing ? "❚❚" : "►";
    element("play").ariaLabel = playing ? "Pause" : "Play";
  }

  private setTime(time: number): void {
    const { first, last, endless, note } = this.scene.header.time;
    this.time = time;
    const span = last - first;
    element("time").value = String(endless ? first + (((time - first) % span) + span) % span : time);
    element("now").textContent = time.toFixed(2);
    element("rate").textContent = `×${element("speed").value}`;
    const past = time < 0 || time > 1;
    element("past").textContent = !past ? "" : note || (time < 0 ? "before the clip" : "after the clip");
  }

  /** #time=1.5 shows a moment, and stops there. */
  private readHash(): void {
    const time = new URLSearchParams(window.location.hash.slice(1)).get("time");
    if (time === null || !Number.isFinite(Number(time))) return;
    this.setPlaying(false);
    this.setTime(Number(time));
  }

  // ---------------------------------------------------------------- tokens

  private connectTokens(): void {
    const choice = element<HTMLSelectElement>("choice");
    const copies = [...new Set(this.scene.arrays.copies)].sort((a, b) => a - b);
    if (copies.length > 1) choice.append(...copies.map((c) => new Option(c ? `copy ${c}` : "original", String(c))));
    choice.addEventListener("change", () => {
      const all = this.scene.arrays.copies;
      const wanted = choice.value;
      this.choose(wanted === "none" ? [] : [...all.keys()].filter((k) => wanted === "all" || all[k] === Number(wanted)));
    });
    const { gizmo, handle } = this.view;
    let pressed: [number, number] | null = null;
    const canvas = element<HTMLCanvasElement>("canvas");
    canvas.addEventListener("pointerdown", (event) => (pressed = [event.offsetX, event.offsetY]));
    canvas.addEventListener("pointerup", (event) => {
      const still = pressed && !gizmo.axis && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) < 5;
      if (still && element("panel").classList.contains("open")) this.pick(event.offsetX, event.offsetY);
    });
    element("tokens").addEventListener("change", () => (this.stale = true));
    for (const mode of ["translate", "rotate"] as const) {
      element(mode).addEventListener("click", () => {
        const off = !this.chosen.length || (gizmo.object && gizmo.mode === mode);
        gizmo.setMode(mode);
        if (off) gizmo.detach();
        else gizmo.attach(handle);
        this.dirty = true;
      });
    }
    let before = { poses: [] as Pose[], handle: IDENTITY };
    gizmo.addEventListener("mouseDown", () => {
      before = { poses: this.changes.tokens.map((token) => token.pose), handle: poseOf(handle) };
    });
    gizmo.addEventListener("objectChange", () => {
      const step = compose(poseOf(handle), inverse(before.handle));
      let row = 0;
      this.change(() => ({ pose: compose(step, before.poses[this.chosen[row++]]) }));
    });
    const colour = () => {
      const [hue, gain] = [Number(element("hue").value), 2 ** Number(element("gain").value)];
      this.change(() => ({ hue, gain }));
    };
    element("hue").addEventListener("input", colour);
    element("gain").addEventListener("input", colour);
    element("hide").addEventListener("click", () => {
      this.change(() => ({ hidden: true }));
      this.choose([]);
    });
    element("reset").addEventListener("click", () => {
      this.changes.reset();
      for (const id of ["hue", "gain", "azimuth", "elevation"]) element(id).value = "0";
      element("brightness").value = "1";
      this.choose([]);
      this.view.lookFromStart();
    });
    element("save").addEventListener("click", () => this.save());
    element("menu").addEventListener("click", () => element("panel").classList.toggle("open"));
    element("full").addEventListener("click", () => {
      if (document.fullscreenElement) void document.exitFullscreen();
      else void document.documentElement.requestFullscreen();
    });
    this.choose([]);
  }

  private change(change: Parameters<Changes["change"]>[1]): void {
    this.changes.change(this.chosen, change);
    this.stale = true;
  }

  /** Chooses the token at a point and all within reach of it, at rest. */
  private pick(x: number, y: number): void {
    const k = this.view.tokenAt(x, y, this.changes.moved(posesAt(this.scene, this.time)));
    element<HTMLSelectElement>("choice").value = "none";
    if (k === null) return this.choose([]);
    const at = this.scene.arrays.token_translations;
    const away = (i: number) => Math.hypot(at[3 * i] - at[3 * k], at[3 * i + 1] - at[3 * k + 1], at[3 * i + 2] - at[3 * k + 2]);
    const { copies } = this.scene.arrays;
    const reach = Number(element("reach").value) * this.size();
    this.choose([...copies.keys()].filter((i) => away(i) <= reach && copies[i] === copies[k]));
  }

  private choose(chosen: number[]): void {
    this.chosen = chosen;
    element("chosen").textContent = `${chosen.length} of ${this.scene.tokens}`;
    for (const id of ["translate", "rotate", "hide", "hue", "gain"]) element(id).disabled = !chosen.length;
    const { gizmo, handle } = this.view;
    gizmo.detach();
    if (chosen.length) {
      const at = this.changes.moved(posesAt(this.scene, this.time));
      const sum = chosen.reduce((s, k) => s.map((x, i) => x + at[k].shift[i]) as Vec3, [0, 0, 0] as Vec3);
      handle.position.set(...(sum.map((x) => x / chosen.length) as Vec3));
      handle.quaternion.identity();
      const { hue, gain } = this.changes.tokens[chosen[0]];
      element("hue").value = String(hue);
      element("gain").value = String(Math.log2(gain));
    }
    this.stale = true;
  }

  /** Largest extent of the tokens at rest. */
  private size(): number {
    const at = this.scene.arrays.token_translations;
    const along = (axis: number) => at.filter((_, i) => i % 3 === axis);
    return Math.max(...[0, 1, 2].map((axis) => Math.max(...along(axis)) - Math.min(...along(axis))), 1e-6);
  }

  // ---------------------------------------------------------------- light

  private connectLight(): void {
    element("light").hidden = !this.scene.header.lit;
    for (const id of ["azimuth", "elevation", "brightness"]) {
      element(id).addEventListener("input", () => (this.stale = true));
    }
  }

  private lightChange(): { azimuth: number; elevation: number; gain: number } {
    const [azimuth, elevation, gain] = ["azimuth", "elevation", "brightness"].map((id) => Number(element(id).value));
    return { azimuth, elevation, gain };
  }

  private light(): number[] {
    if (!this.scene.header.lit) return [];
    const { azimuth, elevation, gain } = this.lightChange();
    const turn = matrix(lightTurn(azimuth, elevation));
    const light = this.scene.arrays.light;
    return [0, 9, 18].flatMap((c) => turned(light.slice(c, c + 9), turn).map((x) => gain * x));
  }

  private save(): void {
    const { azimuth, elevation, gain } = this.lightChange();
    const lit = this.scene.header.lit && (azimuth || elevation || gain !== 1);
    const text = JSON.stringify(this.changes.edit(lit ? { azimuth, elevation, gain } : null), null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "edit.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

function poseOf({ position: p, quaternion: q }: THREE.Object3D): Pose {
  return { quat: [q.w, q.x, q.y, q.z] as Quat, shift: [p.x, p.y, p.z] };
}

declare global {
  interface Window {
    startNest: (scene: Uint8Array) => void;
    nest: Page;
  }
}

window.startNest = (bytes) => {
  window.nest = new Page(new Scene(bytes));
};
