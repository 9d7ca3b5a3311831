// The cards on top and the usage table: both are views of /api/stats.

import { byId, el, setText } from "./dom.js";
import { allTokens, cacheRate, compact, count, dollars, milliseconds, percent, planName } from "./format.js";

function card(name, value, sub) {
  setText(document.querySelector(`[data-card="${name}"]`), value);
  setText(document.querySelector(`[data-sub="${name}"]`), sub);
}

export function showCards(stats, accounts) {
  const some = stats.totalRequests > 0;
  const { opus, tokens } = stats;
  const available = accounts.filter((a) => a.status === "available").length;

  card("requests", count(stats.totalRequests), opus.requests ? `${count(opus.requests)} for Opus` : "none for Opus");
  card("success", some ? percent(stats.successRate / 100) : "–", opus.requests ? `Opus ${percent(opus.successRate / 100)}` : "");
  card("accounts", count(stats.activeAccounts), `${count(available)} of ${count(accounts.length)} available now`);
  card("response", some ? milliseconds(stats.avgResponseTime) : "–", "to the first byte");
  card("tokens", compact(allTokens(tokens)), cacheRate(tokens) == null ? "" : `${percent(cacheRate(tokens))} from cache`);
  card("cost", dollars(stats.cost_usd), stats.unpriced.length ? `${stats.unpriced.length} unpriced` : "at API list prices");
  byId("cards").removeAttribute("aria-busy");
}

const columns = { by_model: "Model", by_account: "Account", by_plan: "Plan", by_key: "Client key" };

export function showUsage(stats, by) {
  setText(byId("usage-column"), columns[by]);
  const lines = Object.entries(stats[by] ?? {}).sort(([, a], [, b]) => b.requests - a.requests);
  const rows = lines.map(([name, use]) => usageRow(by === "by_plan" ? planName(name) : name, use, by === "by_model" && stats.unpriced.includes(name)));
  byId("usage-rows").replaceChildren(
    ...(rows.length ? rows : [el("tr", {}, el("td", { colspan: 8, class: "loading" }, "Nothing was used in this time range."))]),
  );
}

function usageRow(name, { requests, errors, tokens, cost_usd }, unpriced) {
  const writes = tokens.cache_write_5m + tokens.cache_write_1h;
  const numbers = [count(requests), count(errors), compact(tokens.input), compact(tokens.output), compact(tokens.cache_read), compact(writes), unpriced ? "no price known" : dollars(cost_usd)];
  return el("tr", {}, el("th", { scope: "row" }, name || "(none)"), numbers.map((n) => el("td", { class: "num" }, n)));
}
