// How numbers, times and names are written on this page. Times are local.

const integer = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clockFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteFormat = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayFormat = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const fullFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

const NONE = "–";
const NBSP = "\u00a0"; // a number and its unit stay on one line
const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;

export const count = (n) => (n == null ? NONE : integer.format(n));
export const compact = (n) => (n == null ? NONE : n < 10_000 ? integer.format(n) : short.format(n));
export const percent = (fraction) => (fraction == null ? NONE : `${Math.round(fraction * 100)}${NBSP}%`);

// milliseconds: "ms" below one second, else seconds with two decimals.
export function milliseconds(ms) {
  if (ms == null) return NONE;
  return ms < SECOND ? `${Math.round(ms)}${NBSP}ms` : `${(ms / SECOND).toFixed(2)}${NBSP}s`;
}

// dollars keeps small sums readable: a single request often costs less than a cent.
export function dollars(usd) {
  if (usd == null) return NONE;
  if (usd === 0) return "$0";
  if (usd < 0.0001) return "<$0.0001";
  const digits = usd < 0.1 ? 4 : 2;
  return "$" + usd.toLocaleString(undefined, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// dollarMark is for an axis, whose steps are round.
export const dollarMark = (usd) => "$" + usd.toLocaleString(undefined, { notation: "compact", maximumFractionDigits: 4 });

const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();

export const fullTime = (ms) => fullFormat.format(ms);
export const clock = (ms, now = Date.now()) =>
  sameDay(ms, now) ? clockFormat.format(ms) : `${dayFormat.format(ms)}, ${clockFormat.format(ms)}`;
export const shortTime = (ms, now = Date.now()) =>
  sameDay(ms, now) ? minuteFormat.format(ms) : `${dayFormat.format(ms)}, ${minuteFormat.format(ms)}`;
export const day = (ms) => dayFormat.format(ms);

// span writes a length of time with its two largest units.
export function span(ms) {
  if (ms >= DAY) return `${units(ms / DAY, "d")} ${units((ms % DAY) / HOUR, "h")}`;
  if (ms >= HOUR) return `${units(ms / HOUR, "h")} ${units((ms % HOUR) / MINUTE, "min")}`;
  if (ms >= MINUTE) return `${units(ms / MINUTE, "min")} ${units((ms % MINUTE) / SECOND, "s")}`;
  return units(Math.max(0, Math.ceil(ms / SECOND)), "s");
}

const units = (n, unit) => `${Math.floor(n)}${NBSP}${unit}`;

export const until = (at, now = Date.now()) => (at > now ? `in ${span(at - now)}` : "any moment");

export function ago(at, now = Date.now()) {
  const ms = now - at;
  if (ms < 5 * SECOND) return "just now";
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s ago`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ago`;
  if (ms < DAY) return `${Math.floor(ms / HOUR)} h ago`;
  return `${Math.floor(ms / DAY)} d ago`;
}

export const inputTokens = (r) =>
  (r.input_tokens ?? 0) + (r.cache_read_tokens ?? 0) + (r.cache_write_5m_tokens ?? 0) + (r.cache_write_1h_tokens ?? 0);

export const allTokens = (t) => t.input + t.output + t.cache_read + t.cache_write_5m + t.cache_write_1h;

// cacheRate is the share of the prompt that came from the cache; null without a prompt.
export function cacheRate(t) {
  const prompt = t.input + t.cache_read + t.cache_write_5m + t.cache_write_1h;
  return prompt > 0 ? t.cache_read / prompt : null;
}

export const words = (code) => code.replaceAll("_", " ");

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const outcomes = ["ok", "upstream_error", "refused", "exhausted", "client_gone", "truncated"];

const planNames = new Map([["console", "Console"], ["max", "Max"], ["api", "API"]]);
export const planName = (plan) => planNames.get(plan) ?? plan;

// windowName turns a provider's window name such as "7d_opus" into words. The
// provider calls the weekly bucket of the Fable family "oi".
export function windowName(name) {
  const [length, family] = name.split(/_(.*)/s);
  const time = length.replace(/^(\d+)([hd])$/, (_, n, unit) => `${n} ${unit === "h" ? "hours" : "days"}`);
  return family ? `${time}, ${family === "oi" ? "fable" : words(family)}` : time;
}

// mayUse reports whether one of the comma-separated patterns fits the model.
export function mayUse(patterns, model) {
  return patterns.split(",").some((pattern) => {
    const literal = pattern.trim().replace(/[.+^${}()|[\]\\]/g, "\\$&");
    return literal !== "" && new RegExp(`^${literal.replaceAll("*", ".*").replaceAll("?", ".")}$`, "i").test(model);
  });
}

// hasOpus also knows an account's own list of single opus models.
export const hasOpus = (patterns) => /opus/i.test(patterns) || mayUse(patterns, "claude-opus");
