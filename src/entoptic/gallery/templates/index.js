/* The index: sorting and filters. Rows are made in index_rows.js, search and pages in paged_list.js. */
(() => {
  "use strict";
  const { session, make, pagedList } = window.Entoptic;
  const { perPage, noun, methods, metrics, layers } = window.ENTOPTIC;
  const { units, tones, best, row, layOut } = window.EntopticRows;
  const byId = (id) => document.getElementById(id);
  const [find, grid, columns, pager, count] = ["q", "grid", "columns", "pages", "count"].map(byId);
  const choices = ["sort", "method", "layer", "mark"].map(byId);
  const [sort, method, layer, mark] = choices;
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

  function draw(list) {
    const here = list.here;
    const hasColumns = layOut(grid, columns, shownMethod());
    grid.replaceChildren(...here.map((unit) => row(unit, shownMethod(), sortMetric())));
    columns.hidden = !here.length || !hasColumns;
    if (!here.length) {
      const clear = make("button", { type: "button", class: "plain" }, `Show all ${noun}s`);
      clear.addEventListener("click", () => { list.clear(); list.search(""); find.focus(); });
      grid.append(make("p", { class: "nothing" }, list.query ? `No ${noun} matches “${list.query}”. ` : `No ${noun} fits these choices. `, clear));
    }
    count.textContent = list.counted(noun);
    session.set("back", list.address);
  }

  function filter(query) {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    const [shown, at] = [shownMethod(), layers.indexOf(layer.value)];
    const wanted = mark.value === "none" ? "" : mark.value;
    const found = units.filter((unit) => terms.every((term) => unit.text.includes(term))
      && (!layer.value || unit.layer === at)
      && (shown < 0 && !mark.value || unit.pictures.some((picture) => (shown < 0 || picture.method === shown) && (!mark.value || picture.tone === wanted))));
    const metric = sortMetric();
    if (metric < 0) return found;
    const sign = metrics[metric][2] < 0 ? 1 : -1;
    const of = new Map(found.map((unit) => [unit, best(shown < 0 ? unit
      : { pictures: unit.pictures.filter((picture) => picture.method === shown) }, metric)]));
    // Units without the number stand last; equals keep their order.
    return found.sort((a, b) => {
      const [x, y] = [of.get(a), of.get(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
  }

  const links = () => [...grid.querySelectorAll("h2 a")];
  function arrive(list) {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of ours */ }
    // index.html#unit-… finds its unit on whichever page it has come to lie.
    const at = id ? list.reveal((unit) => unit.id === id) : -1;
    list.draw();
    if (id === "find") find.focus();
    if (at >= 0) {
      // Rows carry no id: the browser's own jump to one would take the focus away again.
      const link = links()[at % perPage];
      link.focus({ preventScroll: true });
      link.closest(".row").scrollIntoView({ block: "center" });
    }
  }

  const list = pagedList({
    all: units, perPage, own: "index.html", find, pager, choices, steps: true, filter, draw, stops: links, row: ".row", arrive,
  });
  window.addEventListener("hashchange", list.open);
  list.open();
})();
