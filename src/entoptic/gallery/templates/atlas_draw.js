/* Draws the map of an atlas: points in their colours, and pictures where there is room for them. */
(() => {
  "use strict";
  const data = window.ATLAS;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const n = data.n;
  const axes = data.at.map((text) => Float32Array.from(new Uint16Array(bytes(text)), (v) => (v / 65535) * 2 - 1));
  const columns = data.columns.map((one) => ({
    ...one, values: one.kinds ? new Int16Array(bytes(one.values)) : new Float32Array(bytes(one.values)),
  }));

  const canvas = document.getElementById("map");
  const pen = canvas.getContext("2d");
  const view = { x: 0, y: 0, zoom: 1, turn: 0, tilt: 0 };
  const state = { chosen: -1, near: -1, matches: null, colour: null };
  const screen = { x: new Float32Array(n), y: new Float32Array(n), there: new Uint8Array(n) };
  const PICTURES = 4000; // points in view beyond which no picture is drawn
  const MANY = 6000; // points in view beyond which they are written as pixels
  const FAINT = 0.18; // what was not found by a search
  const ROOM = 40;

  /* Points of one colour, so that a colour is set once. */
  const bins = { colours: [], members: [] };
  function colourBy(name) {
    const column = columns.find((one) => one.name === name) ?? columns[0];
    state.colour = column;
    const groups = new Map();
    const add = (colour, i) => groups.get(colour)?.push(i) ?? groups.set(colour, [i]);
    if (column.kinds) {
      for (let i = 0; i < n; i++) {
        const kind = column.values[i];
        add(kind < 0 ? data.unknown : data.palette[kind % data.palette.length], i);
      }
    } else {
      const known = column.values.filter((v) => !Number.isNaN(v)).sort();
      column.low = known[Math.floor(0.02 * (known.length - 1))] ?? 0;
      column.high = known[Math.ceil(0.98 * (known.length - 1))] ?? 1;
      const span = column.high - column.low || 1;
      for (let i = 0; i < n; i++) {
        const v = column.values[i];
        const step = Math.round(Math.min(1, Math.max(0, (v - column.low) / span)) * (data.scale.length - 1));
        add(Number.isNaN(v) ? data.unknown : data.scale[step], i);
      }
    }
    bins.colours = [...groups.keys()];
    bins.members = [...groups.values()].map((all) => Int32Array.from(all));
    bins.of = new Array(n);
    bins.members.forEach((all, which) => all.forEach((i) => { bins.of[i] = bins.colours[which]; }));
    ask();
  }

  /* Where points are on the screen, in CSS pixels. */
  let width = 1, height = 1;
  function place() {
    const side = (Math.min(width, height) / 2 - 30) * view.zoom;
    const left = width / 2 - view.x * side, top = height / 2 + view.y * side;
    const [x, y, z] = axes;
    const [ct, st, cp, sp] = [Math.cos(view.turn), Math.sin(view.turn), Math.cos(view.tilt), Math.sin(view.tilt)];
    let seen = 0;
    for (let i = 0; i < n; i++) {
      let across = x[i], up = y[i], front = true;
      if (data.sphere) {
        const turned = ct * x[i] + st * z[i], depth = ct * z[i] - st * x[i];
        across = turned;
        up = cp * y[i] - sp * depth;
        front = cp * depth + sp * y[i] >= 0;
      }
      const px = left + across * side, py = top - up * side;
      screen.x[i] = px;
      screen.y[i] = py;
      const there = front && px > -ROOM && py > -ROOM && px < width + ROOM && py < height + ROOM;
      screen.there[i] = there;
      seen += there;
    }
    return { seen, side, left, top };
  }

  const sheets = data.sheets.map(() => null);
  const onRow = Math.floor(data.side / data.cell), onSheet = onRow * onRow;
  function sheet(which) {
    if (!sheets[which]) {
      sheets[which] = new Image();
      sheets[which].onload = ask;
      sheets[which].src = data.sheets[which];
    }
    return sheets[which].complete && sheets[which].naturalWidth ? sheets[which] : null;
  }
  /* Draws the picture of a point onto a canvas; false where its sheet is still on the way. */
  function picture(to, i, x, y, size) {
    const found = sheet(Math.floor(i / onSheet));
    if (!found) return false;
    const at = i % onSheet;
    to.drawImage(found, (at % onRow) * data.cell, Math.floor(at / onRow) * data.cell, data.cell, data.cell, x, y, size, size);
    return true;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const [ink, paper, focus, line] = ["--ink", "--paper", "--focus", "--line"].map((name) => style.getPropertyValue(name).trim());
    const { seen, side, left, top } = place();
    const size = Math.max(2, Math.min(7, 260 / Math.sqrt(Math.max(seen, 1)))), half = size / 2;
    if (seen > MANY) dots(paper);
    else {
      pen.fillStyle = paper;
      pen.fillRect(0, 0, width, height);
    }
    if (data.sphere) {
      pen.strokeStyle = line;
      pen.beginPath();
      pen.arc(left, top, side, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (seen <= MANY) {
      pen.globalAlpha = state.matches ? FAINT : 1;
      bins.members.forEach((members, which) => {
        pen.fillStyle = bins.colours[which];
        for (const i of members) if (screen.there[i]) pen.fillRect(screen.x[i] - half, screen.y[i] - half, size, size);
      });
      pen.globalAlpha = 1;
    }
    if (seen <= PICTURES && !state.matches) pictures(seen);
    if (state.matches) {
      const large = Math.max(size, 5);
      for (const i of state.matches) {
        if (!screen.there[i]) continue;
        pen.fillStyle = bins.of[i];
        pen.fillRect(screen.x[i] - large / 2, screen.y[i] - large / 2, large, large);
      }
      if (state.matches.length <= 300) for (const i of state.matches) framed(i, 36);
    }
    for (const [i, colour] of [[state.near, ink], [state.chosen, focus]]) {
      if (i < 0 || !screen.there[i]) continue;
      framed(i, 56);
      pen.strokeStyle = colour;
      pen.lineWidth = 3;
      pen.strokeRect(screen.x[i] - 29, screen.y[i] - 29, 58, 58);
    }
    canvas.dataset.drawn = String(seen);
  }

  /* Many points: pixels are written at once, which is ten times as fast as that many squares. */
  function dots(paper) {
    const image = pen.createImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer);
    const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const ground = parts(paper);
    const whole = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
    pixels.fill(whole(ground));
    const share = state.matches ? FAINT : 1, scale = canvas.width / width, size = Math.max(2, Math.round(2 * scale));
    bins.members.forEach((members, which) => {
      const value = whole(parts(bins.colours[which]).map((part, at) => Math.round(share * part + (1 - share) * ground[at])));
      for (const i of members) {
        if (!screen.there[i]) continue;
        const left = Math.round(screen.x[i] * scale), top = Math.round(screen.y[i] * scale);
        if (left < 0 || top < 0 || left + size > canvas.width || top + size > canvas.height) continue;
        for (let row = top; row < top + size; row++) for (let x = left; x < left + size; x++) pixels[row * canvas.width + x] = value;
      }
    });
    pen.putImageData(image, 0, 0);
  }

  function framed(i, size) {
    if (!screen.there[i]) return;
    const x = screen.x[i] - size / 2, y = screen.y[i] - size / 2;
    if (!picture(pen, i, x, y, size)) return;
    pen.strokeStyle = bins.of[i];
    pen.lineWidth = 2;
    pen.strokeRect(x, y, size, size);
  }

  /* One picture in each place that is large enough for one: always the first of its points, so that none flickers. */
  function pictures(seen) {
    const size = Math.max(32, Math.min(96, 0.7 * Math.sqrt((width * height) / Math.max(seen, 1))));
    const cell = size + 4, taken = new Map();
    const key = (column, row) => column * 100003 + row;
    for (let i = 0; i < n; i++) {
      if (!screen.there[i]) continue;
      const column = Math.floor(screen.x[i] / cell), row = Math.floor(screen.y[i] / cell);
      let free = true;
      for (let a = -1; a <= 1 && free; a++) {
        for (let b = -1; b <= 1 && free; b++) {
          const other = taken.get(key(column + a, row + b));
          if (other !== undefined && Math.abs(screen.x[other] - screen.x[i]) < cell && Math.abs(screen.y[other] - screen.y[i]) < cell) free = false;
        }
      }
      if (!free) continue;
      taken.set(key(column, row), i);
      framed(i, size);
    }
  }

  let asked = false;
  function ask() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }
  function fit() {
    const scale = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    ask();
  }

  /* Zooms by a factor and leaves what is at a place of the screen where it is. */
  function zoom(factor, x = width / 2, y = height / 2) {
    const before = (Math.min(width, height) / 2 - 30) * view.zoom;
    view.zoom = Math.min(400, Math.max(0.5, view.zoom * factor));
    const after = (Math.min(width, height) / 2 - 30) * view.zoom;
    view.x += (x - width / 2) * (1 / before - 1 / after);
    view.y -= (y - height / 2) * (1 / before - 1 / after);
    ask();
  }
  function move(across, down) {
    const side = (Math.min(width, height) / 2 - 30) * view.zoom;
    if (data.sphere) {
      view.turn += across / side;
      view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + down / side));
    } else {
      view.x -= across / side;
      view.y += down / side;
    }
    ask();
  }
  function all() {
    Object.assign(view, { x: 0, y: 0, zoom: 1, turn: 0, tilt: 0 });
    ask();
  }
  /* Brings a point into view. */
  function show(i) {
    place();
    if (data.sphere) {
      const [x, y, z] = axes.map((axis) => axis[i]);
      view.turn = Math.atan2(-x, z);
      view.tilt = Math.asin(Math.max(-1, Math.min(1, y)));
      Object.assign(view, { x: 0, y: 0 });
    } else if (!screen.there[i] || screen.x[i] < 40 || screen.y[i] < 40 || screen.x[i] > width - 40 || screen.y[i] > height - 40) {
      view.x = axes[0][i];
      view.y = axes[1][i];
    }
    ask();
  }
  /* The point nearest to a place of the screen, or -1. */
  function at(x, y, reach = 24) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      if (!screen.there[i]) continue;
      const far = (screen.x[i] - x) ** 2 + (screen.y[i] - y) ** 2;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }
  /* The nearest point in a direction: what lies aside counts double. */
  function towards(i, across, down) {
    let best = -1, least = Infinity;
    for (let j = 0; j < n; j++) {
      if (j === i || (data.sphere && !screen.there[j])) continue;
      const dx = screen.x[j] - screen.x[i], dy = screen.y[j] - screen.y[i];
      const along = dx * across + dy * down, aside = Math.abs(dx * down - dy * across);
      if (along <= 0 || aside > along) continue;
      const far = along + 2 * aside;
      if (far < least) { least = far; best = j; }
    }
    return best;
  }

  window.AtlasMap = { data, columns, canvas, state, screen, view, colourBy, ask, fit, zoom, move, all, show, at, towards, picture, sheet };
})();
