// The scene in the page: what nest_nerfstudio/io/web.py packs and scripts/export_web.py fills in.

export interface Clock {
  speed: number;
  offset: number;
  loop: [number, number] | null;
  fade: number;
}

export interface Header {
  title: string;
  /** sRGB. */
  background: [number, number, number];
  antialiased: boolean;
  camera: { position: number[]; target: number[]; fov: number };
  /** Ends of the time slider in clips, seconds a clip lasts, and whether time goes on beyond them. */
  time: { first: number; last: number; seconds: number; endless: boolean; note: string };
  motion: { kind: "still" | "table" | "orbit"; first: number; last: number; period: number; phase: number; clock: Clock };
  /** The light is known, and shades the scene. */
  lit: boolean;
}

interface Place {
  type: "float32" | "uint16" | "uint8";
  shape: number[];
  offset: number;
  low?: number[];
  step?: number[];
}

export type Arrays = Record<string, Float32Array>;

export class Scene {
  readonly header: Header;
  /** By name; see `scripts/export_web.py`. */
  readonly arrays: Arrays = {};
  readonly shapes: Record<string, number[]> = {};

  constructor(bytes: Uint8Array) {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    const { arrays, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    this.header = header;
    for (const [name, place] of Object.entries(arrays as Record<string, Place>)) {
      this.arrays[name] = dequantised(bytes, bytes.byteOffset + 4 + length + place.offset, place);
      this.shapes[name] = place.shape;
    }
  }

  get gaussians(): number {
    return this.shapes.means[0];
  }

  get tokens(): number {
    return this.shapes.bind_quats[0];
  }
}

function dequantised(bytes: Uint8Array, start: number, place: Place): Float32Array {
  const count = place.shape.reduce((a, b) => a * b, 1);
  const type = { float32: Float32Array, uint16: Uint16Array, uint8: Uint8Array }[place.type];
  const stored = new type(bytes.buffer as ArrayBuffer, start, count);
  const { low, step } = place;
  if (!low || !step) return Float32Array.from(stored);
  return Float32Array.from(stored, (n, i) => low[i % low.length] + step[i % step.length] * n);
}
