// Poses of the tokens at a time, as nest_nerfstudio/dynamics: z(t) in closed form or from a table, then T exp(tη) exp ξ(z).

import { compose, exp, interpolate, Pose } from "./se3";
import { Clock, Scene } from "./scene";

const mod = (a: number, b: number) => a - b * Math.floor(a / b);

/** Which own time the scene shows at a clip time. */
export function ownTime(clock: Clock, time: number): number {
  const own = clock.speed * time + clock.offset;
  return clock.loop ? clock.loop[0] + mod(own - clock.loop[0], clock.loop[1] - clock.loop[0]) : own;
}

/** State of an oscillator: each pair of the start, turned by a multiple of the cycle's angle. */
function orbit(scene: Scene, own: number): number[] {
  const { period, phase } = scene.header.motion;
  const turn = 2 * Math.PI * mod(own / period + phase, 1);
  const start = scene.arrays.states;
  return Array.from(start, (value, i) => {
    const angle = turn * ((i >> 1) + 1);
    const other = start[i ^ 1];
    return i % 2 ? value * Math.cos(angle) + other * Math.sin(angle) : value * Math.cos(angle) - other * Math.sin(angle);
  });
}

/** State from a table of values and slopes at even times, by cubic Hermite interpolation; held at its ends. */
function table(scene: Scene, own: number): number[] {
  const { first, last } = scene.header.motion;
  const { states, slopes } = scene.arrays;
  const [rows, size] = scene.shapes.states;
  const step = (last - first) / (rows - 1);
  const position = Math.min(Math.max((own - first) / step, 0), rows - 1);
  const left = Math.min(Math.floor(position), rows - 2);
  const u = position - left;
  return Array.from({ length: size }, (_, i) => {
    const [a, b] = [states[left * size + i], states[(left + 1) * size + i]];
    const [m, n] = [slopes[left * size + i] * step, slopes[(left + 1) * size + i] * step];
    const bend = m + n - 2 * (b - a);
    return a + u * (m + u * (b - a - m - bend + u * bend));
  });
}

function posesAtOwn(scene: Scene, own: number): Pose[] {
  const { token_quats: quats, token_translations: translations, modes, drift } = scene.arrays;
  const { kind } = scene.header.motion;
  const state = kind === "still" ? [] : [...(kind === "orbit" ? orbit(scene, own) : table(scene, own)), 1];
  const [going, twist] = [new Float64Array(6), new Float64Array(6)];
  return Array.from({ length: scene.tokens }, (_, k) => {
    const rest: Pose = {
      quat: [quats[4 * k], quats[4 * k + 1], quats[4 * k + 2], quats[4 * k + 3]],
      shift: [translations[3 * k], translations[3 * k + 1], translations[3 * k + 2]],
    };
    if (kind === "still") return rest;
    for (let i = 0; i < 6; i++) {
      going[i] = own * drift[6 * k + i];
      twist[i] = state.reduce((sum, z, d) => sum + z * modes[(6 * k + i) * state.length + d], 0);
    }
    return compose(compose(rest, exp(going)), exp(twist));
  });
}

/** Poses of all tokens at a clip time, world frame. */
export function posesAt(scene: Scene, time: number): Pose[] {
  const { clock } = scene.header.motion;
  const own = ownTime(clock, time);
  const poses = posesAtOwn(scene, own);
  if (!clock.loop || clock.fade === 0) return poses;
  const [start, end] = clock.loop;
  const weight = Math.min(Math.max((own - end) / clock.fade + 1, 0), 1);
  if (weight === 0) return poses;
  const before = posesAtOwn(scene, own - (end - start));
  return poses.map((pose, k) => interpolate(pose, before[k], weight * weight * (3 - 2 * weight)));
}
