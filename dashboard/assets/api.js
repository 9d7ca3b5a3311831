// Reading the site's JSON. Failures become a Problem: what happened, and what
// the reader can do about it.

export class Problem extends Error {
  constructor(message, advice) {
    super(message);
    this.advice = advice;
  }
}

const TIMEOUT_MS = 15_000;

async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, v]) => v !== "" && v != null));
  let answer;
  try {
    answer = await fetch(`/api/${path}?${query}`, { signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" });
  } catch {
    throw new Problem("The balancer does not answer.", "Check that Caddy is running; this page reconnects by itself.");
  }
  if (answer.ok) {
    return answer.json().catch(() => {
      throw new Problem("The answer could not be read.", "Something between this page and Caddy may have replaced it.");
    });
  }
  const said = await answer.json().then((body) => body.error, () => null);
  throw new Problem(said ?? `The balancer answered with status ${answer.status}.`, adviceFor(answer.status));
}

function adviceFor(status) {
  if (status === 401 || status === 403) return "Reload the page and sign in: any user name, and a viewer key as the password.";
  if (status >= 500) return "Caddy’s log says why; this page tries again by itself.";
  return "";
}

export const stats = (since) => get("stats", { since });
export const accounts = () => get("accounts");
export const chart = (since) => get("chart", { since });
export const requests = (query) => get("requests", query);
export const explain = (query) => get("explain", query);
