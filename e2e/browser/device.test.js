// The page on which a person approves a sign-in of Claude Code, in a real
// browser, with a client beside it that signs in as RFC 8628 has it.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { Stage, call } from "../stage/stage.js";
import { axe, launch, open } from "./browser.js";

const PHONE = { viewport: { width: 360, height: 780 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
const DARK = { colorScheme: "dark" };

let stage, browser, page, key, device;

before(async () => {
  stage = await Stage.start("sign_in {", "users {http.request.header.X-User}", "}");
  await stage.add("work", "max");
  key = (await call(`${stage.admin}/keys`, "POST", { name: "laptop" })).key;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await stage?.stop();
});

const form = async (path, fields) => {
  const answer = await fetch(stage.url + path, { method: "POST", body: new URLSearchParams(fields) });
  return { status: answer.status, ...(await answer.json()) };
};

// Every test has a client that waits for its approval.
beforeEach(async () => {
  device = await form("/oauth/device_authorization", { surface: "claude_code" });
  assert.equal(device.status, 200);
});

const poll = () => form("/oauth/token", { grant_type: "urn:ietf:params:oauth:grant-type:device_code", device_code: device.device_code });

// visit opens the page as Claude Code does, and fails the test if the page had
// anything to complain of.
async function visit(options, look, url = device.verification_uri_complete) {
  page = await open(browser, url, options);
  try {
    await look(page);
    assert.deepEqual(page.complaints, []);
  } finally {
    await page.context().close();
  }
}

const heading = (text) => page.getByRole("heading", { level: 1, name: text }).waitFor();

const focused = () => page.evaluate(() => document.activeElement.name || document.activeElement.id);

const fine = async (what, t) => {
  const { findings, passed } = await axe(page);
  t.diagnostic(`axe, ${what}: ${findings.length} findings, ${passed} rules passed`);
  assert.deepEqual(findings, []);
  const [width, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(width <= room, `the page is ${width} px wide in a window of ${room} px`);
};

test("a person signs Claude Code in with the keyboard alone", async () => {
  await visit({}, async () => {
    assert.equal(await page.getByLabel("Code", { exact: true }).inputValue(), device.user_code);
    assert.equal(await focused(), "key");
    await page.keyboard.type(key);
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.value), "approve");
    const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineWidth);
    assert.equal(ring, "2px");
    assert.equal((await poll()).error, "authorization_pending");
    await page.keyboard.press("Enter");
    await heading("Claude Code is signed in");
    await page.getByText("laptop").waitFor();
  });
  const tokens = await poll();
  assert.equal(tokens.token_type, "Bearer");
  const answer = await stage.message({ headers: { authorization: `Bearer ${tokens.access_token}` } });
  assert.equal(answer.status, 200);
});

test("a person types the code, and denies", async () => {
  await visit(
    {},
    async () => {
      assert.equal(await focused(), "user_code");
      await page.keyboard.type(device.user_code.toLowerCase().replace("-", " "));
      await page.keyboard.press("Tab");
      await page.keyboard.type(key);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.value), "deny");
      await page.keyboard.press("Space");
      await heading("The sign-in was denied");
    },
    device.verification_uri,
  );
  assert.equal((await poll()).error, "access_denied");
});

test("a user who is authenticated in front approves without a key", async () => {
  await visit({ extraHTTPHeaders: { "X-User": "alice@example.com" } }, async () => {
    await page.getByText("You are alice@example.com.").waitFor();
    assert.equal(await page.getByLabel("Client key").count(), 0);
    await page.getByRole("button", { name: "Approve" }).click();
    await heading("Claude Code is signed in");
  });
  assert.equal((await poll()).email, "alice@example.com");
});

test("a wrong key and a wrong code are said, and the rest stays", async (t) => {
  await visit({}, async () => {
    await page.keyboard.type("cb_wrong");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").filter({ hasText: "This client key is not good" }).waitFor();
    assert.equal(await page.getByLabel("Code", { exact: true }).inputValue(), device.user_code);
    assert.equal(await page.getByLabel("Client key").inputValue(), "");
    assert.equal(await focused(), "key");
    await fine("a wrong key", t);
    await page.getByLabel("Code", { exact: true }).fill("BBBB-BBBB");
    await page.getByLabel("Client key").fill(key);
    await page.keyboard.press("Enter");
    await page.getByRole("alert").filter({ hasText: "No sign-in waits under this code" }).waitFor();
    await fine("a wrong code", t);
  });
  assert.equal((await poll()).error, "authorization_pending");
});

test("the page does nothing by itself and needs no script", async () => {
  await visit({ javaScriptEnabled: true }, async () => {
    await page.waitForLoadState("networkidle");
    await page.reload();
    await page.waitForLoadState("networkidle");
    assert.equal(await page.evaluate(() => document.scripts.length), 0);
  });
  assert.equal((await poll()).error, "authorization_pending");
  await visit({ javaScriptEnabled: false }, async () => {
    await page.getByLabel("Client key").fill(key);
    await page.getByRole("button", { name: "Approve" }).click();
    await heading("Claude Code is signed in");
  });
  assert.ok((await poll()).access_token);
});

for (const [name, options] of Object.entries({ light: {}, dark: DARK, phone: PHONE, "phone, dark": { ...PHONE, ...DARK } })) {
  test(`everybody can read the page: ${name}`, async (t) => {
    await visit(options, async () => {
      await fine("the form", t);
      const { background, scheme, size } = await page.evaluate(() => ({
        background: getComputedStyle(document.body).backgroundColor,
        scheme: matchMedia("(prefers-color-scheme: dark)").matches,
        size: [...document.querySelectorAll("button, input")].map((e) => e.getBoundingClientRect().height),
      }));
      assert.equal(background, scheme ? "rgb(20, 19, 17)" : "rgb(245, 244, 240)"); // the dashboard's
      assert.ok(size.every((height) => height >= 40), `${size}`);
      await page.getByLabel("Client key").fill(key);
      await page.getByRole("button", { name: "Approve" }).click();
      await heading("Claude Code is signed in");
      await fine("approved", t);
    });
  });
}

test("another site can neither send the form nor frame the page", async () => {
  const fields = { user_code: device.user_code, decision: "approve", key };
  const inputs = Object.entries(fields).map(([name, value]) => `<input name="${name}" value="${value}">`);
  const server = createServer((_, answer) => {
    answer.setHeader("content-type", "text/html");
    answer.end(`<title>evil</title><form method="post" action="${stage.url}/device">${inputs.join("")}</form><iframe src="${device.verification_uri_complete}"></iframe>`);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const context = await browser.newContext({ extraHTTPHeaders: { "X-User": "alice" } }); // as a browser that authenticates by itself
  try {
    const evil = await context.newPage();
    const blocked = evil.waitForEvent("console", (message) => /frame-ancestors|X-Frame-Options/.test(message.text()));
    await evil.goto(`http://127.0.0.1:${server.address().port}/`);
    await blocked;
    const [answer] = await Promise.all([evil.waitForNavigation(), evil.evaluate(() => document.forms[0].submit())]);
    assert.equal(answer.status(), 403);
  } finally {
    await context.close();
    server.close();
  }
  assert.equal((await poll()).error, "authorization_pending");
});
