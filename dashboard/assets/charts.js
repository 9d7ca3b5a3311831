// The charts over time. Each is a figure with a legend that shows totals, or
// the values under the pointer, and the same numbers as a table.

import { byId, el, setText } from "./dom.js";
import { buckets, ranges } from "./buckets.js";
import { cacheRate, compact, day, dollarMark, dollars, outcomes, percent, shortTime, words } from "./format.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const HEIGHT = 190;
const MAX_SERIES = 8;
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]]; // lines differ by more than colour
const FONT = "11px system-ui, sans-serif";

const tokenKinds = [
  ["cache_read", "cache read"],
  ["cache_write_5m", "cache write, 5 min"],
  ["cache_write_1h", "cache write, 1 h"],
  ["input", "input"],
  ["output", "output"],
];

const charts = [
  { title: "Requests by Outcome", kind: "bars", format: compact, series: (all) => outcomes.map((o) => ({ name: words(o), colour: `--${o}`, values: all.map((b) => b.outcomes[o] ?? 0) })) },
  { title: "Tokens by Kind", kind: "bars", format: compact, series: (all) => tokenKinds.map(([kind, name], i) => ({ name, colour: `--c${i + 1}`, values: all.map((b) => b.tokens[kind]) })) },
  { title: "Utilization per Account", hint: "fullest window, latest", kind: "lines", format: percent, series: (all) => named(all, "utilization", null) },
  { title: "Cost by Model", kind: "bars", format: dollars, mark: dollarMark, series: (all) => named(all, "cost_by_model", 0) },
  { title: "Cache-Hit Rate", hint: "of prompts, latest", kind: "lines", format: percent, series: (all) => [{ name: "all accounts", colour: "--c1", values: all.map((b) => cacheRate(b.tokens)) }] },
].map((definition) => ({ ...definition, plot: null, buckets: [], shown: [] }));

// named makes one series per name found in a member of the buckets: the
// largest ones, in an order and with colours that do not jump between updates.
function named(all, member, missing) {
  const weight = new Map();
  for (const b of all) for (const [name, n] of Object.entries(b[member])) weight.set(name, (weight.get(name) ?? 0) + n);
  const names = [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a));
  const kept = names.slice(0, MAX_SERIES).sort();
  const series = kept.map((name, i) => ({ name, colour: `--c${i + 1}`, values: all.map((b) => b[member][name] ?? missing) }));
  const rest = names.slice(MAX_SERIES);
  if (rest.length && missing === 0) {
    const values = all.map((b) => rest.reduce((total, name) => total + (b[member][name] ?? 0), 0));
    series.push({ name: `${rest.length} others`, colour: "--c9", values });
  }
  return series;
}

export function startCharts() {
  byId("charts").append(...charts.map(frame));
  addEventListener("themechange", () => charts.forEach(draw));
}

// frame makes the fixed elements of a chart.
function frame(chart, i) {
  const id = `chart-${i}`;
  chart.legend = el("ul", { class: "legend" });
  chart.moment = el("span", { class: "moment" }, chart.hint ?? "");
  chart.host = el("div", { class: "plot", role: "img" }, el("p", { class: "loading" }, "Loading…"));
  chart.table = el("div", { class: "scroll", role: "group", "aria-labelledby": id, tabindex: 0 });
  chart.details = el("details", { ontoggle: () => fillTable(chart) }, el("summary", {}, "Table", el("span", { class: "hidden" }, ` of ${chart.title}`)), chart.table);
  new ResizeObserver(() => chart.plot?.setSize({ width: chart.host.clientWidth, height: HEIGHT })).observe(chart.host);
  chart.figure = el("figure", { class: "chart panel" }, el("figcaption", {}, el("h3", { id }, chart.title), chart.moment), chart.host, chart.legend, chart.details);
  return chart.figure;
}

// showCharts draws the points of /api/chart.
export function showCharts(points, range) {
  const all = buckets(points, range);
  setText(byId("trends-note"), { 1: "by the hour", 6: "by six hours", 24: "by the day" }[ranges[range].hours]);
  for (const chart of charts) {
    chart.range = range;
    chart.buckets = all;
    chart.shown = chart.series(all).filter((s) => s.values.some((v) => v));
    draw(chart);
  }
}

function draw(chart) {
  if (!chart.buckets.length) return;
  chart.plot?.destroy();
  chart.plot = null;
  chart.host.replaceChildren();
  chart.host.setAttribute("aria-label", summary(chart));
  legend(chart);
  fillTable(chart);
  chart.figure.toggleAttribute("data-nothing", !chart.shown.length);
  if (!chart.shown.length) {
    chart.host.append(el("p", { class: "nothing" }, "Nothing in this time range."));
    return;
  }
  chart.plot = new uPlot(options(chart), plotData(chart), chart.host);
}

function summary(chart) {
  if (!chart.shown.length) return `${chart.title}: nothing in this time range`;
  return `${chart.title}: ${chart.shown.map((s) => `${s.name} ${chart.format(overall(chart, s))}`).join(", ")}`;
}

// overall is one number for a series: the sum of bars, the last point of a line.
function overall({ kind }, { values }) {
  if (kind === "lines") return values.findLast((v) => v != null);
  return values.reduce((total, v) => total + v, 0);
}

function plotData(chart) {
  if (chart.kind === "lines") {
    return [chart.buckets.map((b) => (b.at + b.end) / 2000), ...chart.shown.map((s) => s.values)];
  }
  // Stacked: the tallest sum is drawn first, each later one covers its lower part.
  const sums = [];
  for (const { values } of chart.shown) sums.unshift(values.map((v, i) => v + (sums[0]?.[i] ?? 0)));
  return [chart.buckets.map((b) => b.at / 1000), ...sums];
}

const probe = el("span", { hidden: true });
document.body.append(probe);

// resolve turns a custom property into a colour that a canvas understands.
function resolve(property) {
  probe.style.color = `var(${property})`;
  return getComputedStyle(probe).color;
}

function options(chart) {
  const first = chart.buckets[0].at / 1000;
  const last = chart.buckets.at(-1).end / 1000;
  const axis = { stroke: resolve("--muted"), font: FONT, ticks: { show: false } };
  return {
    width: chart.host.clientWidth,
    height: HEIGHT,
    padding: [10, 28, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      drag: { x: false, y: false },
      points: { show: chart.kind === "lines" },
      sync: { key: "trends" },
      dataIdx: (_, __, ___, x) => Math.max(0, chart.buckets.findLastIndex((b) => b.at / 1000 <= x)),
    },
    scales: { x: { range: [first, last] }, y: { range: (_, __, max) => [0, top(chart, max)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 64, values: (_, at) => at.map((t) => tick(chart, t * 1000)) },
      { ...axis, grid: { stroke: resolve("--line"), width: 1 }, size: 52, space: 36, values: (_, all) => all.map(chart.mark ?? chart.format) },
    ],
    series: [{}, ...(chart.kind === "lines" ? chart.shown.map(line) : chart.shown.toReversed().map(bar))],
    hooks: { setCursor: [(u) => showMoment(chart, u.cursor.left >= 0 ? u.cursor.idx : null)] },
  };
}

// top leaves a little air; a share reaches at least 100 %.
const top = (chart, max) => (chart.format === percent ? Math.max(1, max) * 1.04 : (max || 1) * 1.06);

const tick = (chart, at) => (chart.range === "24h" ? shortTime(at, at) : day(at));

function line(s, i) {
  const stroke = resolve(s.colour);
  return { stroke, width: 2, dash: DASHES[i % DASHES.length], spanGaps: true, points: { size: 4, fill: stroke } };
}

const bar = (s) => ({ fill: resolve(s.colour), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.78, 36], align: 1 }) });

function legend(chart) {
  chart.values = chart.shown.map(() => el("b"));
  chart.legend.replaceChildren(...chart.shown.map((s, i) => el("li", {}, swatch(chart, s, i), el("span", { class: "series-name", title: s.name }, s.name), chart.values[i])));
  showMoment(chart, null);
}

function swatch(chart, s, i) {
  const node = el("span", { class: `swatch ${chart.kind}`, "aria-hidden": "true" });
  node.style.color = `var(${s.colour})`;
  if (chart.kind === "lines") node.dataset.dash = i % DASHES.length;
  return node;
}

// showMoment writes the values of one bucket into the legend, or the overall
// ones when the pointer is elsewhere.
function showMoment(chart, index) {
  const bucket = index == null ? null : chart.buckets[index];
  setText(chart.moment, bucket ? period(bucket) : (chart.hint ?? ""));
  chart.shown.forEach((s, i) => setText(chart.values[i], chart.format(bucket ? s.values[index] : overall(chart, s))));
}

const period = ({ at, end }) => (end - at >= 20 * 3_600_000 ? day(at) : `${shortTime(at)} – ${shortTime(end, at)}`);

function fillTable(chart) {
  if (!chart.details.open) return;
  const head = el("tr", {}, el("th", { scope: "col" }, "From"), chart.shown.map((s) => el("th", { scope: "col", class: "num" }, s.name)));
  const lines = chart.buckets.map((b, i) => el("tr", {}, el("th", { scope: "row" }, shortTime(b.at)), chart.shown.map((s) => el("td", { class: "num" }, chart.format(s.values[i])))));
  chart.table.replaceChildren(el("table", {}, el("caption", { class: "hidden" }, chart.title), el("thead", {}, head), el("tbody", {}, lines.reverse())));
}
