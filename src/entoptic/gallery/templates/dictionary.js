/* The page of a dictionary: only the features of one page are in the document. All text goes in as text, never as markup. */
(() => {
  "use strict";
  const { unit, methods, photos, features: rows } = window.DICTIONARY;
  const PER_PAGE = 48;
  const MOST_KIN = 12;
  const byId = (id) => document.getElementById(id);
  const [find, sort, family, show, grid, pager, count] = ["q", "sort", "family", "show", "features", "pages", "count"].map(byId);
  const choices = [sort, family, show];

  const children = new Map();
  rows.forEach(([, , , , parents = []], k) => {
    for (const parent of parents) children.set(parent, [...(children.get(parent) ?? []), k]);
  });
  const features = rows.map(([density, strength = 0, mean = 0, shots = [], parents = [], duplicates = [], name = "", picture = 0], k) => ({
    k, density, strength, mean, shots, parents, duplicates, name, picture, children: children.get(k) ?? [],
    text: [`${k}`, name, ...shots.map(([place]) => photos[place][0])].join("\n").toLowerCase(),
  }));
  const strongest = features.reduce((most, { strength }) => Math.max(most, strength), 0) || 1;

  const families = {
    parents: (f) => f.parents.length, children: (f) => f.children.length, duplicates: (f) => f.duplicates.length,
    alone: (f) => !f.parents.length && !f.children.length && !f.duplicates.length,
  };
  const shown = { active: (f) => f.density > 0, picture: (f) => f.picture };
  const orders = {
    density: (a, b) => b.density - a.density, rare: (a, b) => (a.density || 2) - (b.density || 2),
    strength: (a, b) => b.strength - a.strength, children: (a, b) => b.children.length - a.children.length,
  };

  let query = "", page = 1, found = features;
  const pageCount = () => Math.max(1, Math.ceil(found.length / PER_PAGE));
  const number = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1));

  function make(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== "") element.setAttribute(name, value);
    }
    element.append(...inside);
    return element;
  }

  function filter() {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    // A number finds its feature alone: it would be part of most photos' names.
    const fits = terms.length === 1 && /^#?\d+$/.test(terms[0]) && Number(terms[0].replace("#", "")) < features.length
      ? (f) => f.k === Number(terms[0].replace("#", ""))
      : (f) => terms.every((term) => f.text.includes(term));
    found = features.filter((f) => fits(f) && (!family.value || families[family.value](f)) && (!show.value || shown[show.value](f)));
    if (sort.value) found.sort((a, b) => orders[sort.value](a, b) || a.k - b.k);
    page = Math.min(page, pageCount());
  }

  function figure(f, [place, value]) {
    const [name, file] = photos[place];
    const what = file ? make("img", { src: file, alt: `photo ${name}`, title: name, loading: "lazy", decoding: "async", width: 96, height: 96 })
      : make("div", { class: "gone", title: name }, name.split("/").at(-1));
    return make("figure", {}, what, make("figcaption", { title: name }, number(value)));
  }
  function kin(words, numbers) {
    if (!numbers.length) return "";
    const links = numbers.slice(0, MOST_KIN).flatMap((k) => [make("a", { href: `#feature-${k}`, "data-feature": k }, `${k}`), " "]);
    return make("p", { class: "kin" }, `${words}: `, ...links, numbers.length > MOST_KIN ? `and ${numbers.length - MOST_KIN} more` : "");
  }
  function card(f) {
    const shots = make("div", { class: f.picture ? "shots pictured" : "shots" });
    if (f.picture) {
      const [method, file] = f.picture;
      shots.append(make("figure", {}, make("img", { src: file, alt: `what feature ${f.k} looks for, by ${methods[method]}`, loading: "lazy", decoding: "async" }),
        make("figcaption", {}, methods[method])));
    }
    shots.append(...(f.density > 0 || f.strength !== 0 ? f.shots : []).map((shot) => figure(f, shot)));
    const share = (value) => make("span", { class: "bar-of", "aria-hidden": "true" }, make("i", { style: `width:${Math.min(100, 100 * value)}%` }));
    return make("article", { class: "feature", tabindex: "0", id: `feature-${f.k}`, "aria-label": `feature ${f.k}` },
      make("h2", {}, `${f.k}`, f.name ? make("small", {}, f.name) : ""),
      make("p", { class: "numbers" },
        make("b", {}, `${number(100 * f.density)} %`), " of photos, strength ", make("b", {}, number(f.strength)), `, mean ${number(f.mean)}`,
        share(f.density), share(Math.max(0, f.strength) / strongest)),
      shots, kin("Parents", f.parents), kin("Children", f.children), kin("Duplicates", f.duplicates));
  }

  function draw() {
    const start = (page - 1) * PER_PAGE;
    grid.replaceChildren(...found.slice(start, start + PER_PAGE).map(card));
    if (!found.length) grid.append(make("p", { class: "nothing" }, query ? `No feature matches “${query}”.` : "No feature fits these choices."));
    const all = `${features.length.toLocaleString("en")} feature${features.length === 1 ? "" : "s"}`;
    count.textContent = (found.length < features.length ? `${found.length.toLocaleString("en")} of ${all}` : all)
      + (pageCount() > 1 ? `, page ${page} of ${pageCount()}` : "");
    drawPager();
  }
  function drawPager() {
    const last = pageCount();
    pager.hidden = last < 2;
    const near = [...new Set([1, page - 1, page, page + 1, last])].filter((n) => n >= 1 && n <= last);
    const parts = [];
    near.forEach((n, i) => {
      if (i && n > near[i - 1] + 1) parts.push(make("span", { class: "gap" }, "…"));
      parts.push(make("a", { href: address(n), "data-page": n, "aria-label": `Page ${n}`, "aria-current": n === page ? "page" : "" }, `${n}`));
    });
    pager.replaceChildren(...parts);
  }
  function address(to) {
    const asked = new URLSearchParams();
    if (query) asked.set("q", query);
    for (const choice of choices) if (choice.value) asked.set(choice.id, choice.value);
    if (to > 1) asked.set("page", to);
    return asked.size ? `?${asked}` : location.pathname.split("/").at(-1);
  }
  // A file:// page may be refused a change of its address; the page works without.
  function remember(isStep) {
    try { history[isStep ? "pushState" : "replaceState"](null, "", address(page)); } catch { /* refused */ }
  }
  function search(words) {
    query = words.trim();
    page = 1;
    filter();
    draw();
    remember(false);
  }
  function turn(to, focus) {
    if (to < 1 || to > pageCount()) return false;
    page = to;
    draw();
    remember(true);
    if (focus) select(focus === "last" ? grid.lastElementChild : grid.firstElementChild);
    else window.scrollTo({ top: 0 });
    return true;
  }
  function select(element) {
    if (!element?.classList.contains("feature")) return;
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }
  function move(by) {
    const cards = [...grid.querySelectorAll(".feature")];
    const at = cards.findIndex((one) => one.contains(document.activeElement));
    const next = at < 0 ? (by > 0 ? 0 : cards.length - 1) : at + by;
    if (next >= cards.length) turn(page + 1, "first");
    else if (next < 0) turn(page - 1, "last");
    else select(cards[next]);
  }
  /* Shows a feature on whichever page it lies; where the choices hide it, they are cleared. */
  function jump(k) {
    let at = found.findIndex((f) => f.k === k);
    if (at < 0) {
      query = find.value = "";
      for (const choice of choices) choice.value = "";
      filter();
      at = found.findIndex((f) => f.k === k);
    }
    if (at < 0) return;
    page = Math.floor(at / PER_PAGE) + 1;
    draw();
    remember(true);
    select(byId(`feature-${k}`));
  }

  for (const choice of choices) choice.addEventListener("change", () => search(find.value));
  let waiting = 0;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(find.value), 80);
  });
  find.form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    search(find.value);
    select(grid.firstElementChild);
  });
  find.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      clearTimeout(waiting);
      if (find.value) { find.value = ""; search(""); } else find.blur();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      select(grid.firstElementChild);
    }
  });
  grid.addEventListener("click", (event) => {
    const to = event.target.closest("a[data-feature]")?.dataset.feature;
    if (to === undefined || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    jump(Number(to));
  });
  pager.addEventListener("click", (event) => {
    const to = event.target.closest("a")?.dataset.page;
    if (!to || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    turn(Number(to));
  });
  window.Entoptic.listen({
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    ArrowRight: () => turn(page + 1), ArrowLeft: () => turn(page - 1),
    "/": () => { find.focus(); find.select(); },
    Escape: () => { if (query) { find.value = ""; search(""); } else document.activeElement.blur(); },
  });
  function open() {
    const asked = new URLSearchParams(location.search);
    query = (asked.get("q") || "").trim();
    find.value = query;
    for (const choice of choices) {
      const value = asked.get(choice.id) || "";
      choice.value = [...choice.options].some((option) => option.value === value) ? value : "";
    }
    page = Math.max(1, Math.floor(Number(asked.get("page"))) || 1);
    filter();
    const wanted = /^#feature-(\d+)$/.exec(location.hash);
    if (wanted) jump(Number(wanted[1]));
    else draw();
  }
  window.addEventListener("popstate", open);
  open();
})();
