/* Hover, focus and arrow keys of a circuit's drawing. */
(() => {
  "use strict";
  const drawing = document.getElementById("drawing");
  const nodes = [...drawing.querySelectorAll(".node")];
  const edges = [...drawing.querySelectorAll(".edge")];
  const boxOf = new Map(); // receiver -> nodes that it feeds
  for (const node of nodes) boxOf.set(node.dataset.receives, [...(boxOf.get(node.dataset.receives) ?? []), node]);

  function show(chosen) {
    drawing.classList.toggle("choosing", chosen !== null);
    const name = chosen?.dataset.name;
    const receiver = chosen?.dataset.receives || undefined;
    const near = new Set();
    for (const edge of edges) {
      const { from, to } = edge.dataset;
      const isNear = from === name || to === receiver;
      edge.classList.toggle("near", isNear);
      if (!isNear) continue;
      near.add(from);
      for (const node of boxOf.get(to) ?? []) near.add(node.dataset.name);
    }
    for (const node of nodes) {
      node.classList.toggle("near", near.has(node.dataset.name));
      node.classList.toggle("chosen", node === chosen);
      document.getElementById(`node-${node.dataset.node}`).classList.toggle("chosen", node === chosen);
    }
  }

  const strongest = document.getElementById("strongest");
  const said = document.getElementById("strongest-said");
  function limit() {
    const count = Number(strongest.value);
    const all = edges.length;
    for (const edge of edges) edge.classList.toggle("beyond", Number(edge.dataset.rank) > count);
    said.textContent = count >= all ? `all ${all}` : `the strongest ${count} of ${all}`;
  }
  strongest.addEventListener("input", limit);
  limit();

  const scroll = drawing.parentElement;
  const fits = document.querySelector('[data-action="fit"]');
  function fit() {
    const whole = scroll.classList.toggle("fit");
    fits.setAttribute("aria-pressed", String(whole));
    fits.textContent = whole ? "Full size" : "Whole circuit";
  }
  fits.addEventListener("click", fit);
  fits.hidden = drawing.width.baseVal.value <= scroll.clientWidth;

  let pinned = null;
  for (const node of nodes) {
    node.addEventListener("pointerenter", () => show(node));
    node.addEventListener("pointerleave", () => show(pinned));
    node.addEventListener("focus", () => { pinned = node; show(node); });
    node.addEventListener("click", () => node.focus());
  }

  function step(across, down) {
    const at = nodes.indexOf(pinned);
    if (at < 0) return nodes[0].focus();
    const column = Number(pinned.dataset.column);
    const all = nodes.filter((node) => Number(node.dataset.column) === column + across);
    if (!all.length) return undefined;
    const mine = nodes.filter((node) => Number(node.dataset.column) === column).indexOf(pinned);
    const place = across ? Math.min(mine, all.length - 1) : Math.min(Math.max(mine + down, 0), all.length - 1);
    all[place].focus();
    all[place].scrollIntoView({ block: "nearest", inline: "nearest" });
    return undefined;
  }

  window.Entoptic.listen({
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    f: fit,
    Escape: () => { pinned?.blur(); pinned = null; show(null); },
  });
})();
