// What a person does to tokens in the page: the steps move, recolor and delete of nest_nerfstudio/edits.

import { compose, IDENTITY, log, Pose, rotate, Vec3 } from "./se3";
import { Scene } from "./scene";

interface TokenChange {
  /** g of T → g T, world frame. */
  pose: Pose;
  /** Shift of the hue in turns, and factor of all channels. */
  hue: number;
  gain: number;
  hidden: boolean;
}

const NOTHING: TokenChange = { pose: IDENTITY, hue: 0, gain: 1, hidden: false };

export class Changes {
  tokens: TokenChange[];
  /** Shares of the tokens in each Gaussian, without hidden ones; all zero where the main one is hidden. */
  weights: Float32Array;
  /** sRGB at degree 0, or albedo where the light is known. */
  rgb: Float32Array;
  /** Harmonics above degree 0. */
  sh: Float32Array;
  private readonly started: Float32Array;

  constructor(private readonly scene: Scene, rgb: Float32Array) {
    this.tokens = Array.from({ length: scene.tokens }, () => NOTHING);
    this.started = normalised(scene.arrays.weights, scene.gaussians);
    this.weights = this.started;
    this.base = rgb;
    this.rgb = rgb;
    this.sh = scene.arrays.sh;
  }

  private readonly base: Float32Array;

  /** Changes some tokens. */
  change(chosen: number[], change: (token: TokenChange) => Partial<TokenChange>): void {
    for (const k of chosen) this.tokens[k] = { ...this.tokens[k], ...change(this.tokens[k]) };
    this.apply();
  }

  reset(): void {
    this.tokens = this.tokens.map(() => NOTHING);
    this.apply();
  }

  moved(poses: Pose[]): Pose[] {
    return poses.map((pose, k) => (this.tokens[k].pose === IDENTITY ? pose : compose(this.tokens[k].pose, pose)));
  }

  isHidden(gaussian: number): boolean {
    const near = this.weights.length / this.scene.gaussians;
    return this.weights[gaussian * near] === 0 && !this.weights.subarray(gaussian * near, (gaussian + 1) * near).some(Boolean);
  }

  private apply(): void {
    this.weights = this.tokens.some((token) => token.hidden) ? this.cut() : this.started;
    const coloured = this.tokens.some((token) => token.hue || token.gain !== 1);
    [this.rgb, this.sh] = coloured ? this.recoloured() : [this.base, this.scene.arrays.sh];
  }

  private cut(): Float32Array {
    const tokens = this.scene.arrays.rig_tokens;
    const near = tokens.length / this.scene.gaussians;
    const weights = this.started.map((weight, i) => (this.tokens[tokens[i]].hidden ? 0 : weight));
    for (let n = 0; n < this.scene.gaussians; n++) {
      const row = this.started.subarray(n * near, (n + 1) * near);
      if (this.tokens[tokens[n * near + row.indexOf(Math.max(...row))]].hidden) weights.fill(0, n * near, (n + 1) * near);
    }
    return normalised(weights, this.scene.gaussians);
  }

  /** Hues shift by the blend of the tokens' shifts and channels scale by that of their log gains. */
  private recoloured(): [Float32Array, Float32Array] {
    const tokens = this.scene.arrays.rig_tokens;
    const near = tokens.length / this.scene.gaussians;
    const [rgb, sh] = [this.base.slice(), this.scene.arrays.sh.slice()];
    const rest = sh.length / this.scene.gaussians;
    for (let n = 0; n < this.scene.gaussians; n++) {
      let [hue, gain] = [0, 0];
      for (let j = n * near; j < (n + 1) * near; j++) {
        hue += this.started[j] * this.tokens[tokens[j]].hue;
        gain += this.started[j] * Math.log(this.tokens[tokens[j]].gain);
      }
      gain = Math.exp(gain);
      rgb.set(shiftHue(rgb.subarray(3 * n, 3 * n + 3), hue).map((x) => x * gain), 3 * n);
      if (this.scene.header.lit) continue; // light shades the albedo; what is seen beside it stays
      const half = Math.PI * hue;
      const side = Math.sin(half) / Math.sqrt(3);
      for (let i = rest * n; i < rest * (n + 1); i += 3) {
        const turned = rotate([Math.cos(half), side, side, side], [sh[i], sh[i + 1], sh[i + 2]]);
        sh.set(turned.map((x) => x * gain), i);
      }
    }
    return [rgb, sh];
  }

  /** The same as an edit for `nest-edit`, with steps for tokens that were changed alike. */
  edit(light: { azimuth: number; elevation: number; gain: number } | null): object {
    const { ids, copies } = this.scene.arrays;
    const groups = new Map<TokenChange, number[]>();
    const keys = new Map<string, TokenChange>();
    this.tokens.forEach((token, k) => {
      if (token === NOTHING) return;
      const text = JSON.stringify([token, copies[k]]);
      const key = keys.get(text) ?? token;
      keys.set(text, key);
      groups.set(key, [...(groups.get(key) ?? []), k]);
    });
    const steps: object[] = [];
    const deletions: object[] = [];
    for (const [token, rows] of groups) {
      const tokens = { ids: { ids: rows.map((k) => ids[k]), copies: [copies[rows[0]]] } };
      if (token.pose !== IDENTITY) {
        steps.push({ action: "move", translation: token.pose.shift, rotation: log(token.pose).slice(3), about: [0, 0, 0], tokens });
      }
      if (token.hue || token.gain !== 1) {
        steps.push({ action: "recolor", hue: token.hue, gain: [token.gain, token.gain, token.gain], tokens });
      }
      if (token.hidden) deletions.push({ action: "delete", tokens });
    }
    if (light) {
      const rotation = log({ quat: lightTurn(light.azimuth, light.elevation), shift: [0, 0, 0] }).slice(3);
      steps.push({ action: "relight", rotation, gain: light.gain });
    }
    return { version: 1, steps: [...steps, ...deletions] };
  }
}

/** A turn about x, then about z; degrees. */
export function lightTurn(azimuth: number, elevation: number): [number, number, number, number] {
  const [a, e] = [(azimuth * Math.PI) / 360, (elevation * Math.PI) / 360];
  return [Math.cos(a) * Math.cos(e), Math.cos(a) * Math.sin(e), Math.sin(a) * Math.sin(e), Math.sin(a) * Math.cos(e)];
}

function normalised(weights: Float32Array, count: number): Float32Array {
  const near = weights.length / count;
  return weights.map((weight, i) => {
    const start = i - (i % near);
    let sum = 0;
    for (let j = start; j < start + near; j++) sum += weights[j];
    return sum > 0 ? weight / sum : 0;
  });
}

/** HSV hue shifted by a fraction of a turn, as nest_nerfstudio/geometry/color.py. */
function shiftHue([r, g, b]: ArrayLike<number> & Iterable<number>, turn: number): Vec3 {
  const [high, low] = [Math.max(r, g, b), Math.min(r, g, b)];
  const chroma = Math.max(high - low, 1e-9);
  const sixths = high === r ? (g - b) / chroma : high === g ? 2 + (b - r) / chroma : 4 + (r - g) / chroma;
  return [5, 3, 1].map((n) => {
    const k = (((n + sixths + 6 * turn) % 6) + 6) % 6;
    return high - (high - low) * Math.min(Math.max(Math.min(k, 4 - k), 0), 1);
  }) as Vec3;
}
