// The whole way of one request: every try with its cause and time, then all
// that was recorded.

import { byId, el } from "./dom.js";
import { count, dollars, fullTime, milliseconds, planName, words } from "./format.js";

const dialog = byId("request-dialog");

byId("request-dialog-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (e) => {
  if (e.target === dialog) dialog.close(); // the backdrop
});

export function openRequest(r) {
  byId("request-dialog-body").replaceChildren(
    el("p", { class: "lead", "data-outcome": r.outcome }, el("span", { class: "outcome-mark" }, r.status_code || "–", " ", el("span", {}, words(r.outcome))), el("code", {}, `${r.method} ${r.path}`)),
    el("h3", {}, "Way through the pool"),
    way(r),
    ...(r.error_message ? [el("h3", {}, "Error"), el("pre", { tabindex: 0 }, r.error_message)] : []),
    el("h3", {}, "Details"),
    el("dl", { class: "details" }, details(r)),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

function way(r) {
  if (!r.attempts.length) return el("p", { class: "faint" }, "No account was tried.");
  const longest = Math.max(1, ...r.attempts.map((a) => a.ms));
  return el(
    "ol",
    { class: "way" },
    r.attempts.map((a) => {
      const bar = el("span", { class: "try-bar", "aria-hidden": "true" }, el("span"));
      bar.firstChild.style.width = `${Math.max(1, (a.ms / longest) * 100)}%`;
      const good = a.status >= 200 && a.status < 300;
      return el(
        "li",
        { "data-good": good ? "yes" : "no" },
        el("span", { class: "try-account" }, a.account),
        el("span", { class: "try-cause" }, a.status ? `${a.status} ` : "no answer ", words(a.cause || (good ? "ok" : ""))),
        el("span", { class: "try-ms" }, milliseconds(a.ms)),
        bar,
      );
    }),
  );
}

function details(r) {
  const lines = [
    ["Finished", fullTime(r.timestamp)],
    ["Model", r.model],
    ["Account", r.account_used],
    ["Plan", r.plan_type && planName(r.plan_type)],
    ["Client key", r.client],
    ["Session", r.session],
    ["Streamed", r.stream ? "yes" : "no"],
    ["Accounts given up", count(r.failover_attempts)],
    ["First byte", milliseconds(r.response_time_ms)],
    ["Duration", milliseconds(r.duration_ms)],
    ["Input tokens", count(r.input_tokens)],
    ["Output tokens", count(r.output_tokens)],
    ["Cache read", count(r.cache_read_tokens)],
    ["Cache write, 5 min", count(r.cache_write_5m_tokens)],
    ["Cache write, 1 h", count(r.cache_write_1h_tokens)],
    ["Cost", dollars(r.cost_usd)],
    ["Request id", r.id],
    ["Upstream’s id", r.upstream_request_id],
  ];
  return lines.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value ?? "–")));
}
