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
    Escape: () => { pinned?.blur(); pinned = null; show(null); },
  });
})();
