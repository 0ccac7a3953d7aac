/* Small drawings for the instructions: stripes stand for strong reactions, dots for weak ones. */
"use strict";
(function (Study) {
  const space = "http://www.w3.org/2000/svg";
  let serial = 0;

  function shape(tag, about) {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(about)) made.setAttribute(name, value);
    return made;
  }

  function tile(x, y, size, kind, turn) {
    const name = `tile${(serial += 1)}`;
    const clip = shape("clipPath", { id: name });
    clip.append(shape("rect", { x, y, width: size, height: size, rx: 3 }));
    const group = shape("g", { "clip-path": `url(#${name})` });
    group.append(shape("rect", { x, y, width: size, height: size, fill: "#f4f4f2" }));
    const inner = shape("g", { transform: `rotate(${turn} ${x + size / 2} ${y + size / 2})` });
    if (kind === "stripes") {
      for (let i = -1; i < 6; i += 1)
        inner.append(shape("rect", { x: x - size, y: y + (i * size) / 4, width: 3 * size, height: size / 8, fill: "#333" }));
    } else {
      for (let i = 0; i < 3; i += 1)
        for (let j = 0; j < 3; j += 1)
          inner.append(
            shape("circle", { cx: x + (size * (i + 0.5)) / 3, cy: y + (size * (j + 0.5)) / 3, r: size / 11, fill: "#8a5a2b" }),
          );
    }
    group.append(inner);
    return [clip, group];
  }

  function label(x, y, text) {
    const made = shape("text", { x, y, "font-size": 12, "text-anchor": "middle", fill: "#222" });
    made.textContent = text;
    return made;
  }

  function drawing(width, height, ...parts) {
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", class: "drawing" });
    svg.append(...parts.flat());
    return svg;
  }

  function ring(x, y, size) {
    return shape("rect", { x: x - 4, y: y - 4, width: size + 8, height: size + 8, rx: 6, fill: "none", stroke: "#0b5cad", "stroke-width": 3 });
  }

  function grid(x, y, kind) {
    const parts = [];
    for (let i = 0; i < 4; i += 1) parts.push(...tile(x + (i % 2) * 36, y + Math.floor(i / 2) * 36, 32, kind, i * 13 - 20));
    return parts;
  }

  const drawings = {
    "2afc": () =>
      drawing(340, 104, grid(24, 24, "dots"), grid(248, 24, "stripes"), tile(138, 26, 30, "stripes", 35), tile(138, 66, 30, "dots", 10),
        ring(138, 26, 30), label(58, 14, Study.text("trial.low")), label(282, 14, Study.text("trial.high")), label(182, 46, "A"), label(182, 86, "B")),
    intruder: () =>
      drawing(300, 70, tile(20, 18, 48, "stripes", 5), tile(88, 18, 48, "stripes", 40), tile(156, 18, 48, "dots", 0), tile(224, 18, 48, "stripes", -25), ring(156, 18, 48)),
    preference: () => drawing(300, 84, tile(60, 14, 60, "stripes", 0), tile(180, 14, 60, "dots", 20), label(150, 48, "?")),
    "class-match": () => drawing(300, 84, tile(60, 12, 60, "stripes", 0), label(150, 46, "↔"), label(215, 46, "“…”")),
    "inner-match": () => drawing(300, 84, grid(40, 8, "stripes"), label(150, 46, "↔"), tile(190, 12, 60, "stripes", 30)),
    describe: () => drawing(300, 84, tile(60, 12, 60, "stripes", 15), label(150, 46, "→"), label(215, 46, "“…”")),
  };

  /** What a task is, in words and as a drawing. */
  Study.taskHow = function (task) {
    const { make, text } = Study;
    return make("section", { class: "how" }, make("h2", {}, text(`task.${task}.title`)), make("p", {}, text(`task.${task}.how`)), drawings[task]());
  };
})(window.Study);
