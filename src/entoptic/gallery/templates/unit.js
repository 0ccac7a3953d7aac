/* A unit's page is whole without this: here are only the keys, the choice of columns, maps and copying. */
(() => {
  "use strict";
  const { listen, session } = window.Entoptic;
  const said = document.getElementById("said");
  const toggles = [...document.querySelectorAll(".toggle[data-anchor]")];
  const all = document.querySelector(".toggle.all");

  function show(chosen) {
    for (const toggle of toggles) {
      const isOn = chosen.has(toggle.dataset.anchor);
      toggle.setAttribute("aria-pressed", isOn);
      for (const part of document.querySelectorAll(".matrix [data-anchor]")) {
        if (part.dataset.anchor === toggle.dataset.anchor) part.hidden = !isOn;
      }
    }
    all.hidden = chosen.size === toggles.length;
    document.querySelector(".matrix").style.setProperty("--shown", chosen.size);
  }
  const chosen = () => new Set(
    toggles.filter((toggle) => toggle.getAttribute("aria-pressed") === "true").map((toggle) => toggle.dataset.anchor));
  function choose(set) {
    show(set);
    const search = set.size === toggles.length ? "" : `?compare=${[...set].map(encodeURIComponent).join(",")}`;
    try { history.replaceState(null, "", location.pathname + search + location.hash); } catch { /* refused */ }
  }

  async function copy(button) {
    const text = button.parentElement.querySelector("code");
    let isDone = false;
    try {
      await navigator.clipboard.writeText(text.textContent);
      isDone = true;
    } catch {
      // Without a clipboard (a page from a folder may have none), select the text and ask for the old way.
      getSelection().selectAllChildren(text);
      try { isDone = document.execCommand("copy"); } catch { /* the text is selected: Ctrl-C does it */ }
    }
    button.textContent = isDone ? "Copied" : "Selected";
    said.textContent = isDone ? "Command copied" : "Command selected, copy it with your keyboard";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }

  /* Maps laid over pictures and photos: one switch turns all of them. */
  const turn = (name) => () => {
    const isOn = document.body.classList.toggle(`show-${name}`);
    for (const button of document.querySelectorAll(`[data-action=${name}]`)) button.setAttribute("aria-pressed", isOn);
  };

  document.addEventListener("click", (event) => {
    const toggle = event.target.closest(".toggle[data-anchor]");
    if (toggle) {
      const set = chosen();
      if (!set.delete(toggle.dataset.anchor)) set.add(toggle.dataset.anchor);
      if (set.size) choose(set);
    }
    const button = event.target.closest("[data-action]");
    if (button?.dataset.action === "all") choose(new Set(toggles.map((one) => one.dataset.anchor)));
    if (button?.dataset.action === "copy") copy(button);
    if (["where", "alpha"].includes(button?.dataset.action)) turn(button.dataset.action)();
  });

  const link = (key) => document.querySelector(`[data-key=${key}]`);
  const go = (key) => () => { if (!link(key)) return false; link(key).click(); };
  const along = (key) => (event) => (event.target.closest(".scroll") ? false : go(key)());
  // Back to the page of the index that the reader came from, at this unit.
  const back = session.get("back");
  const unit = encodeURIComponent(document.body.dataset.unit);
  if (back && back.startsWith("?")) link("up").href = `index.html${back}#${unit}`;
  listen({
    j: go("after"), k: go("before"), ArrowRight: along("after"), ArrowLeft: along("before"),
    z: () => window.Entoptic.enlarge(), w: turn("where"), a: turn("alpha"), Escape: go("up"), "/": () => { location.href = "index.html#find"; },
  });

  // What a link leads to is unfolded: the words of the picture.
  function unfold() {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
    const words = id && document.getElementById(id)?.querySelector("details.in-words");
    if (words) words.open = true;
  }
  window.addEventListener("hashchange", unfold);
  unfold();

  const asked = new URLSearchParams(location.search).get("compare");
  if (asked && toggles.length) {
    const known = new Set(asked.split(",").filter((name) => toggles.some((one) => one.dataset.anchor === name)));
    if (known.size) show(known);
  }
})();
