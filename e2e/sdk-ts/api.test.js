// The TypeScript SDK at work: every part of the API that passes through the
// balancer, over TLS with Caddy's own certificate authority.

import assert from "node:assert/strict";
import { after, beforeEach, test } from "node:test";
import Anthropic, { APIConnectionTimeoutError, APIUserAbortError, toFile } from "@anthropic-ai/sdk";
import { readFile } from "node:fs/promises";
import { Agent, fetch as undiciFetch } from "undici";
import { call, until } from "../stage/stage.js";
import { client, collect, hello, model, stage, upstream } from "./client.js";

let names;
beforeEach(async () => {
  names = await stage.freshPool("max", "max");
  await stage.control("DELETE", "requests");
});

const rows = () => call(`${stage.admin}/requests?limit=20`);

test("a message is answered, and the user's own key goes nowhere", async () => {
  const { data, response } = await client().messages.create(hello).withResponse();
  assert.equal(data.type, "message");
  assert.ok(data.content[0].text.length > 0);
  assert.equal(response.headers.get("x-proxy-account"), names[0]);
  assert.equal(response.headers.get("anthropic-organization-id"), null);
  const [seen] = await upstream();
  assert.ok(!JSON.stringify(seen.header).includes("of-the-user"));
  assert.match(seen.header.Authorization[0], /^Bearer sk-ant-oat01-/);
});

test("a stream arrives event by event and adds up to a message", async () => {
  const stream = client().messages.stream(hello);
  const events = await collect(stream);
  assert.equal(events[0].type, "message_start");
  assert.equal(events.at(-1).type, "message_stop");
  const message = await stream.finalMessage();
  assert.equal(message.stop_reason, "end_turn");
  assert.ok(message.usage.output_tokens > 0);
  const text = events.filter((e) => e.type === "content_block_delta").map((e) => e.delta.text);
  assert.equal(text.join(""), message.content[0].text);
  const [row] = await until("the row is there", async () => (await rows()).filter((r) => r.output_tokens > 0));
  assert.equal(row.output_tokens, message.usage.output_tokens);
});

const weather = { name: "weather", description: "tells the weather", input_schema: { type: "object", properties: { city: { type: "string" } } } };
const use = { type: "tool_use", id: "toolu_01", name: "weather", input: { city: "Zürich – \u2028" }, caller: { type: "direct" } };

test("tools pass through, in the request and in the answer", async () => {
  await stage.script("", {
    status: 200,
    body: JSON.stringify({ id: "msg_1", type: "message", role: "assistant", model, content: [use], stop_reason: "tool_use", usage: { input_tokens: 1, output_tokens: 1 } }),
  });
  const body = { ...hello, tools: [weather], tool_choice: { type: "auto" } };
  const message = await client().messages.create(body);
  assert.deepEqual(message.content, [use]);
  const [seen] = await upstream();
  assert.deepEqual(JSON.parse(seen.body), body);
});

test("a streamed tool call keeps its pieces", async () => {
  const event = (type, data) => `event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`;
  const pieces = ['{"ci', 'ty": "Z\\u00fc', 'rich"}'];
  await stage.script("", {
    status: 200,
    header: { "content-type": "text/event-stream; charset=utf-8" },
    body: [
      event("message_start", { message: { id: "msg_1", type: "message", role: "assistant", model, content: [], usage: { input_tokens: 3, output_tokens: 1 } } }),
      event("content_block_start", { index: 0, content_block: { ...use, input: {} } }),
      ...pieces.map((partial_json) => event("content_block_delta", { index: 0, delta: { type: "input_json_delta", partial_json } })),
      event("content_block_stop", { index: 0 }),
      event("message_delta", { delta: { stop_reason: "tool_use" }, usage: { output_tokens: 9 } }),
      event("message_stop", {}),
    ].join(""),
  });
  const stream = client().messages.stream({ ...hello, tools: [weather] });
  const got = (await collect(stream)).filter((e) => e.delta?.type === "input_json_delta").map((e) => e.delta.partial_json);
  assert.deepEqual(got, pieces);
  assert.deepEqual((await stream.finalMessage()).content[0].input, { city: "Zürich" });
});

test("tokens are counted", async () => {
  const { max_tokens, ...body } = hello;
  assert.ok((await client().messages.countTokens(body)).input_tokens > 0);
});

test("models are listed over pages, and one is read", async () => {
  const all = await collect(client().models.list({ limit: 2 }));
  const whole = await client().models.list({ limit: 1000 });
  assert.ok(all.length > 2);
  assert.deepEqual(all.map((m) => m.id), whole.data.map((m) => m.id));
  assert.equal((await client().models.retrieve(model)).id, model);
});

test("a batch is made, read, listed and removed where it was made", async () => {
  const api = client().messages.batches;
  const made = await api.create({ requests: [{ custom_id: "one", params: hello }, { custom_id: "two", params: hello }] });
  assert.ok((await collect(api.list())).some((b) => b.id === made.id));
  await call(`${stage.admin}/accounts/${names[0]}`, "PATCH", { priority: 9 }); // others are asked first now
  assert.equal((await api.retrieve(made.id)).processing_status, "ended");
  const results = await client().get(`/v1/messages/batches/${made.id}/results`, { headers: { accept: "application/x-jsonl" } }).asResponse();
  const lines = (await results.text()).trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map((r) => [r.custom_id, r.result.type]), [["one", "succeeded"], ["two", "succeeded"]]);
  assert.equal((await api.cancel(made.id)).id, made.id);
  assert.equal((await api.delete(made.id)).id, made.id);
  await assert.rejects(api.retrieve(made.id), Anthropic.NotFoundError);
});

// The batch says where its results are, with upstream's host, and bodies are not
// rewritten: messages.batches.results() of this SDK does not come back here.
// The Go SDK's asks its base URL.
test("the SDK's own way to a batch's results leads past the balancer", async () => {
  const hosts = [];
  const watching = (url, init) => (hosts.push(new URL(url).origin), fetch(url, init));
  const api = client({ fetch: watching, maxRetries: 0 }).messages.batches;
  const made = await api.create({ requests: [{ custom_id: "one", params: hello }] });
  await assert.rejects(api.results(made.id), Anthropic.AuthenticationError);
  assert.equal(hosts.at(-1), new URL(stage.simulator).origin);
});

test("a file is uploaded, used, listed, read and removed where it was made", async () => {
  const api = client().files;
  const content = Buffer.from(Array.from({ length: 70_000 }, (_, i) => i % 256));
  const made = await api.upload({ file: await toFile(content, "notes – ü.bin", { type: "application/octet-stream" }) });
  assert.ok((await collect(api.list())).some((f) => f.id === made.id));
  await call(`${stage.admin}/accounts/${names[0]}`, "PATCH", { priority: 9 });
  assert.deepEqual(Buffer.from(await (await api.download(made.id)).arrayBuffer()), content);
  assert.equal((await api.retrieveMetadata(made.id)).size_bytes, content.length);
  const document = { type: "document", source: { type: "file", file_id: made.id } };
  const used = await client().messages.create({ ...hello, messages: [{ role: "user", content: [document] }] }).withResponse();
  assert.equal(used.response.headers.get("x-proxy-account"), names[0]);
  assert.equal((await api.delete(made.id)).id, made.id);
});

test("a stream that its user leaves is ended upstream within a second", async () => {
  await stage.script("", { do: "silent_stream" });
  const stream = await client().messages.create({ ...hello, stream: true });
  for await (const event of stream) if (event.type === "message_start") break;
  await until("upstream is told", async () => (await stage.control("GET", "counters")).cancelled === 1, 1_000);
  const [row] = await until("the row is there", async () => (await rows()).filter((r) => r.outcome === "client_gone"));
  assert.equal(row.failover_attempts, 0);
});

test("a request that its user aborts is ended upstream and asked of nobody else", async () => {
  await stage.script("", { do: "hang", times: -1 });
  const leave = new AbortController();
  const asked = client().messages.create(hello, { signal: leave.signal });
  await until("upstream has it", async () => (await stage.control("GET", "counters")).in_flight >= 1);
  leave.abort();
  await assert.rejects(asked, APIUserAbortError);
  await until("upstream is told", async () => (await stage.control("GET", "counters")).cancelled === 1);
  assert.equal((await upstream()).length, 1);
});

test("the SDK's own timeout ends the request upstream", async () => {
  await stage.script("", { do: "hang", times: -1 });
  await assert.rejects(client({ timeout: 300, maxRetries: 0 }).messages.create(hello), APIConnectionTimeoutError);
  await until("upstream is told", async () => (await stage.control("GET", "counters")).cancelled === 1);
});

test("an answer that the SDK may have compressed is readable", async () => {
  const { response, data } = await client({ defaultHeaders: { "accept-encoding": "gzip, deflate, br, zstd" } }).messages.create(hello).withResponse();
  assert.equal(response.headers.get("content-encoding"), null);
  assert.equal(data.type, "message");
  const [seen] = await upstream();
  assert.deepEqual(seen.header["Accept-Encoding"], ["identity"]);
});

test("over HTTP/2, messages and streams are the same", async () => {
  const dispatcher = new Agent({ allowH2: true, connect: { ca: await readFile(stage.caFile) } });
  after(() => dispatcher.close());
  const api = client({ fetch: undiciFetch, fetchOptions: { dispatcher } }).messages;
  assert.equal((await api.create(hello)).type, "message");
  const streams = await Promise.all(Array.from({ length: 20 }, () => collect(api.stream(hello))));
  for (const events of streams) assert.equal(events.at(-1).type, "message_stop");
  await stage.script("", { do: "cut_stream", after: 5 });
  await assert.rejects(collect(await api.create({ ...hello, stream: true })), /broke before the answer was complete/);
  await stage.script("", { do: "cut_stream", after: 5 });
  await assert.rejects(client({ fetch: undiciFetch, fetchOptions: { dispatcher }, maxRetries: 0 }).messages.create(hello));
});
