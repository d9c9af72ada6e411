// Real spherical harmonics in gsplat's order and sign, as nest_nerfstudio/geometry/sh.py.

export const C0 = 0.28209479177387814;
const C1 = 0.4886025119029199;

/** Σ_{1 ≤ i < count} sh_i Y_i(x, y, z) of the three channels, added to `rgb` at `at`; (x, y, z) is unit. */
export function addHarmonics(
  sh: Float32Array, from: number, count: number, x: number, y: number, z: number, rgb: Float32Array, at: number,
): void {
  const values = basis(count, x, y, z);
  for (let i = 0; i < count - 1; i++) {
    for (let c = 0; c < 3; c++) rgb[at + c] += values[i] * sh[from + 3 * i + c];
  }
}

const BASIS = new Float64Array(15);

/** Y_1 … Y_{count-1}. */
function basis(count: number, x: number, y: number, z: number): Float64Array {
  BASIS[0] = -C1 * y;
  BASIS[1] = C1 * z;
  BASIS[2] = -C1 * x;
  if (count <= 4) return BASIS;
  const zz = z * z;
  const [c2, s2] = [x * x - y * y, 2 * x * y];
  BASIS[3] = 0.5462742152960395 * s2;
  BASIS[4] = -1.092548430592079 * z * y;
  BASIS[5] = 0.9461746957575601 * zz - 0.3153915652525201;
  BASIS[6] = -1.092548430592079 * z * x;
  BASIS[7] = 0.5462742152960395 * c2;
  if (count <= 9) return BASIS;
  const [c3, s3] = [x * c2 - y * s2, x * s2 + y * c2];
  const d = 0.4570457994644658 - 2.285228997322329 * zz;
  BASIS[8] = -0.5900435899266435 * s3;
  BASIS[9] = 1.445305721320277 * z * s2;
  BASIS[10] = d * y;
  BASIS[11] = z * (1.865881662950577 * zz - 1.119528997770346);
  BASIS[12] = d * x;
  BASIS[13] = 1.445305721320277 * z * c2;
  BASIS[14] = -0.5900435899266435 * c3;
  return BASIS;
}

/** An expansion of degree 2 (nine coefficients) turned by a rotation matrix (by rows): f'(R d) = f(d). */
export function turned(c: ArrayLike<number>, r: number[]): number[] {
  // degree 1 is a vector, degree 2 a symmetric matrix without trace
  const v = [-c[3], -c[1], c[2]];
  const [p, q, s] = [0.5462742152960395, 1.092548430592079, 0.9461746957575601];
  const m = [
    p * c[8] - (s / 3) * c[6], p * c[4], (-q / 2) * c[7],
    p * c[4], -p * c[8] - (s / 3) * c[6], (-q / 2) * c[5],
    (-q / 2) * c[7], (-q / 2) * c[5], ((2 * s) / 3) * c[6],
  ];
  const w = [0, 1, 2].map((i) => r[3 * i] * v[0] + r[3 * i + 1] * v[1] + r[3 * i + 2] * v[2]);
  const rm = product(r, m);
  const n = product(rm, [r[0], r[3], r[6], r[1], r[4], r[7], r[2], r[5], r[8]]);
  return [c[0], -w[1], w[2], -w[0], n[1] / p, (-2 / q) * n[5], (1.5 / s) * n[8], (-2 / q) * n[2], (n[0] - n[4]) / (2 * p)];
}

export function product(a: number[], b: number[]): number[] {
  return a.map((_, n) => {
    const [i, j] = [3 * Math.floor(n / 3), n % 3];
    return a[i] * b[j] + a[i + 1] * b[3 + j] + a[i + 2] * b[6 + j];
  });
}
