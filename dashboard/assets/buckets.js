// From the hours of /api/chart to as many bars as a chart can show.

// ranges: how long, and how a moment is rounded down to its bar. Rounding and
// stepping go through local calendar fields, so bars keep to local days.
export const ranges = {
  "24h": { ms: 24 * 3_600_000, hours: 1 },
  "7d": { ms: 7 * 86_400_000, hours: 6 },
  "30d": { ms: 30 * 86_400_000, hours: 24 },
};

function floor(ms, hours) {
  const d = new Date(ms);
  d.setHours(Math.floor(d.getHours() / hours) * hours, 0, 0, 0);
  return d.getTime();
}

function next(ms, hours) {
  const d = new Date(ms);
  d.setHours(d.getHours() + hours);
  return d.getTime();
}

const emptyTokens = () => ({ input: 0, output: 0, cache_read: 0, cache_write_5m: 0, cache_write_1h: 0 });

// byName has no prototype, so that a model named "constructor" is only a name.
const byName = () => Object.create(null);

// buckets returns { at, end, outcomes, tokens, cost_by_model, utilization }
// for every bar of the range, oldest first, without gaps.
export function buckets(points, range, now = Date.now()) {
  const { ms, hours } = ranges[range];
  const all = [];
  const byStart = new Map();
  for (let at = floor(now - ms, hours); at <= now; at = next(at, hours)) {
    const bucket = { at, end: next(at, hours), outcomes: byName(), tokens: emptyTokens(), cost_by_model: byName(), utilization: byName() };
    all.push(bucket);
    byStart.set(at, bucket);
  }
  for (const point of points) {
    const bucket = byStart.get(floor(point.at, hours));
    if (bucket) add(bucket, point);
  }
  return all;
}

function add(bucket, point) {
  sum(bucket.outcomes, point.outcomes);
  sum(bucket.tokens, point.tokens);
  sum(bucket.cost_by_model, point.cost_by_model);
  for (const [account, used] of Object.entries(point.utilization ?? {})) {
    bucket.utilization[account] = Math.max(bucket.utilization[account] ?? 0, used);
  }
}

function sum(into, from) {
  for (const [name, n] of Object.entries(from ?? {})) into[name] = (into[name] ?? 0) + n;
}
