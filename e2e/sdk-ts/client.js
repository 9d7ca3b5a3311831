// The official TypeScript SDK, pointed at the stage as a user would.

import Anthropic from "@anthropic-ai/sdk";
import { Stage } from "../stage/stage.js";

export const stage = Stage.attached();
export const model = "claude-sonnet-5-5";
export const hello = { model, max_tokens: 128, messages: [{ role: "user", content: "Hello" }] };

// client is a new client. The key is one that no account has: it must go nowhere.
export const client = (options = {}) => new Anthropic({ baseURL: stage.secureUrl, apiKey: "sk-ant-api03-of-the-user", ...options });

// watched returns a client and what it sends. It is told to wait a millisecond
// where the answer says longer: whether it asks again is what counts.
export function watched(options) {
  const seen = { requests: 0 };
  const counting = async (url, init) => {
    seen.requests++;
    const answer = await fetch(url, init);
    seen.retryAfter = answer.headers.get("retry-after");
    seen.shouldRetry = answer.headers.get("x-should-retry");
    if (answer.ok) return answer;
    const headers = new Headers(answer.headers);
    headers.set("retry-after-ms", "1");
    return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers });
  };
  return { client: client({ fetch: counting, ...options }), seen };
}

// upstream lists what the provider was asked.
export const upstream = async () =>
  (await stage.control("GET", "requests")).filter((r) => !r.path.startsWith("/v1/oauth/") && !r.path.startsWith("/api/"));

export async function collect(stream) {
  const all = [];
  for await (const item of stream) all.push(item);
  return all;
}
