// How a request would be routed now, and why not otherwise.

import * as api from "./api.js";
import { byId, el, setText } from "./dom.js";
import { words } from "./format.js";

const form = byId("explain");

export function startRouting() {
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    explain().catch((problem) => {
      byId("candidates").replaceChildren();
      setText(byId("explain-note"), problem.message);
    });
  });
}

async function explain() {
  const e = await api.explain(Object.fromEntries(new FormData(form)));
  setText(byId("explain-note"), verdict(e));
  byId("candidates").replaceChildren(...e.candidates.map((c) => candidate(c, e.chosen)));
}

function verdict({ model, family, chosen, candidates }) {
  const what = model ? `${model} (family ${family})` : "a request without a model";
  if (chosen) return `${what} would go to ${chosen} now.`;
  return candidates.length ? `No account can take ${what} now.` : "There is no account.";
}

function candidate(c, chosen) {
  const mark = c.account === chosen ? "chosen" : c.eligible ? "eligible" : "not eligible";
  return el(
    "li",
    { "data-mark": words(mark) },
    el("span", { class: "candidate-name" }, c.account),
    el("span", { class: "badge" }, mark),
    el("span", { class: "candidate-reason" }, c.reason),
    c.score != null && el("span", { class: "faint" }, `score ${c.score.toLocaleString(undefined, { maximumFractionDigits: 3 })}`),
  );
}

export function offerModels(models) {
  byId("known-models").replaceChildren(...models.map((m) => el("option", { value: m })));
}
