// The accounts: plan, models, state, windows and counters of each.

import { byId, el, setText } from "./dom.js";
import { ago, allTokens, compact, count, dollars, fullTime, hasOpus, percent, planName, sentence, shortTime, until, windowName, words } from "./format.js";

const shown = new Map(); // id → { text, node }: an unchanged account keeps its element

export function showAccounts(accounts) {
  const list = byId("account-list");
  const sorted = accounts.toSorted((a, b) => a.name.localeCompare(b.name));
  const nodes = sorted.map((account) => {
    const text = JSON.stringify(account);
    const known = shown.get(account.id);
    if (known?.text === text) return known.node;
    const node = accountCard(account);
    shown.set(account.id, { text, node });
    return node;
  });
  for (const id of shown.keys()) {
    if (!accounts.some((a) => a.id === id)) shown.delete(id);
  }
  if (nodes.length !== list.children.length || nodes.some((n, i) => n !== list.children[i])) list.replaceChildren(...nodes);

  list.hidden = accounts.length === 0;
  list.removeAttribute("aria-busy");
  byId("no-accounts").hidden = accounts.length > 0;
  setText(byId("accounts-note"), summary(accounts));
}

function summary(accounts) {
  const states = new Map();
  for (const { status } of accounts) states.set(status, (states.get(status) ?? 0) + 1);
  return [...states].map(([status, n]) => `${n} ${words(status)}`).join(", ");
}

function accountCard(a) {
  const id = `account-${a.id}`;
  return el(
    "li",
    {},
    el(
      "article",
      { class: "account", "aria-labelledby": id, "data-status": a.status },
      el(
        "header",
        {},
        el("h3", { id, title: a.name }, a.name),
        el("span", { class: "badge" }, planName(a.plan_type)),
        hasOpus(a.supported_models) && el("span", { class: "badge opus" }, "Opus"),
        el("span", { class: "state" }, sentence(words(a.status))),
      ),
      reason(a),
      a.windows.length ? el("ul", { class: "windows" }, a.windows.map(windowBar)) : el("p", { class: "faint" }, a.kind === "api_key" ? "Paid by use: no usage window." : "No usage window reported yet."),
      scopedLimits(a),
      el("dl", { class: "facts" }, facts(a)),
      el("ul", { class: "models", "aria-label": "Supported models" }, patterns(a.supported_models)),
    ),
  );
}

const countdown = (at) => el("span", { "data-until": at }, until(at));

// reason is the state in words: why it is not available, and until when.
function reason(a) {
  if (a.status === "available") return null;
  const parts = [sentence(a.status_reason || words(a.status))];
  if (a.available_at != null) parts.push(` · until ${shortTime(a.available_at)}, `, countdown(a.available_at));
  return el("p", { class: "reason" }, parts);
}

function scopedLimits(a) {
  const limits = a.limits.filter((l) => l.scope !== "account");
  if (!limits.length) return null;
  return el(
    "ul",
    { class: "limits" },
    limits.map((l) =>
      el("li", {}, el("b", {}, l.family ?? l.scope), ` not used until ${shortTime(l.until)}, `, countdown(l.until), ` · ${words(l.cause)}`),
    ),
  );
}

function windowBar(w) {
  const name = windowName(w.name);
  const used = w.utilization ?? 0;
  const fill = el("span");
  fill.style.width = `${Math.min(100, Math.max(0, used * 100))}%`;
  const level = used >= 0.9 || w.status === "rejected" ? "high" : used >= 0.7 ? "raised" : "low";
  return el(
    "li",
    { "data-level": level },
    el("span", { class: "window-name" }, name),
    el(
      "span",
      { class: "bar", role: "meter", "aria-label": `${name} used`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.min(100, Math.round(used * 100)), "aria-valuetext": w.utilization == null ? "unknown" : percent(used) },
      fill,
    ),
    el("span", { class: "window-used" }, percent(w.utilization)),
    el("span", { class: "window-reset" }, w.resets_at == null ? "" : ["resets ", el("span", { "data-until": w.resets_at, title: fullTime(w.resets_at) }, until(w.resets_at))]),
  );
}

function facts(a) {
  const lines = [
    ["In flight", a.max_in_flight ? `${count(a.in_flight)} of ${count(a.max_in_flight)}` : count(a.in_flight)],
    ["Requests", count(a.request_count)],
    ["Last used", a.last_used == null ? "never" : el("span", { "data-ago": a.last_used, title: fullTime(a.last_used) }, ago(a.last_used))],
    ["Token", token(a)],
    ["Tokens", compact(allTokens(a.tokens))],
    ["Cost", dollars(a.cost_usd)],
  ];
  return lines.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

function token(a) {
  if (a.kind === "api_key") return a.token_valid ? "API key" : "API key, refused";
  if (!a.token_valid) return a.status === "needs_login" ? "dead" : "expired";
  if (a.expires_at == null) return "valid";
  return ["valid, ends ", el("span", { "data-until": a.expires_at, title: fullTime(a.expires_at) }, until(a.expires_at))];
}

function patterns(list) {
  const all = list.split(",").map((p) => p.trim()).filter(Boolean);
  const rest = all.length > 1 ? "any other" : "every model";
  return all.map((p) => el("li", {}, p === "*" ? rest : p));
}
