// Asks a server of Triton's gRPC protocol what an application would ask, and prints the answers as JSON.
// usage: node client.js DESCRIPTORS HOST:PORT; DESCRIPTORS is protoc's set of grpc_service.proto and what it imports.
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [descriptors, address] = process.argv.slice(2);
const options = { keepCase: true, longs: Number, enums: String, defaults: true };
const definition = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), options);
const Service = grpc.loadPackageDefinition(definition).inference.GRPCInferenceService;
const client = new Service(address, grpc.credentials.createInsecure());

const bytes = (name, text) => ({ name, datatype: "BYTES", shape: [1], contents: { bytes_contents: [Buffer.from(text)] } });
const tokens = { name: "max_tokens", datatype: "INT32", shape: [1], contents: { int_contents: [6] } };
const sampling = bytes("sampling_parameters", '{"temperature": 0, "max_tokens": 6}');
const stream = { name: "stream", datatype: "BOOL", shape: [1], contents: { bool_contents: [true] } };

function call(method, request) {
  return new Promise((resolve) => {
    client[method](request, (error, answer) => resolve(error ? { code: error.code, details: error.details } : answer));
  });
}

// A BYTES tensor in raw form begins with its length.
const readable = (response) => ({ ...response, raw_output_contents: response.raw_output_contents.map((raw) => raw.subarray(4).toString()) });

// Where a stream's text was cut into responses says nothing.
function streamed(requests) {
  return new Promise((resolve) => {
    const seen = {};
    const call = client.ModelStreamInfer();
    call.on("data", ({ error_message, infer_response }) => {
      const { raw_output_contents, ...rest } = readable(infer_response);
      const text = (seen[rest.id]?.text || "") + raw_output_contents.join("");
      seen[rest.id] = { error_message, text, last: rest };
    });
    call.on("status", ({ code }) => resolve({ seen, code }));
    call.on("error", () => {});
    requests.forEach((request) => call.write(request));
    call.end();
  });
}

async function main() {
  const question = { model_name: "phi2", id: "n", inputs: [bytes("text_input", "def f("), tokens] };
  const piecewise = { model_name: "phi2_stream", inputs: [bytes("text_input", "def f("), sampling, stream] };
  const final = { triton_enable_empty_final_response: { bool_param: true } };
  const answers = {
    live: await call("ServerLive", {}),
    metadata: await call("ModelMetadata", { name: "phi2" }),
    config: await call("ModelConfig", { name: "phi2_stream" }),
    infer: readable(await call("ModelInfer", question)),
    unknown: await call("ModelInfer", { ...question, model_name: "nope" }),
    decoupled: await call("ModelInfer", piecewise),
    stream: await streamed([{ ...piecewise, id: "1" }, { ...piecewise, id: "2", parameters: final }]),
    wrong: await streamed([{ ...piecewise, id: "3", model_version: "9" }]),
  };
  console.log(JSON.stringify(answers));
  client.close();
}

main();
