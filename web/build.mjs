// Bundles the player into the Python package: `npm ci && npm run build`. OUT=folder writes elsewhere.
import { build } from "esbuild";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const out = process.env.OUT ?? "../nest_nerfstudio/io/page";
const result = await build({
  entryPoints: ["src/main.ts"],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  write: false,
});
// What Spark has bundled itself is in no metafile; what is installed for more than the build is all of it.
const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
const folders = Object.keys(packages).filter((path) => path && !packages[path].dev);
const licences = folders.map((folder) => {
  const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${folder} has no licence file`);
  return `${name} ${version}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
});
mkdirSync(out, { recursive: true });
writeFileSync(join(out, "player.js.gz"), gzipSync(result.outputFiles[0].contents, { level: 9 }));
writeFileSync(join(out, "LICENSES.txt"), licences.join("\n\n"));
