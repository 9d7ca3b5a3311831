// The chosen colour theme, set before the page is painted. A classic script in
// the head, since modules run only after the first paint.
"use strict";
{
  const key = "claude-balancer-theme";
  const order = ["auto", "light", "dark"];

  const stored = () => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is switched off: the choice lasts until the page goes
    }
  };

  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    const name = document.getElementById("theme-name");
    if (name) name.textContent = theme;
  };

  let theme = order.includes(stored()) ? stored() : "auto";
  apply(theme);

  addEventListener("DOMContentLoaded", () => {
    apply(theme);
    document.getElementById("theme").addEventListener("click", () => {
      theme = order[(order.indexOf(theme) + 1) % order.length];
      apply(theme);
      try {
        localStorage.setItem(key, theme);
      } catch {}
      dispatchEvent(new Event("themechange"));
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
}
