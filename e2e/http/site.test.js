// What clients ask before and beside messages, and whether it is fast and
// disturbs nothing.

import assert from "node:assert/strict";
import http2 from "node:http2";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { after, before, beforeEach, test } from "node:test";
import { Stage, call } from "../stage/stage.js";

let stage;
before(async () => {
  stage = await Stage.start("access keys", "policy priority");
});
after(() => stage?.stop());

let names, key;
beforeEach(async () => {
  names = await stage.freshPool("max", "max");
  for (const { name } of await call(`${stage.admin}/keys`)) await call(`${stage.admin}/keys/${name}`, "DELETE");
  ({ key } = await call(`${stage.admin}/keys`, "POST", { name: "tester" }));
});

const withKey = (headers = {}) => ({ "x-api-key": key, "anthropic-version": "2023-06-01", ...headers });

test("HEAD / and HEAD /api/hello answer 200 without a key", async () => {
  for (const path of ["/", "/api/hello"]) {
    const answer = await fetch(stage.url + path, { method: "HEAD" });
    assert.equal(answer.status, 200, path);
  }
  assert.equal((await fetch(`${stage.url}/`)).status, 401);
  assert.equal((await fetch(`${stage.url}/v1/models`)).status, 401);
});

test("the list of a thousand models comes in well under three seconds, without a redirect", async () => {
  const begin = performance.now();
  const answer = await fetch(`${stage.url}/v1/models?limit=1000`, { headers: withKey(), redirect: "error" });
  const { data } = await answer.json();
  const took = performance.now() - begin;
  assert.ok(took < 3_000, `${took} ms`);
  assert.ok(data.length > 0 && data.every((m) => /^(claude|anthropic)/.test(m.id)));
});

test("27 counts of tokens at once disturb no message", async (t) => {
  await stage.script("", { path: "/v1/messages/count_tokens", do: "burst", retry_after: "30s", times: -1 });
  const message = () => stage.message({ headers: withKey(), text: "the same conversation" });
  assert.equal((await message()).headers.get("x-proxy-account"), names[0]);
  const counts = Array.from({ length: 27 }, () => stage.message({ headers: withKey(), path: "/v1/messages/count_tokens" }));
  const during = await message();
  assert.equal(during.status, 200);
  assert.equal(during.headers.get("x-proxy-account"), names[0]);
  const statuses = (await Promise.all(counts)).map((r) => r.status);
  assert.deepEqual(new Set(statuses), new Set([429]));
  assert.equal((await message()).headers.get("x-proxy-account"), names[0]);
  for (const a of await call(`${stage.admin}/accounts`)) {
    assert.deepEqual([a.status, a.limits], ["available", []]);
    t.diagnostic(`${a.name}: ${a.request_count} requests`);
  }
});

test("27 counts of tokens at once are all answered", async () => {
  const counts = await Promise.all(
    Array.from({ length: 27 }, (_, i) => stage.message({ headers: withKey(), path: "/v1/messages/count_tokens", text: "word ".repeat(i) })),
  );
  const tokens = await Promise.all(counts.map(async (r) => (await r.json()).input_tokens));
  assert.ok(tokens.every((n, i) => i === 0 || n >= tokens[i - 1]), `${tokens}`);
});

test("over HTTP/2 one connection carries many requests, and HEAD and OPTIONS answer", async () => {
  const connection = http2.connect(stage.secureUrl, { ca: await readFile(stage.caFile) });
  const ask = async (headers, body) => {
    const request = connection.request(headers);
    request.end(body);
    const [answer] = await once(request, "response");
    request.resume();
    await once(request, "end");
    return answer[":status"];
  };
  const body = JSON.stringify({ model: "claude-sonnet-5-5", max_tokens: 9, stream: true, messages: [{ role: "user", content: "Hello" }] });
  const message = { ":method": "POST", ":path": "/v1/messages", "content-type": "application/json", ...withKey() };
  try {
    assert.deepEqual(new Set(await Promise.all(Array.from({ length: 50 }, () => ask(message, body)))), new Set([200]));
    assert.equal(await ask({ ":method": "HEAD", ":path": "/" }), 200);
    assert.equal(await ask({ ":method": "OPTIONS", ":path": "/v1/messages" }), 204);
  } finally {
    connection.close();
  }
});
