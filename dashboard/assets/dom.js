// Making elements. Text from outside becomes text nodes and attribute values
// only; nothing on this page parses a string as markup.

export const byId = (id) => document.getElementById(id);

// el makes an element. Attributes that are null, undefined or false are left
// out; children may be nodes, strings, numbers or nested lists of them.
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c != null && c !== false));
  return node;
}

// setText changes a node only if its text differs, which keeps selections and
// screen readers undisturbed.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// fillOptions gives a select the values after its first option, keeping the
// choice, also one that is no longer offered.
export function fillOptions(select, values, label = (v) => v) {
  const chosen = select.value;
  const all = chosen && !values.includes(chosen) ? [...values, chosen] : values;
  const present = [...select.options].slice(1).map((o) => o.value);
  if (present.length === all.length && present.every((v, i) => v === all[i])) return;
  select.replaceChildren(select.options[0], ...all.map((v) => el("option", { value: v }, label(v))));
  select.value = chosen;
}

// onRadio returns the chosen value of a radio group and calls back when another
// one is chosen.
export function onRadio(fieldset, callback) {
  fieldset.addEventListener("change", (e) => callback(e.target.value));
  return fieldset.querySelector("input:checked").value;
}
