/* One picture large, over the page. Without this, the same links open the file itself. */
(() => {
  "use strict";
  const { turnSmooth } = window.Entoptic;
  const dialog = document.getElementById("large");
  const image = document.createElement("img");
  dialog.querySelector("figure").prepend(image);
  const title = document.getElementById("large-title");
  const how = dialog.querySelector(".how");
  const links = () => [...document.querySelectorAll("a.enlarge")].filter((link) => link.offsetParent);
  let at = 0;

  /* By a whole number of times where that fits, so that all pixels are equal. */
  function fit() {
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    if (!width) return;
    const room = Math.min((innerWidth * 0.96 - 40) / width, (innerHeight * 0.96 - 170) / height);
    const times = room >= 1 ? Math.floor(room) : Math.max(room, 0.1);
    dialog.style.setProperty("--width", `${Math.round(width * times)}px`);
    dialog.classList.toggle("small-file", times > 1);
    const isSmooth = document.documentElement.classList.contains("smooth");
    const size = `${width} × ${height} pixels`;
    if (times > 1) how.textContent = `${size}, ${times} times as large, ${isSmooth ? "smoothed" : "each pixel a square"}`;
    else how.textContent = times === 1 ? `${size}, as it is` : `${size}, made smaller to fit`;
  }
  function show(place) {
    const all = links();
    if (!all.length) return;
    at = (place + all.length) % all.length;
    const shown = all[at].querySelector("img");
    image.src = all[at].href;
    image.alt = shown.alt;
    title.textContent = all[at].dataset.title || shown.alt;
    for (const name of ["before", "after"]) dialog.querySelector(`[data-large=${name}]`).hidden = all.length < 2;
    if (!dialog.open) dialog.showModal();
    fit();
  }
  function smooth() { turnSmooth(); fit(); }

  image.addEventListener("load", fit);
  window.addEventListener("resize", () => { if (dialog.open) fit(); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.enlarge");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      show(links().indexOf(link));
    }
    if (event.target === dialog || event.target === image) dialog.close();
    const asked = event.target.closest("[data-large]")?.dataset.large;
    if (asked === "before") show(at - 1);
    if (asked === "after") show(at + 1);
    if (asked === "smooth") smooth();
  });
  dialog.addEventListener("keydown", (event) => {
    const act = { ArrowLeft: () => show(at - 1), ArrowRight: () => show(at + 1), s: smooth, z: () => dialog.close() }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  window.Entoptic.enlarge = () => show(Math.max(0, links().findIndex((link) => link.classList.contains("frame"))));
})();
