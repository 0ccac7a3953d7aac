/* Theme, help and copying: shared by all pages. Runs in the head, before the first paint. */
(() => {
  "use strict";
  // A page opened from a folder may be refused its storage: then a choice lasts as long as the page.
  const store = (kind, place = "") => ({
    get(name) {
      try { return window[kind].getItem(`entoptic-${name}${place}`); } catch { return null; }
    },
    set(name, value) {
      try {
        if (value === null) window[kind].removeItem(`entoptic-${name}${place}`);
        else window[kind].setItem(`entoptic-${name}${place}`, value);
      } catch { /* refused: nothing to keep */ }
    },
  });
  // All galleries of a server, and all of a disk, share one storage: what is of one gallery is kept under its folder.
  const folder = location.pathname.replace(/[^/]*$/, "");
  const lasting = store("localStorage");
  const root = document.documentElement;
  root.classList.add("js");

  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const saved = lasting.get("theme");
  if (saved === "dark" || saved === "light") root.dataset.theme = saved;

  function turnTheme() {
    const now = root.dataset.theme || (system.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    // Back at what the system prefers, follow the system again.
    lasting.set("theme", next === (system.matches ? "dark" : "light") ? null : next);
  }

  const help = () => document.getElementById("help");
  function turnHelp() {
    if (!help()) return false;
    if (help().open) help().close();
    else help().showModal();
    return true;
  }

  /* Enlarged pictures: squares, or smooth. Every page says which. */
  function setSmooth(isSmooth) {
    root.classList.toggle("smooth", isSmooth);
    lasting.set("smooth", isSmooth ? "yes" : null);
    tellSmooth();
  }
  function tellSmooth() {
    const isSmooth = root.classList.contains("smooth");
    for (const words of document.querySelectorAll(".smoothing")) {
      words.textContent = isSmooth ? "smoothed" : "square pixels";
    }
    for (const button of document.querySelectorAll("[data-action=smooth], [data-large=smooth]")) {
      button.setAttribute("aria-pressed", isSmooth);
    }
  }
  const turnSmooth = () => setSmooth(!root.classList.contains("smooth"));
  root.classList.toggle("smooth", lasting.get("smooth") === "yes");
  document.addEventListener("DOMContentLoaded", tellSmooth);

  document.addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (action === "theme") turnTheme();
    if (action === "help") turnHelp();
    if (action === "smooth") turnSmooth();
    if (event.target === help()) help().close();
  });

  /* Calls keys[name](event) for a plain key press outside of text fields; "?" and "t" work on every page. */
  let isListening = false;
  function listen(keys) {
    isListening = true;
    const all = { "?": turnHelp, t: turnTheme, s: turnSmooth, ...keys };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const isOver = document.querySelector("dialog[open]");
      if (isOver && !(isOver === help() && event.key === "?")) return;
      if (event.target.closest("input, textarea, select")) return;
      const act = Object.hasOwn(all, event.key) && all[event.key];
      if (act && act(event) !== false) event.preventDefault();
    });
  }

  // A page without a script of its own. The others' have run by now.
  document.addEventListener("DOMContentLoaded", () => { if (!isListening) listen({}); });

  window.Entoptic = { listen, turnSmooth, session: store("sessionStorage", ` ${folder}`) };
})();
