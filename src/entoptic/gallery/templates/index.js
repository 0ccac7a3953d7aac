/* The index: search, sorting, filters and pages. Rows are made in index_rows.js. */
(() => {
  "use strict";
  const { listen, session } = window.Entoptic;
  const { perPage, noun, methods, metrics, layers } = window.ENTOPTIC;
  const { units, tones, best, make, row, layOut } = window.EntopticRows;
  const byId = (id) => document.getElementById(id);
  const [find, grid, columns, pager, count] = ["q", "grid", "columns", "pages", "count"].map(byId);
  const choices = ["sort", "method", "layer", "mark"].map(byId);
  const [sort, method, layer, mark] = choices;

  let query = "";
  let page = 1;
  let found = units;
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
  const shownMethod = () => methods.findIndex(([name]) => name === method.value);
  const sortMetric = () => metrics.findIndex(([name]) => name === sort.value);

  for (const [name, title, direction] of metrics) {
    sort.append(make("option", { value: name }, `${title}, ${direction < 0 ? "lowest" : "highest"} first`));
  }
  for (const [name, title] of methods) method.append(make("option", { value: name }, title.split(" (")[0]));
  for (const name of layers) if (name) layer.append(make("option", { value: name }, name));
  // A choice of one is none.
  method.parentElement.hidden = methods.length < 2;
  layer.parentElement.hidden = layers.length < 2;
  mark.parentElement.hidden = tones.size < 2;

  const pageCount = () => Math.max(1, Math.ceil(found.length / perPage));
  const address = (toPage) => {
    const search = new URLSearchParams();
    if (query) search.set("q", query);
    for (const choice of choices) if (choice.value) search.set(choice.id, choice.value);
    if (toPage > 1) search.set("page", toPage);
    return String(search) ? `?${search}` : "index.html";
  };

  function drawPager() {
    const last = pageCount();
    pager.hidden = last === 1;
    const near = new Set([1, last, page - 1, page, page + 1].filter((n) => n >= 1 && n <= last));
    const items = [];
    let before = 0;
    const step = (to, words, rel) => to >= 1 && to <= last
      ? make("a", { href: address(to), "data-page": to, rel }, words) : make("span", { class: "off" }, words);
    items.push(step(page - 1, "← Before", "prev"));
    for (const n of [...near].sort((a, b) => a - b)) {
      if (n > before + 1) items.push(make("span", { class: "gap" }, "…"));
      items.push(make("a", { href: address(n), "data-page": n, "aria-label": `Page ${n}`,
        "aria-current": n === page ? "page" : null }, n.toLocaleString("en")));
      before = n;
    }
    items.push(step(page + 1, "Next →", "next"));
    pager.replaceChildren(...items);
  }

  function draw() {
    page = Math.min(Math.max(1, page), pageCount());
    const start = (page - 1) * perPage;
    const here = found.slice(start, start + perPage);
    const hasColumns = layOut(grid, columns, shownMethod());
    grid.replaceChildren(...here.map((unit) => row(unit, shownMethod(), sortMetric())));
    columns.hidden = !here.length || !hasColumns;
    if (!here.length) {
      const clear = make("button", { type: "button", class: "plain" }, `Show all ${noun}s`);
      clear.addEventListener("click", () => { for (const choice of choices) choice.value = ""; find.value = ""; search(""); find.focus(); });
      grid.append(make("p", { class: "nothing" }, query ? `No ${noun} matches “${query}”. ` : `No ${noun} fits these choices. `, clear));
    }
    count.textContent = (found.length < units.length || query ? `${found.length.toLocaleString("en")} of ${plural(units.length, noun)}`
      : plural(units.length, noun)) + (pageCount() > 1 ? `, page ${page} of ${pageCount()}` : "");
    drawPager();
    session.set("back", address(page));
  }

  // A file:// page may be refused a change of its address; the page works without.
  function remember(isStep) {
    try {
      const to = address(page);
      history[isStep ? "pushState" : "replaceState"](null, "", to === "index.html" ? location.pathname : to);
    } catch { /* refused */ }
  }

  function filter() {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    const [shown, at] = [shownMethod(), layers.indexOf(layer.value)];
    const wanted = mark.value === "none" ? "" : mark.value;
    found = units.filter((unit) => terms.every((term) => unit.text.includes(term))
      && (!layer.value || unit.layer === at)
      && (shown < 0 && !mark.value || unit.pictures.some((picture) => (shown < 0 || picture.method === shown) && (!mark.value || picture.tone === wanted))));
    const metric = sortMetric();
    if (metric < 0) return;
    const sign = metrics[metric][2] < 0 ? 1 : -1;
    const of = new Map(found.map((unit) => [unit, best(shown < 0 ? unit
      : { pictures: unit.pictures.filter((picture) => picture.method === shown) }, metric)]));
    // Units without the number stand last; equals keep their order.
    found.sort((a, b) => {
      const [x, y] = [of.get(a), of.get(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
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
    const links = rows();
    if (focus === "last") select(links.at(-1));
    else if (focus === "first") select(links[0]);
    if (focus !== "last") window.scrollTo({ top: 0 });
    return true;
  }

  const rows = () => [...grid.querySelectorAll("h2 a")];
  function select(link) {
    if (!link) return;
    link.focus({ preventScroll: true });
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    link.closest(".row").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
  }
  function move(by) {
    const links = rows();
    const current = links.findIndex((link) => link.closest(".row").contains(document.activeElement));
    const next = current < 0 ? (by > 0 ? 0 : links.length - 1) : current + by;
    if (next >= links.length) turn(page + 1, "first");
    else if (next < 0) turn(page - 1, "last");
    else select(links[next]);
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
    select(rows()[0]);
  });
  find.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      clearTimeout(waiting);
      if (find.value) { find.value = ""; search(""); } else find.blur();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      select(rows()[0]);
    }
  });
  pager.addEventListener("click", (event) => {
    const to = event.target.closest("a")?.dataset.page;
    if (!to || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    turn(Number(to), "top");
  });
  listen({
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    ArrowRight: () => turn(page + 1, "top"), ArrowLeft: () => turn(page - 1, "top"),
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
    page = Math.floor(Number(asked.get("page"))) || 1;
    filter();
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
    // index.html#unit-… finds its unit on whichever page it has come to lie.
    let at = id ? found.findIndex((unit) => unit.id === id) : -1;
    if (id && at < 0) {
      at = units.findIndex((unit) => unit.id === id);
      if (at >= 0) {
        query = find.value = "";
        for (const choice of choices) choice.value = "";
        found = units;
      }
    }
    if (at >= 0) page = Math.floor(at / perPage) + 1;
    draw();
    if (id === "find") find.focus();
    if (at >= 0) {
      // Rows carry no id: the browser's own jump to one would take the focus away again.
      const link = rows()[at % perPage];
      link.focus({ preventScroll: true });
      link.closest(".row").scrollIntoView({ block: "center" });
    }
  }

  window.addEventListener("popstate", open);
  window.addEventListener("hashchange", open);
  open();
})();
