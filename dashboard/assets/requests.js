// The table of recent requests: filters, live rows on top, older ones by cursor.

import * as api from "./api.js";
import { byId, el, fillOptions, setText } from "./dom.js";
import { clock, compact, count, dollars, fullTime, inputTokens, milliseconds, outcomes, planName, words } from "./format.js";
import { openRequest } from "./request-dialog.js";

const PAGE = 50;
const MAX_LIVE_ROWS = 500; // a busy balancer must not fill the browser's memory
const FLUSH_MS = 250; // live rows are shown in batches

const rows = byId("request-rows");
const form = byId("filters");
const older = byId("older");

let list = []; // newest first: { request, node }
let waiting = []; // live requests not yet shown
let more = false; // the server may have older rows
let room = MAX_LIVE_ROWS; // grows with what the reader asks for
let stale = true; // what is shown does not fit the filters
let generation = 0; // a changed filter makes answers under way worthless

const filter = () => Object.fromEntries(new FormData(form));
const filtered = () => Object.values(filter()).some(Boolean);

// startRequests wires the controls; reload is called when the filters changed.
export function startRequests(reload) {
  const refilter = () => {
    generation++;
    stale = true;
    waiting = [];
    reload();
  };
  fillOptions(form.elements.outcome, outcomes, words);
  form.addEventListener("change", refilter);
  form.addEventListener("submit", (e) => e.preventDefault());
  byId("clear-filters").addEventListener("click", () => {
    form.reset();
    form.elements.account.focus();
    refilter();
  });
  older.addEventListener("click", () => loadOlder().catch((problem) => setText(byId("requests-note"), problem.message)));
}

// loadNewest reads the first page and merges it into what is shown.
export async function loadNewest() {
  const mine = generation;
  const page = await api.requests({ limit: PAGE, ...filter() });
  if (mine !== generation) return;
  const known = new Set(list.map((e) => e.request.id));
  const overlaps = page.some((r) => known.has(r.id));
  const fresh = stale;
  stale = false;
  if (fresh || !overlaps) {
    list = page.map(entry);
    more = page.length === PAGE;
  } else {
    list = [...page.filter((r) => !known.has(r.id)).map(entry), ...list];
  }
  show();
  if (fresh) announce();
}

// announce tells screen readers what the reader's own act led to; live rows
// would only interrupt them.
const announce = () => setText(byId("requests-announcement"), note());

async function loadOlder() {
  const mine = generation;
  older.disabled = true;
  try {
    const page = await api.requests({ limit: PAGE, before: list.at(-1).request.id, ...filter() });
    if (mine !== generation) return;
    const added = page.map(entry);
    list.push(...added);
    more = page.length === PAGE;
    room = Math.max(room, list.length);
    show();
    announce();
    added[0]?.node.querySelector("button").focus();
  } finally {
    older.disabled = false;
  }
}

// addLive takes a finished request from the feed.
export function addLive(request) {
  const f = filter();
  if (f.account && request.account_used !== f.account) return;
  if (f.model && request.model !== f.model) return;
  if (f.outcome && request.outcome !== f.outcome) return;
  waiting.push(request);
  if (waiting.length > MAX_LIVE_ROWS) waiting.shift();
  if (waiting.length === 1) setTimeout(flush, FLUSH_MS);
}

function flush() {
  const known = new Set(list.map((e) => e.request.id));
  const added = waiting.filter((r) => !known.has(r.id)).map(entry).reverse();
  waiting = [];
  for (const { node } of added) node.classList.add("new");
  list = [...added, ...list];
  if (list.length > room) {
    list.length = room;
    more = true;
  }
  show();
}

function show() {
  const wanted = new Set(list.map((e) => e.node));
  for (const node of [...rows.children]) if (!wanted.has(node)) node.remove();
  let before = rows.firstChild;
  for (const { node } of list) {
    if (node === before) before = before.nextSibling;
    else rows.insertBefore(node, before);
  }
  rows.parentElement.removeAttribute("aria-busy");
  older.hidden = !more;
  byId("clear-filters").hidden = !filtered();
  setText(byId("requests-note"), note());
}

function note() {
  if (list.length) return `${count(list.length)} shown${more ? "" : ", the whole recorded history"}`;
  if (filtered()) return "No request matches these filters.";
  return `No request yet. Point a client here: ANTHROPIC_BASE_URL=${location.origin}`;
}

const entry = (request) => ({ request, node: row(request) });

function row(r) {
  const open = () => openRequest(r);
  const cell = (label, attributes, ...children) => el("td", { role: "cell", "data-label": label, ...attributes }, ...children);
  return el(
    "tr",
    {
      role: "row",
      "data-outcome": r.outcome,
      onclick: (e) => {
        if (!e.target.closest("button") && getSelection().isCollapsed) open();
      },
    },
    cell(
      "Time",
      { class: "when" },
      el("button", { type: "button", class: "link", title: fullTime(r.timestamp), "aria-haspopup": "dialog", onclick: open }, clock(r.timestamp)),
    ),
    cell("Status", { class: "outcome" }, el("span", { class: "outcome-mark" }, r.status_code || "–", " ", el("span", {}, words(r.outcome)))),
    cell("Model", { class: "model", title: `${r.method} ${r.path}` }, r.model ?? el("span", { class: "faint" }, `${r.method} ${r.path}`)),
    cell("Plan", { class: "plan" }, r.plan_type ? planName(r.plan_type) : "–"),
    cell("Account", { class: "account-name", title: r.account_used }, r.account_used ?? "–"),
    cell("Session", { class: "session" }, r.session ? r.session.slice(0, 8) : "–"),
    cell("Failovers", { class: "failovers" }, failovers(r)),
    cell("First byte", { class: "num" }, milliseconds(r.response_time_ms)),
    cell("Duration", { class: "num" }, milliseconds(r.duration_ms)),
    cell("Tokens in / out", { class: "num" }, tokens(r)),
    cell("Cost", { class: "num" }, dollars(r.cost_usd)),
  );
}

// failovers says how many accounts were given up, and why.
function failovers(r) {
  if (!r.failover_attempts) return el("span", { class: "faint" }, "0");
  const causes = [...new Set(r.attempts.map((a) => a.cause).filter((c) => c && c !== "ok"))].map(words);
  return causes.length ? `${r.failover_attempts} · ${causes.join(", ")}` : String(r.failover_attempts);
}

function tokens(r) {
  if (r.input_tokens == null && r.output_tokens == null) return "–";
  return `${compact(inputTokens(r))} / ${compact(r.output_tokens ?? 0)}`;
}

// offerFilters fills the filters from what is known by now.
export function offerFilters(accounts, models) {
  fillOptions(form.elements.account, accounts);
  fillOptions(form.elements.model, models);
}
