// Each verdict as the TypeScript SDK reports it to its user: the error's class,
// status, type and message, and how often the SDK asked.

import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { after, test } from "node:test";
import { call } from "../stage/stage.js";
import { client as plain, collect, hello, model, stage, watched } from "./client.js";

const cases = JSON.parse(await readFile(new URL("../verdicts/cases.json", import.meta.url), "utf8"));
const results = [];

after(async () => {
  await mkdir(new URL("../test-results/", import.meta.url), { recursive: true });
  await writeFile(new URL("../test-results/verdicts-ts.json", import.meta.url), JSON.stringify(results, null, 1));
});

async function ask(c) {
  const apiKey = c.issue ? await issued(c) : c.key;
  const { client, seen } = watched({ ...(apiKey && { apiKey }), ...(c.down && { defaultHeaders: { "x-upstream": "down" } }) });
  const body = { model: c.model ?? model, messages: [{ role: "user", content: "Hello" + "!".repeat(c.padding ?? 0) }] };
  try {
    if (c.count) await client.messages.countTokens(body);
    else if (c.stream) await collect(await client.messages.create({ ...body, max_tokens: 64, stream: true }));
    else await client.messages.create({ ...body, max_tokens: 64 });
  } catch (problem) {
    // What an event of a running stream says has no status: the answer had its own.
    const status = problem.status ?? (c.stream && problem.type ? 200 : null);
    return { ...seen, thrown: problem.constructor.name, status, type: problem.type, message: problem.apiMessage ?? problem.message, requestID: problem.requestID };
  }
  return seen;
}

// issued is a client key with the limits of the case, after some requests.
async function issued({ issue, before = 0 }) {
  const name = `case-${results.length}-${process.pid}`;
  const { key } = await call(`${stage.admin}/keys`, "POST", { name, ...issue });
  for (let i = 0; i < before; i++) await plain({ apiKey: key }).messages.create(hello);
  return key;
}

for (const c of cases) {
  for (const from of ["one", "all"]) {
    const expected = c[from];
    if (!expected) continue;
    test(`${c.name}, from ${from === "one" ? "the first account" : "every account"}`, async () => {
      const names = await stage.freshPool(...(c.pool ?? ["max", "max"]));
      const [first] = names;
      for (const name of from === "one" ? [first] : names) {
        for (const action of c.act ?? []) await stage.control("POST", `accounts/${name}/${action}`);
      }
      if (c.step) await stage.script(from === "one" ? first : "", { ...c.step, times: from === "all" ? (c.times ?? -1) : -1 });
      const got = await ask(c);
      results.push({ name: c.name, from, ...got });

      const { requests = 1, message, ...error } = expected;
      assert.equal(got.requests, requests, `${got.requests} requests: ${got.message}`);
      assert.deepEqual({ status: got.status, type: got.type }, { status: error.status, type: error.type });
      if (message) assert.match(got.message, new RegExp(message));
      if (error.status >= 400) assert.match(got.requestID ?? "", /./, "the error has no request id");
    });
  }
}
