// The dashboard in a real browser, served by the real Caddy in front of the
// simulated provider.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Stage, call } from "../stage/stage.js";
import { axe, launch, live, open } from "./browser.js";

const SOON = 10_000; // ms that a change may take to be seen on a machine that has other work
const PROMISED = 2_000; // ms that it takes on one that has none
const PHONE = { viewport: { width: 360, height: 780 }, deviceScaleFactor: 2, hasTouch: true };

let stage, browser, page;

before(async () => {
  stage = await Stage.start("policy priority", "retry_delay 10ms", "session_affinity off");
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await stage?.stop();
});

// Every test starts with accounts of its own and an empty history.
beforeEach(async () => {
  await stage.freshPool();
  await call(`${stage.admin}/requests`, "DELETE");
});

// visit opens the page, runs what a test does there, and fails it if the page
// had anything to complain of.
async function visit(options, look, path = "/") {
  page = await open(browser, stage.url + path, options);
  try {
    await live(page);
    await look(page);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.context().close();
  }
}

const row = (text) => page.locator("#request-rows tr", { hasText: text });

// asked sends a message and reads its answer to the end.
async function asked(message) {
  const answer = await stage.message(message);
  await answer.text();
  return answer;
}

// names of accounts, the first is asked first.
async function pool(...members) {
  for (const [i, [name, plan, more]] of members.entries()) await stage.add(`${name}-${Date.now()}`, plan, { called: name, priority: i, ...more });
}

const noSidewaysScroll = async () => {
  const [width, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(width <= room, `the page is ${width} px wide in a window of ${room} px`);
};

const seriousFree = async (what, t) => {
  const { findings, passed } = await axe(page);
  t.diagnostic(`axe, ${what}: ${findings.length} findings, ${passed} rules passed`);
  assert.deepEqual(findings.filter((f) => ["serious", "critical"].includes(f.impact)), []);
  return findings;
};

test("the page loads with its title, at / and at /dashboard", async () => {
  for (const path of ["/", "/dashboard"]) {
    await visit({}, async () => assert.equal(await page.title(), "Claude Load Balancer Dashboard"), path);
  }
});

test("the page allows neither inline scripts nor other hosts", async () => {
  const answer = await fetch(`${stage.url}/`);
  const policy = answer.headers.get("content-security-policy");
  assert.match(policy, /default-src '(none|self)'/);
  assert.doesNotMatch(policy, /unsafe-inline|unsafe-eval|https?:|\*/);
  assert.doesNotMatch(await answer.text(), /<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=/);
});

test("without an account the page says which command adds one", async (t) => {
  await visit({}, async () => {
    await page.waitForSelector("#no-accounts:not([hidden])");
    assert.match(await page.textContent("#add-command"), /^caddy claude-balancer add /);
    await seriousFree("no account", t);
    await stage.add(`first-${Date.now()}`, "max", { called: "first" });
    await page.waitForSelector(".account h3", { timeout: SOON });
    assert.ok(await page.isHidden("#no-accounts"));
  });
});

test("a request is seen within two seconds, in table, cards and accounts", async (t) => {
  await pool(["work", "max"]);
  await visit({}, async () => {
    await page.waitForSelector(".account h3");
    const times = [];
    for (let n = 1; n <= 3; n++) {
      await asked({ model: "claude-opus-5-5", text: `Question ${n}` });
      const begin = performance.now();
      await row("claude-opus-5-5").nth(n - 1).waitFor({ timeout: SOON });
      await page.waitForFunction((n) => document.querySelector('[data-card="requests"]').textContent === String(n), n, { timeout: SOON });
      await page.waitForFunction((n) => document.querySelectorAll(".facts dd")[1].textContent === String(n), n, { timeout: SOON });
      times.push(Math.round(performance.now() - begin));
    }
    t.diagnostic(`seen after ${times.join(", ")} ms`);
    assert.ok(Math.min(...times) < PROMISED);
    assert.equal(await page.textContent(".account [data-ago]"), "just now");
    await page.waitForSelector('.windows [role="meter"]');
  });
});

test("a streamed request is counted in flight while it runs", async () => {
  await pool(["work", "max", { max_in_flight: 3 }]);
  await stage.script("", { do: "hang" });
  await visit({}, async () => {
    const inFlight = (text) =>
      page.waitForFunction((t) => document.querySelector(".facts dd")?.textContent === t, text, { timeout: SOON });
    await inFlight("0 of 3");
    const leave = new AbortController();
    stage.message({ stream: true, signal: leave.signal }).catch(() => {});
    await inFlight("1 of 3");
    leave.abort();
    await inFlight("0 of 3");
    await row("client gone").waitFor({ timeout: SOON });
  });
});

test("a limit is seen at once, with a countdown that runs", async () => {
  await pool(["work", "max"], ["spare", "max"]);
  await visit({}, async () => {
    await page.waitForSelector(".account h3");
    await stage.script("", { do: "window_5h", reset_in: "50m" });
    await asked();
    const limited = page.locator('.account[data-status="limited"]', { hasText: "work" });
    await limited.waitFor({ timeout: SOON });
    const countdown = limited.locator(".reason [data-until]");
    const first = await countdown.textContent();
    assert.match(first, /^in (49|50)\smin \d+\ss$/);
    await page.waitForFunction(([text]) => document.querySelector(".reason [data-until]").textContent !== text, [first]);
    await row("window").waitFor();
    await call(`${stage.admin}/accounts/work/clear_limits`, "POST");
    await limited.waitFor({ state: "detached", timeout: SOON });
  });
});

test("an account's change of name, plan and pause is seen at once", async () => {
  await pool(["work", "max"]);
  await visit({}, async () => {
    await page.waitForSelector(".account .opus");
    await call(`${stage.admin}/accounts/work`, "PATCH", { name: "office", plan_type: "console", paused: true });
    await page.locator('.account[data-status="paused"]', { hasText: "office" }).waitFor({ timeout: SOON });
    assert.equal(await page.locator(".account .opus").count(), 0);
  });
});

test("filters narrow the table, live rows too, and can be cleared", async () => {
  await pool(["work", "max"], ["spare", "max"]);
  await asked({ model: "claude-opus-5-5" });
  await stage.script("", { do: "bad_request_400" });
  await asked({ model: "claude-haiku-5-5" });
  await call(`${stage.admin}/accounts/work`, "PATCH", { paused: true });
  await asked();
  await visit({}, async () => {
    const shown = async (n) => {
      await page.waitForFunction((n) => document.querySelectorAll("#request-rows tr").length === n, n);
    };
    await shown(3);
    await page.selectOption("[name=account]", "spare");
    await shown(1);
    await page.selectOption("[name=account]", "");
    await shown(3);
    await page.selectOption("[name=model]", "claude-opus-5-5");
    await shown(1);
    await page.selectOption("[name=outcome]", "upstream_error");
    await shown(0);
    assert.match(await page.textContent("#requests-note"), /No request matches/);
    await page.click("#clear-filters");
    await shown(3);
    await page.selectOption("[name=outcome]", "ok");
    await shown(2);
    await stage.script("", { do: "bad_request_400" });
    await asked();
    await asked();
    await shown(3); // of the two new rows, the good one
  });
});

test("older requests are loaded by the page", async () => {
  await pool(["work", "max"]);
  for (let i = 0; i < 60; i++) await asked({ text: `Question ${i}` });
  await visit({}, async () => {
    await page.waitForFunction(() => document.querySelectorAll("#request-rows tr").length === 50);
    await page.click("#older");
    await page.waitForFunction(() => document.querySelectorAll("#request-rows tr").length === 60);
    assert.match(await page.textContent("#requests-note"), /60 shown, the whole recorded history/);
  });
});

test("a request opens with the keyboard and shows its whole way", async (t) => {
  await pool(["first", "max"], ["second", "max"], ["third", "max"]);
  await stage.script("", { do: "overloaded_529" });
  await stage.script("", { do: "server_error", status: 502 });
  const answer = await asked({ model: "claude-sonnet-5-5", stream: true });
  await visit({}, async () => {
    await row("2 · overloaded, server error").locator("button").focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog[open]");
    const way = await page.locator(".way li").allInnerTexts();
    assert.deepEqual(way.map((step) => step.split("\n").slice(0, 2)), [["first", "529 overloaded"], ["second", "502 server error"], ["third", "200 ok"]]);
    const details = await page.textContent("#request-dialog-body");
    assert.ok(details.includes(answer.headers.get("x-request-id")));
    assert.ok(details.includes(answer.headers.get("request-id")));
    await seriousFree("an open request", t);
    await page.keyboard.press("Escape");
    assert.ok(await page.evaluate(() => document.activeElement.closest("#request-rows") != null), "the focus is lost");
  });
});

test("the page says how a request would be routed", async () => {
  await pool(["office", "console"], ["work", "max"]);
  await visit({}, async () => {
    await page.fill("#explain [name=model]", "claude-opus-5-5");
    await page.keyboard.press("Enter");
    await page.locator('#candidates li[data-mark="chosen"]', { hasText: "work" }).waitFor();
    await page.locator('#candidates li[data-mark="not eligible"]', { hasText: "office" }).waitFor();
    assert.match(await page.textContent("#explain-note"), /claude-opus-5-5 \(family opus\) would go to work now/);
  });
});

test("charts show requests and tokens, and the same as a table", async () => {
  await pool(["work", "max"]);
  for (let i = 0; i < 3; i++) await asked();
  await visit({}, async () => {
    await page.waitForSelector(".uplot");
    const chart = page.locator("figure", { hasText: "Requests by Outcome" });
    assert.match(await chart.locator("[role=img]").getAttribute("aria-label"), /ok 3/);
    await chart.locator("summary").click();
    await chart.locator("tbody td", { hasText: "3" }).waitFor();
    await page.check('[name=range][value="30d"]', { force: true });
    await page.waitForFunction(() => document.querySelector("#trends-note").textContent === "by the day");
  });
});

test("the page survives a restart of the server by itself", async () => {
  await pool(["work", "max"]);
  await asked({ text: "before" });
  await visit({}, async () => {
    await page.waitForSelector("#request-rows tr");
    await stage.stopCaddy();
    await page.waitForSelector('#connection[data-state="offline"]');
    await page.waitForSelector("#problem:not([hidden])");
    assert.match(await page.textContent("#problem"), /does not answer/);
    await stage.startCaddy();
    await live(page);
    await page.waitForSelector("#problem", { state: "hidden" });
    await asked({ model: "claude-haiku-5-5" });
    await row("claude-haiku-5-5").waitFor({ timeout: SOON });
    assert.equal(await page.locator("#request-rows tr").count(), 2);
  });
});

test("the page survives a reload of the configuration", async () => {
  await pool(["work", "max"]);
  await visit({}, async () => {
    await page.waitForSelector(".account h3");
    const config = await call(new URL("/config/", stage.admin).href);
    await call(new URL("/load", stage.admin).href, "POST", { ...config, logging: { logs: { default: { level: "WARN" } } } });
    await live(page);
    await asked({ model: "claude-haiku-5-5" });
    await row("claude-haiku-5-5").waitFor({ timeout: 10_000 });
  });
});

test("the page is dark where the system is, and by its own switch", async (t) => {
  await pool(["work", "max"]);
  await asked();
  const brightness = () =>
    page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).reduce((sum, c) => sum + Number(c), 0) / 3);
  await visit({ colorScheme: "dark" }, async () => {
    await page.waitForSelector(".uplot");
    assert.ok((await brightness()) < 60);
    await seriousFree("dark", t);
  });
  await visit({ colorScheme: "light" }, async () => {
    assert.ok((await brightness()) > 200);
    await page.click("#theme");
    await page.click("#theme");
    assert.ok((await brightness()) < 60);
    await page.reload();
    assert.ok((await brightness()) < 60, "the choice was forgotten");
  });
});

test("the page fits a phone of 360 pixels", async (t) => {
  await pool(["a-name-of-an-account-that-is-rather-long@accounts.example.com", "max"], ["spare", "console"]);
  await stage.script("", { do: "window_5h" });
  await asked();
  await visit(PHONE, async () => {
    await page.waitForSelector(".uplot");
    await noSidewaysScroll();
    await seriousFree("360 px", t);
    await row("1 · window").locator("button").tap();
    await page.waitForSelector("dialog[open]");
    await noSidewaysScroll();
    await seriousFree("an open request at 360 px", t);
  });
  await visit({ ...PHONE, colorScheme: "dark" }, async () => {
    await page.waitForSelector(".uplot");
    await seriousFree("360 px, dark", t);
  });
});

test("axe has no serious finding on the page in use", async (t) => {
  await pool(["work", "max"], ["spare", "console"], ["key", "api"]);
  await call(`${stage.admin}/accounts/spare`, "PATCH", { paused: true });
  await stage.script("", { do: "window_5h" });
  await asked({ model: "claude-opus-5-5" });
  await asked({ model: "claude-nobody-1" });
  await visit({}, async () => {
    await page.waitForSelector(".uplot");
    for (const summary of await page.locator("#trends summary:visible").all()) await summary.click();
    await page.fill("#explain [name=model]", "claude-opus-5-5");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#candidates li");
    const findings = await seriousFree("in use", t);
    for (const f of findings) t.diagnostic(`${f.impact}: ${f.rule} at ${f.where.join(", ")}`);
  });
});

test("no name, model or path of a request becomes markup", async () => {
  const markup = ['<img src=x onerror="pwned=1">', "<script>pwned=1</script>", '"><svg onload=pwned=1>', "javascript:pwned=1", "{{pwned}}${pwned}", "__proto__"];
  await pool(...markup.map((name) => [name, "max"]));
  for (const name of markup) {
    await stage.script("", { status: 400, body: JSON.stringify({ type: "error", error: { type: "invalid_request_error", message: name } }) });
    await asked({ model: name });
    await stage.script("", { do: "window_5h" });
    await asked({ model: `claude-opus-${name}`, headers: { "x-claude-code-session-id": name } });
    await asked({ path: `/v1/messages/${encodeURIComponent(name)}` });
  }
  await visit({}, async () => {
    await page.waitForSelector(".uplot");
    for (const name of markup) {
      await page.locator(".account h3", { hasText: name }).first().waitFor();
      await page.locator("#request-rows .model", { hasText: name }).first().waitFor();
    }
    for (const button of (await page.locator("#request-rows button").all()).slice(0, 18)) {
      await button.click();
      await page.waitForSelector("dialog[open]");
      await page.keyboard.press("Escape");
    }
    await page.fill("#explain [name=model]", markup[0]);
    await page.fill("#explain [name=session]", markup[1]);
    await page.keyboard.press("Enter");
    await page.waitForSelector("#candidates li");
    await page.check('[name=usage-by][value="by_account"]', { force: true });
    for (const summary of await page.locator("#trends summary:visible").all()) await summary.click();
    assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
    assert.equal(await page.locator("main :is(img, script, iframe, object), dialog :is(img, script), main a[href^=javascript]").count(), 0);
    assert.equal(await page.evaluate(() => ({}).constructor === Object && Object.keys(Object.prototype).length), 0);
    await noSidewaysScroll();
  });
});

test("a page left open through many requests stays bounded", async () => {
  await pool(["work", "max"]);
  await visit({}, async () => {
    await page.waitForSelector(".account h3");
    for (let i = 0; i < 12; i++) await Promise.all(Array.from({ length: 50 }, (_, k) => asked({ text: `${i} ${k}` })));
    await page.waitForFunction(() => document.querySelectorAll("#request-rows tr").length === 500, null, { timeout: 10_000 });
    await sleep(500); // rows that are on their way
    assert.equal(await page.locator("#request-rows tr").count(), 500);
  });
});
