/* Pointer, keys, search and colours of an atlas. */
(() => {
  "use strict";
  const map = window.AtlasMap, { data, columns, canvas, state } = map;
  const names = data.names.split("\n"), labels = data.labels.split("\n");
  const kinds = columns.find((one) => one.kinds && one.name === "class");
  const kindOf = (i) => (kinds && kinds.values[i] >= 0 ? kinds.kinds[kinds.values[i]] : "");
  const detail = document.getElementById("detail"), first = detail.firstElementChild;
  const search = document.getElementById("search"), found = document.getElementById("found");
  const select = document.getElementById("colour"), legend = document.getElementById("legend");
  const status = document.getElementById("status");
  const make = (kind, text = "", more = {}) => Object.assign(document.createElement(kind), { textContent: text }, more);
  const rounded = (v) => (Number.isNaN(v) ? "not measured" : String(Number(v.toPrecision(3))).replace("-", "\u2212"));

  /* --- colours --- */
  for (const one of columns) select.append(make("option", one.name.replaceAll("_", " "), { value: one.name, title: one.title }));
  select.value = columns.some((one) => one.name === data.first) ? data.first : columns[0].name;
  function recolour() {
    map.colourBy(select.value);
    const column = state.colour;
    legend.replaceChildren(make("li", column.title, { className: "muted" }));
    const dot = (colour, text) => {
      const line = make("li"), mark = make("span", "", { className: "dot" });
      mark.style.background = colour;
      line.append(mark, text);
      legend.append(line);
    };
    if (column.kinds) {
      const most = 24;
      column.kinds.slice(0, most).forEach((kind, i) => dot(data.palette[i % data.palette.length], kind));
      if (column.kinds.length > data.palette.length) {
        const further = column.kinds.length - most;
        legend.append(make("li", `${further > 0 ? `and ${further} more; ` : ""}colours come round again`, { className: "muted" }));
      }
    } else {
      const line = make("li"), ramp = make("span", "", { className: "ramp" });
      ramp.style.background = `linear-gradient(90deg, ${data.scale.join(", ")})`;
      line.append(rounded(column.low), ramp, rounded(column.high));
      legend.append(line);
    }
    if (column.values.some((v) => (column.kinds ? v < 0 : Number.isNaN(v)))) dot(data.unknown, "none");
  }
  select.addEventListener("change", recolour);

  /* --- one point --- */
  function tell(i) {
    if (i < 0) return detail.replaceChildren(first);
    const large = make("canvas", "", { width: 192, height: 192 });
    const pen = large.getContext("2d");
    pen.imageSmoothingQuality = "high";
    const paint = () => map.picture(pen, i, 0, 0, 192) || setTimeout(paint, 60);
    paint();
    const list = make("dl");
    for (const one of columns) {
      const v = one.values[i];
      if (one.kinds ? v < 0 : Number.isNaN(v)) continue;
      list.append(make("dt", one.name.replaceAll("_", " "), { title: one.title }), make("dd", one.kinds ? one.kinds[v] : rounded(v)));
    }
    const parts = [large, make("h2", labels[i] || names[i])];
    if (labels[i]) parts.push(make("p", names[i], { className: "small muted" }));
    const [suggested, told] = data.suggested[i] ?? [];
    if (suggested) {
      const line = make("p", "Suggested name: ", { className: "suggestion small", title: "A suggestion, not the truth: rho is how well the word ranks photos as the unit does." });
      line.append(make("b", suggested), make("span", `, ${told}`, { className: "muted" }));
      parts.push(line);
    }
    parts.push(list);
    const link = data.links[i];
    if (link) parts.push(make("a", "its page", { href: link }));
    large.setAttribute("role", "img");
    large.setAttribute("aria-label", `picture of ${names[i]}`);
    return detail.replaceChildren(...parts);
  }
  function choose(i) {
    state.chosen = i;
    canvas.dataset.chosen = i < 0 ? "" : names[i];
    tell(i);
    map.ask();
  }
  function follow() {
    const link = data.links[state.chosen];
    if (link) window.location.href = link;
  }

  /* --- search: every word in the name, the label or the class --- */
  let texts = null;
  function find() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    texts ??= names.map((name, i) => `${name} ${labels[i]} ${kindOf(i)} ${data.suggested[i]?.[0] ?? ""}`.toLowerCase());
    const isNumber = words.length === 1 && /^\d+$/.test(words[0]);
    const end = new RegExp(`(^|[^0-9])${isNumber ? words[0] : "x"}([^0-9]|$)`);
    let hits = [];
    if (words.length) {
      for (let i = 0; i < names.length; i++) if (isNumber ? end.test(texts[i]) : words.every((word) => texts[i].includes(word))) hits.push(i);
    }
    state.matches = words.length ? hits : null;
    status.textContent = words.length ? `${hits.length.toLocaleString("en")} of ${names.length.toLocaleString("en")} ${data.noun}` : "";
    found.hidden = !hits.length;
    found.replaceChildren(...hits.slice(0, 12).map((i) => {
      const line = make("li"), button = make("button", labels[i] ? `${labels[i]} \u00b7 ${names[i]}` : names[i], { type: "button", className: "plain small" });
      button.addEventListener("click", () => { choose(i); map.show(i); canvas.focus(); });
      line.append(button);
      return line;
    }));
    map.ask();
  }
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; find(); canvas.focus(); }
    if (event.key === "Enter" && state.matches?.length) { choose(state.matches[0]); map.show(state.matches[0]); canvas.focus(); }
  });

  /* --- pointer: drag, wheel, pinch --- */
  const fingers = new Map();
  let moved = 0;
  const spot = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, spot(event));
    moved = 0;
    canvas.classList.add("dragged");
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = spot(event), before = fingers.get(event.pointerId);
    if (!before) {
      const near = map.at(...now, 16);
      if (near !== state.near) {
        state.near = near;
        if (state.chosen < 0 || near >= 0) tell(near >= 0 ? near : state.chosen);
        map.ask();
      }
      return;
    }
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const span = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      map.zoom(span(now) / Math.max(span(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    map.move((now[0] - before[0]) / fingers.size, (now[1] - before[1]) / fingers.size);
    fingers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => {
      const last = fingers.size === 1;
      fingers.delete(event.pointerId);
      canvas.classList.remove("dragged");
      if (kind === "pointerup" && last && moved < 4) choose(map.at(...spot(event)));
    });
  }
  canvas.addEventListener("pointerleave", () => { state.near = -1; tell(state.chosen); map.ask(); });
  canvas.addEventListener("dblclick", follow);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...spot(event));
  }, { passive: false });
  document.addEventListener("click", (event) => {
    const how = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (how) ({ in: () => map.zoom(1.6), out: () => map.zoom(1 / 1.6), all: map.all })[how]();
    if (event.target.closest("[data-action=theme]")) map.ask();
  });

  /* --- keys --- */
  function step(across, down) {
    if (document.activeElement !== canvas) return false;
    const from = state.chosen >= 0 ? state.chosen : map.at(canvas.clientWidth / 2, canvas.clientHeight / 2, 1e6);
    const to = state.chosen < 0 ? from : map.towards(from, across, down);
    if (to >= 0) { choose(to); map.show(to); }
    return undefined;
  }
  window.Entoptic.listen({
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    "+": () => map.zoom(1.6), "=": () => map.zoom(1.6), "-": () => map.zoom(1 / 1.6), 0: map.all,
    "/": () => search.focus(), Escape: () => choose(-1),
    Enter: () => (document.activeElement === canvas ? follow() : false),
  });
  new MutationObserver(map.ask).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", map.ask);
  new ResizeObserver(map.fit).observe(canvas);
  map.fit();
  recolour();
})();
