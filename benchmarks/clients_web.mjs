// One exported file in ONNX Runtime's web build, WebAssembly, one thread: node web.mjs PACKAGE MODEL.onnx INPUTS.json OUTPUTS.json
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";

const [packages, name, model, inputs, outputs] = process.argv.slice(2);
const require = createRequire(packages + "/package.json");
const ort = require(name);
if (ort.env.wasm) ort.env.wasm.numThreads = 1;
const arrays = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array };
const feeds = {};
for (const [key, { dtype, shape, file }] of Object.entries(JSON.parse(readFileSync(inputs)))) {
  const bytes = readFileSync(file);
  const values = new arrays[dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  feeds[key] = new ort.Tensor(dtype, values, shape);
}
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)));
const found = await session.run(feeds);
const plain = Object.fromEntries(Object.entries(found).map(([key, { dims, data }]) => [key, { dims, data: Array.from(data, Number) }]));
writeFileSync(outputs, JSON.stringify(plain));
