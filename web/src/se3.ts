// Rigid motions, as nest_nerfstudio/geometry/se3.py: quaternions are wxyz, a twist is (translation, rotation vector).

export type Vec3 = [number, number, number];
export type Quat = [number, number, number, number];
export interface Pose {
  quat: Quat;
  shift: Vec3;
}

export const IDENTITY: Pose = { quat: [1, 0, 0, 0], shift: [0, 0, 0] };

export function cross(a: Vec3, b: Vec3): Vec3 {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

export function multiply(p: Quat, q: Quat): Quat {
  return [
    p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3],
    p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2],
    p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1],
    p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0],
  ];
}

export function conjugate(q: Quat): Quat {
  return [q[0], -q[1], -q[2], -q[3]];
}

export function rotate(q: Quat, v: Vec3): Vec3 {
  const u: Vec3 = [q[1], q[2], q[3]];
  const t = cross(u, v).map((x) => 2 * x) as Vec3;
  const twice = cross(u, t);
  return [v[0] + q[0] * t[0] + twice[0], v[1] + q[0] * t[1] + twice[1], v[2] + q[0] * t[2] + twice[2]];
}

export function matrix(q: Quat): number[] {
  const [w, x, y, z] = q;
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
    2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
    2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
  ];
}

export function compose(a: Pose, b: Pose): Pose {
  const moved = rotate(a.quat, b.shift);
  return { quat: multiply(a.quat, b.quat), shift: [moved[0] + a.shift[0], moved[1] + a.shift[1], moved[2] + a.shift[2]] };
}

export function inverse(a: Pose): Pose {
  const quat = conjugate(a.quat);
  return { quat, shift: rotate(quat, a.shift).map((x) => -x) as Vec3 };
}

/** Pose of a twist: (exp φ, V ρ), V = I + c2 [φ]ₓ + c3 [φ]ₓ². */
export function exp(xi: ArrayLike<number>): Pose {
  const rho: Vec3 = [xi[0], xi[1], xi[2]];
  const phi: Vec3 = [xi[3], xi[4], xi[5]];
  const square = phi[0] ** 2 + phi[1] ** 2 + phi[2] ** 2;
  const angle = Math.sqrt(square);
  const near = angle < 1e-2;
  const half = near ? 0.5 - square / 48 : Math.sin(angle / 2) / angle;
  const c2 = near ? 0.5 - square / 24 : (1 - Math.cos(angle)) / square;
  const c3 = near ? 1 / 6 - square / 120 : (angle - Math.sin(angle)) / (square * angle);
  const once = cross(phi, rho);
  const twice = cross(phi, once);
  return {
    quat: [Math.cos(angle / 2), half * phi[0], half * phi[1], half * phi[2]],
    shift: [0, 1, 2].map((i) => rho[i] + c2 * once[i] + c3 * twice[i]) as Vec3,
  };
}

/** Twist of a pose whose rotation is at most half a turn. */
export function log(pose: Pose): number[] {
  const [w, x, y, z] = pose.quat[0] < 0 ? (pose.quat.map((c) => -c) as Quat) : pose.quat;
  const sin = Math.hypot(x, y, z);
  const gain = sin < 1e-6 ? 2 / w : (2 * Math.atan2(sin, w)) / sin;
  const phi: Vec3 = [gain * x, gain * y, gain * z];
  const angle = gain * sin;
  const bend = angle < 1e-2 ? 1 / 12 + angle ** 2 / 720 : (1 - angle / 2 / Math.tan(angle / 2)) / angle ** 2;
  const once = cross(phi, pose.shift);
  const twice = cross(phi, once);
  return [...[0, 1, 2].map((i) => pose.shift[i] - once[i] / 2 + bend * twice[i]), ...phi];
}

/** On the way from a to b along the geodesic. */
export function interpolate(a: Pose, b: Pose, weight: number): Pose {
  return compose(a, exp(log(compose(inverse(a), b)).map((x) => weight * x)));
}
