// Prints what the SDKs report for each verdict, as their tests wrote it down.

import { readFile } from "node:fs/promises";

const results = (name) => new URL(`../test-results/verdicts-${name}.json`, import.meta.url);
const [ts, go] = await Promise.all(["ts", "go"].map(async (name) => JSON.parse(await readFile(results(name), "utf8"))));

// told is one SDK's report: what it throws, and how often it asked.
function told(results, name, from) {
  const r = results.find((r) => r.name === name && r.from === from);
  if (!r) return "";
  if (!r.thrown) return r.requests === 1 ? "answer" : `answer ×${r.requests}`;
  return `${r.thrown.replace("*anthropic.Error", "Error")} ${r.status} ${r.type} ×${r.requests}`;
}

const names = [...new Set(ts.map((r) => r.name))];
const lines = names.map((name) => {
  const { retryAfter, shouldRetry, message = "" } = ts.findLast((r) => r.name === name);
  const said = message.length > 60 ? `${message.slice(0, 59)}…` : message;
  return [name, told(ts, name, "one"), told(go, name, "one"), told(ts, name, "all"), told(go, name, "all"), retryAfter ?? "", shouldRetry ?? "", said];
});
lines.unshift(["upstream's answer", "from the first account: TypeScript", "Go", "from every account: TypeScript", "Go", "Retry-After", "x-should-retry", "message"]);
const widths = lines[0].map((_, i) => Math.max(...lines.map((line) => line[i].length)));
const text = lines.map((line) => `| ${line.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |`);
text.splice(1, 0, `|${widths.map((w) => "-".repeat(w + 2)).join("|")}|`);
console.log(text.join("\n"));
