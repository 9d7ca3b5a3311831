// Takes the pictures of the dashboard and of the sign-in page: node browser/screenshots.js <folder>
// The pool on them has a past of a month, made up by ../seed.

import { execFileSync } from "node:child_process";
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Stage, bin, call, until } from "../stage/stage.js";
import { launch, live, open } from "./browser.js";

export const MAX_BYTES = 300_000;
const WORKING_HOUR = 16; // on the pictures it is always this time of the day

// The time zone in which it is a working hour now; the sign of these names is
// reversed.
const offset = ((WORKING_HOUR - new Date().getUTCHours() + 36) % 24) - 12;
const timezoneId = offset === 0 ? "UTC" : `Etc/GMT${offset > 0 ? "-" : "+"}${Math.abs(offset)}`;

const pictures = {
  dashboard: { viewport: { width: 1280, height: 1660 } },
  "dashboard-dark": { viewport: { width: 1280, height: 1660 }, colorScheme: "dark" },
  "dashboard-phone": { viewport: { width: 390, height: 1400 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
};

const devicePictures = {
  device: { viewport: { width: 760, height: 640 }, deviceScaleFactor: 2 },
  "device-dark": { viewport: { width: 760, height: 640 }, deviceScaleFactor: 2, colorScheme: "dark" },
  "device-phone": { viewport: { width: 390, height: 720 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
};

// perform puts the stage into a state that shows what the page can show.
async function perform(stage) {
  await stage.add("work", "max", { max_in_flight: 8 });
  await stage.add("home", "console");
  await stage.add("team-api", "api");
  await stage.stopCaddy();
  execFileSync(bin("seed"), ["-db", stage.database, "-utc-offset", String(offset)], { stdio: "inherit" });
  await stage.startCaddy();
  await call(`${stage.admin}/accounts/home`, "PATCH", { priority: -1 });
  await stage.script("home", { do: "window_5h", reset_in: "47m" });
  await stage.script("", { do: "hang", times: -1 });
  const leave = new AbortController();
  for (let i = 0; i < 3; i++) stage.message({ text: `Conversation ${i}`, signal: leave.signal }).catch(() => {});
  await until("requests are under way", async () => (await call(`${stage.admin}/accounts`)).reduce((n, a) => n + a.in_flight, 0) === 3);
  return () => leave.abort();
}

// take resolves to the sizes of the pictures in bytes.
export async function take(folder) {
  await mkdir(folder, { recursive: true });
  const stage = await Stage.start("policy priority", "sign_in on");
  const sizes = {};
  let browser;
  try {
    browser = await launch();
    const leave = await perform(stage);
    for (const [name, options] of Object.entries(pictures)) {
      const page = await open(browser, `${stage.url}/`, { ...options, timezoneId, locale: "en-US" });
      await live(page);
      await page.waitForSelector(".uplot");
      await page.waitForFunction(() => !document.querySelector("[aria-busy]"));
      const path = join(folder, `${name}.png`);
      await page.screenshot({ path, animations: "disabled" });
      sizes[name] = (await stat(path)).size;
      await page.context().close();
    }
    leave();
    for (const [name, options] of Object.entries(devicePictures)) {
      const page = await open(browser, `${stage.url}/device?user_code=WDJB-MJHT`, options);
      const path = join(folder, `${name}.png`);
      await page.screenshot({ path, animations: "disabled" });
      sizes[name] = (await stat(path)).size;
      await page.context().close();
    }
  } finally {
    await browser?.close();
    await stage.stop();
  }
  return sizes;
}

if (import.meta.filename === process.argv[1]) console.log(await take(process.argv[2] ?? "test-results"));
