// The page: reads what it shows, keeps it fresh and says when it cannot.

import * as api from "./api.js";
import { showAccounts } from "./accounts.js";
import { showCharts, startCharts } from "./charts.js";
import { byId, el, onRadio, setText } from "./dom.js";
import { ago, until } from "./format.js";
import { keepLive } from "./live.js";
import { showCards, showUsage } from "./overview.js";
import { addLive, loadNewest, offerFilters, startRequests } from "./requests.js";
import { offerModels, startRouting } from "./routing.js";

let range = onRadio(byId("range"), (value) => {
  range = value;
  byId("cards").setAttribute("aria-busy", "true");
  attempt(loadStats, loadChart);
});
let usageBy = onRadio(byId("usage-by"), (value) => {
  usageBy = value;
  if (stats) showUsage(stats, usageBy);
});
let stats;
let accounts = [];

async function loadStats() {
  const asked = range;
  const answer = await api.stats(asked);
  if (asked !== range) return; // another range was chosen meanwhile
  stats = answer;
  showOverview();
}

async function loadAccounts() {
  accounts = await api.accounts();
  showAccounts(accounts);
  showOverview();
}

async function loadChart() {
  const asked = range;
  const points = await api.chart(asked);
  if (asked === range) showCharts(points, asked);
}

function showOverview() {
  if (!stats) return;
  showCards(stats, accounts);
  showUsage(stats, usageBy);
  const models = Object.keys(stats.by_model).sort();
  offerModels(models);
  const names = new Set([...accounts.map((a) => a.name), ...Object.keys(stats.by_account)]);
  offerFilters([...names].sort(), models);
}

const problems = new Map(); // loader → why it failed last

// attempt runs loaders side by side, shows a problem while any of them has one,
// and resolves to whether the balancer answered at all.
async function attempt(...loaders) {
  const results = await Promise.allSettled(loaders.map((load) => load()));
  results.forEach(({ status, reason }, i) => {
    if (status === "fulfilled") problems.delete(loaders[i]);
    else problems.set(loaders[i], reason);
  });
  showProblem();
  return results.some((r) => r.status === "fulfilled");
}

function showProblem() {
  const [problem] = problems.values();
  const banner = byId("problem");
  banner.hidden = !problem;
  if (!problem) return;
  const text = [problem.message, problem.advice].filter(Boolean).join(" ");
  if (banner.textContent !== text) banner.replaceChildren(el("b", {}, problem.message), problem.advice ? ` ${problem.advice}` : "");
}

// soon bundles many wishes into one load, at most every ms; a hidden page waits
// until it is seen again, when all is read anew.
function soon(load, ms) {
  let timer;
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      if (!document.hidden) attempt(load);
    }, ms);
  };
}

function tick() {
  const now = Date.now();
  for (const node of document.querySelectorAll("[data-until]")) setText(node, until(Number(node.dataset.until), now));
  for (const node of document.querySelectorAll("[data-ago]")) setText(node, ago(Number(node.dataset.ago), now));
}

function offerCopy() {
  const button = byId("copy-command");
  if (!navigator.clipboard) return button.remove(); // a page without TLS
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("add-command").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2_000);
  });
}

startCharts();
startRequests(() => attempt(loadNewest));
startRouting();
offerCopy();
setInterval(tick, 1_000);

const statsSoon = soon(loadStats, 1_000);
const chartSoon = soon(loadChart, 10_000);
keepLive({
  status: byId("connection"),
  refresh: () => attempt(loadStats, loadAccounts, loadNewest, loadChart),
  onAccounts: soon(loadAccounts, 300),
  onRequest: (request) => {
    addLive(request);
    statsSoon();
    chartSoon();
  },
});
