// Debian's Chromium, driven by Playwright.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";

// launch starts a browser of its own with an empty profile. Without a sandbox,
// since continuous integration runs as root, and without calls home.
export const launch = () =>
  chromium.launch({
    executablePath,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });

// open opens a page in a context of its own. Its `complaints` collect what no
// test may see: errors, warnings, and requests to any other host.
export async function open(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, locale: "en-US", ...options });
  const complaints = [];
  const { origin } = new URL(url);
  context.on("request", (request) => {
    const target = new URL(request.url());
    if (target.origin !== origin && target.protocol !== "data:") complaints.push(`request to ${target.origin}`);
  });
  const page = await context.newPage();
  page.complaints = complaints;
  page.on("pageerror", (problem) => complaints.push(`uncaught: ${problem.message}`));
  page.on("console", (message) => {
    // A server that is gone on purpose is no fault of the page.
    const expected = /ERR_CONNECTION_|ERR_INCOMPLETE_CHUNKED|Failed to load resource/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !expected) complaints.push(`console: ${message.text()}`);
  });
  await page.goto(url);
  return page;
}

export const live = (page) => page.waitForSelector('#connection[data-state="live"]');

const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// axe returns the findings of WCAG 2.2 A and AA and of good practice.
export async function axe(page) {
  await page.evaluate(source);
  const { violations, passes } = await page.evaluate(() =>
    globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }),
  );
  const findings = violations.map((v) => ({ rule: v.id, impact: v.impact, where: v.nodes.map((n) => n.target.join(" ")) }));
  return { findings, passed: passes.length };
}
