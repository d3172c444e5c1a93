// npm's own clients against a running server: node clients.mjs http://127.0.0.1:8005
import assert from "node:assert/strict";
import { Ollama } from "ollama";
import OpenAI from "openai";

const url = process.argv[2];
const messages = [{ role: "user", content: "What is the capital of France? Answer briefly." }];
const answer = "The capital of France is Paris.";
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const ollama = new Ollama({ host: url });
const asked = { model: "smollm2", messages, temperature: 0 };

const whole = await openai.chat.completions.create(asked);
assert.equal(whole.choices[0].message.content, answer);

let text = "";
for await (const chunk of await openai.chat.completions.create({ ...asked, stream: true })) {
  text += chunk.choices[0].delta.content ?? "";
}
assert.equal(text, answer);

const parameters = { type: "object", properties: { unit: { enum: ["C", "F"] } }, required: ["unit"] };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const called = await openai.chat.completions.create({ ...asked, tools, tool_choice: "required", max_tokens: 60 });
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.ok(["C", "F"].includes(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments).unit));

const stream = await openai.chat.completions.create({ ...asked, model: "scripted", stream: true, max_tokens: 5000,
  scripted_tokens_per_second: 10 });
for await (const _ of stream) break; // closes the connection

await assert.rejects(openai.chat.completions.create({ ...asked, model: "no/such" }), OpenAI.NotFoundError);
const responded = await openai.responses.create({ model: "smollm2", input: messages[0].content, temperature: 0 });
assert.equal(responded.output_text, answer);

const chat = await ollama.chat({ model: "smollm2", messages, options: { temperature: 0 } });
assert.equal(chat.message.content, answer);
text = "";
for await (const part of await ollama.generate({ model: "scripted", prompt: "x", stream: true, options: { num_predict: 3 } })) {
  text += part.response;
}
assert.equal(text, "t0 t1 t2");
assert.ok((await ollama.list()).models.some((model) => model.name === "smollm2:latest"));
assert.equal((await ollama.embed({ model: "smollm2", input: ["a", "b"] })).embeddings.length, 2);
await assert.rejects(ollama.chat({ model: "no-such", messages }), /model 'no-such' not found/);
console.log("all well");
