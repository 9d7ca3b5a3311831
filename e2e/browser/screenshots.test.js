// The pictures of the documentation can be taken from this checkout.

import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_BYTES, take } from "./screenshots.js";

test("the documentation's pictures can be taken and are small", async (t) => {
  const sizes = await take(new URL("../test-results/", import.meta.url).pathname);
  t.diagnostic(JSON.stringify(sizes));
  assert.deepEqual(Object.keys(sizes).sort(), ["dashboard", "dashboard-dark", "dashboard-phone", "device", "device-dark", "device-phone"]);
  for (const bytes of Object.values(sizes)) assert.ok(bytes > 15_000 && bytes < MAX_BYTES);
});
