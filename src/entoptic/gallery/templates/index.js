/* The index: one page of units at a time, drawn from data.js. All text goes in as text, never as markup. */
(() => {
  "use strict";
  const { listen, session } = window.Entoptic;
  const { base, perPage, manyModels, methods, units } = window.ENTOPTIC;
  const [find, grid, columns, pager, count] = ["q", "grid", "columns", "pages", "count"].map((id) =>
    document.getElementById(id));
  // Side by side only as long as a picture keeps a useful size; more methods than that flow.
  const inColumns = methods.length <= 6;
  // A method with several samples gets a wider column, so that all pictures are of one size; what does not fit
  // beside one another stands below.
  const most = methods.map((_, method) => Math.max(...units.slice(0, 500).map((unit) =>
    unit.pictures.filter((picture) => picture[0] === method).length), 1));
  const sum = (cap) => most.reduce((total, n) => total + Math.min(n, cap), 0);
  const cap = [6, 4, 3, 2].find((n) => sum(n) <= 6) || 1;
  const widths = most.map((n) => Math.min(n, cap));
  // One picture a unit would leave most of each row empty.
  const inCards = sum(cap) === 1;
  grid.classList.toggle("flow", !inColumns);
  grid.classList.toggle("cards", inCards);
  document.body.style.setProperty("--columns",
    `repeat(${sum(cap)}, minmax(0, 1fr))`);

  for (const unit of units) {
    const names = [...new Set(unit.pictures.map((picture) => methods[picture[0]].join(" ")))];
    unit.text = [unit.unit, unit.label, unit.model, unit.layer, ...names].join("\n").toLowerCase();
  }

  let query = "";
  let page = 1;
  let found = units;

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== "") element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const plainTitle = (method) => methods[method][1].split(" (")[0];
  const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

  function figure(unit, picture) {
    const [method, sample, anchor, file, width, height, variant, chip, note, tone, sentence] = picture;
    const name = unit.label ? `${unit.unit} (${unit.label})` : unit.unit;
    const image = make("img", {
      src: `${base}/${unit.folder}/${file}`, width, height, loading: "lazy", decoding: "async",
    });
    image.alt = `What ${name} of ${unit.model} looks for, by ${methods[method][0]}, sample ${sample}`;
    const caption = make("figcaption", {},
      chip
        ? make("span", { class: "chip", title: sentence },
          make("span", { class: `tone ${tone}` }), make("b", {}, chip), " ", make("small", {}, note))
        : make("span", { class: "chip" }, make("span", { class: "tone" }), make("b", {}, "nothing measured")));
    if (variant) caption.append(make("span", { class: "variant" }, variant));
    const link = make("a", { href: `${unit.href}#${encodeURIComponent(anchor)}`, tabindex: "-1" }, image);
    return make("figure", { style: `--width:${width}px` }, link, caption);
  }

  function cell(unit, method) {
    const pictures = unit.pictures.filter((picture) => picture[0] === method);
    if (!pictures.length) return make("div", { class: "cell empty", "aria-hidden": "true", style: `--span:${widths[method]}` }, "–");
    const samples = make("div", { class: "samples" });
    samples.append(...pictures.map((picture) => figure(unit, picture)));
    const kind = pictures.length > 1 || methods.length === 1 ? "cell several" : "cell";
    return make("div", { class: kind, style: `--span:${widths[method]}` }, make("p", { class: "method" }, plainTitle(method)), samples);
  }

  function row(unit) {
    const title = make("h2", {}, make("a", { href: unit.href }, unit.label || unit.unit));
    const head = make("div", { class: "head" }, title);
    if (unit.label) head.append(make("code", {}, unit.unit));
    if (manyModels) head.append(make("p", { class: "muted" }, unit.model));
    return make("article", { class: "row", "data-unit": unit.id }, head, ...methods.map((_, method) => cell(unit, method)));
  }

  const pageCount = () => Math.max(1, Math.ceil(found.length / perPage));
  const address = (toPage) => {
    const search = new URLSearchParams();
    if (query) search.set("q", query);
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
    grid.replaceChildren(...here.map(row));
    columns.hidden = !here.length || !inColumns || inCards;
    if (!here.length) {
      const clear = make("button", { type: "button", class: "plain" }, "Show all units");
      clear.addEventListener("click", () => { find.value = ""; search(""); find.focus(); });
      grid.append(make("p", { class: "nothing" }, `No unit matches “${query}”. `, clear));
    }
    count.textContent = (query ? `${found.length.toLocaleString("en")} of ${plural(units.length, "unit")}`
      : plural(units.length, "unit")) + (pageCount() > 1 ? `, page ${page} of ${pageCount()}` : "");
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
    found = terms.length ? units.filter((unit) => terms.every((term) => unit.text.includes(term))) : units;
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
    page = Math.floor(Number(asked.get("page"))) || 1;
    filter();
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
    // index.html#unit-… finds its unit on whichever page it has come to lie.
    let at = id ? found.findIndex((unit) => unit.id === id) : -1;
    if (id && at < 0) {
      at = units.findIndex((unit) => unit.id === id);
      if (at >= 0) { query = find.value = ""; found = units; }
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

  columns.append(make("span"), ...methods.map(([name, title], method) => {
    const [plain, rest] = title.split(/ \((.*)\)$/);
    return make("span", { title: name, style: `--span:${widths[method]}` }, make("b", {}, plain), rest ? make("small", {}, rest) : "");
  }));
  window.addEventListener("popstate", open);
  window.addEventListener("hashchange", open);
  open();
})();
