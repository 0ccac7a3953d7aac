/* The index: reads data.js and makes the rows of units. All text goes in as text, never as markup. */
(() => {
  "use strict";
  const { make } = window.Entoptic;
  const data = window.ENTOPTIC;
  const { base, methods, metrics, layers, models, words, sizes, captions } = data;
  const SHOWN = 224; // small pictures are enlarged up to so many pixels

  function readPicture([method, sample, file, size, caption, values, variant]) {
    const [text, note, tone, alt] = captions[caption];
    const [name, anchor] = file.includes("#") ? file.split("#")
      : [`${methods[method][0]}-${sample}-${file}.png`, `${methods[method][0]}-${sample}-${file.slice(0, 8)}`];
    const [width, height] = sizes[size];
    return { method, sample, file: name, anchor, width, height, text, note, tone, alt, values, variant };
  }
  /* A unit. What only a search or its own row needs is made when it is first asked for: a run may have 100,000 pictures. */
  class Unit {
    #row; #pictures; #text;
    constructor(row) { this.#row = row; }
    get unit() { return this.#row[0]; }
    get layer() { return this.#row[2] || 0; }
    get label() { return this.#row[3] || ""; }
    get model() { return models[this.#row[4] || 0]; }
    get plain() { return this.unit.replace(/[^A-Za-z0-9_.]/g, "-"); }
    get folder() { return this.#row[6] || this.plain; }
    get id() { return this.#row[7] || `unit-${this.plain}`; }
    get href() { return `${encodeURIComponent(this.id)}.html`; }
    get pictures() { return (this.#pictures ??= this.#row[1].map(readPicture)); }
    get text() {
      if (this.#text === undefined) {
        const titles = [...new Set(this.#row[1].map(([method]) => method))].map((method) => methods[method].join(" "));
        this.#text = [this.unit, this.label, this.model, layers[this.layer], words[this.#row[5] || 0], ...titles]
          .join("\n").toLowerCase();
      }
      return this.#text;
    }
  }
  const units = data.units.map((row) => new Unit(row));
  const tones = new Set(captions.map((caption) => caption[2]));

  /* The best number of a unit by a metric, or null. */
  function best(unit, metric) {
    let found = null;
    const sign = metrics[metric][2] < 0 ? -1 : 1;
    for (const { values } of unit.pictures) {
      const value = values[metric] ?? null;
      if (value !== null && (found === null || sign * value > sign * found)) found = value;
    }
    return found;
  }

  // Side by side only as long as a picture keeps a useful size; more methods than that flow.
  const inColumns = methods.length <= 6;
  // A method with several samples gets a wider column, so that all pictures are of one size; what does not fit
  // beside one another stands below.
  const most = methods.map((_, method) => Math.max(...units.slice(0, 500).map((unit) =>
    unit.pictures.filter((picture) => picture.method === method).length), 1));
  const sum = (cap) => most.reduce((total, n) => total + Math.min(n, cap), 0);
  const cap = [6, 4, 3, 2].find((n) => sum(n) <= 6) || 1;
  const widths = most.map((n) => Math.min(n, cap));
  // One picture a unit would leave most of each row empty.
  const inCards = sum(cap) === 1;

  function altOf(unit, picture) {
    if (picture.alt) return picture.alt;
    if (unit.unit.startsWith("fmap(")) return `A picture with the map ${unit.unit} of ${unit.model}, sample ${picture.sample}`;
    const name = unit.label ? `${unit.unit} (${unit.label})` : unit.unit;
    return `What ${name} of ${unit.model} looks for, by ${methods[picture.method][0]}, sample ${picture.sample}`;
  }
  function mark(tone) {
    const says = { good: "Well: ", mixed: "Partly: ", poor: "Poorly: " }[tone];
    return says ? make("span", { class: `tone ${tone}` }, make("span", { class: "unseen" }, says)) : "";
  }
  function figure(unit, picture, metric) {
    const { width, height } = picture;
    const times = Math.max(1, Math.floor(SHOWN / Math.max(width, height, 1)));
    const image = make("img", {
      src: `${base}/${unit.folder}/${picture.file}`, width, height, loading: "lazy", decoding: "async",
    });
    image.alt = altOf(unit, picture);
    const caption = make("figcaption", {}, make("span", { class: "chip" },
      mark(picture.tone), make("b", {}, picture.text), " ", make("small", {}, picture.note)));
    if (metric >= 0) {
      const value = picture.values[metric] ?? null;
      caption.append(make("span", { class: "by" }, `${metrics[metric][1]}: ${value === null ? "not measured" : value.toLocaleString("en")}`));
    }
    if (picture.variant) caption.append(make("span", { class: "variant" }, picture.variant));
    const link = make("a", { href: `${unit.href}#${encodeURIComponent(picture.anchor)}`, tabindex: "-1" }, image);
    return make("figure", { class: times > 1 ? "small-file" : "", style: `--width:${width * times}px` }, link, caption);
  }
  function cell(unit, method, metric) {
    const pictures = unit.pictures.filter((picture) => picture.method === method);
    const style = `--span:${widths[method]}`;
    if (!pictures.length) return make("div", { class: "cell empty", "aria-hidden": "true", style }, "–");
    const samples = make("div", { class: "samples" });
    samples.append(...pictures.map((picture) => figure(unit, picture, metric)));
    const kind = pictures.length > 1 || methods.length === 1 ? "cell several" : "cell";
    return make("div", { class: kind, style }, make("p", { class: "method" }, methods[method][1].split(" (")[0]), samples);
  }
  function row(unit, shown, metric) {
    const head = make("div", { class: "head" }, make("h2", {}, make("a", { href: unit.href }, unit.label || unit.unit)));
    if (unit.label) head.append(make("code", {}, unit.unit));
    if (models.length > 1) head.append(make("p", { class: "muted" }, unit.model));
    return make("article", { class: "row", "data-unit": unit.id }, head,
      ...methods.flatMap((_, method) => (shown < 0 || shown === method ? [cell(unit, method, metric)] : [])));
  }

  /* Sets the columns for all methods, or for the one that is shown, and draws their heads. */
  function layOut(grid, columns, shown) {
    const chosen = methods.map((_, method) => method).filter((method) => shown < 0 || shown === method);
    const count = chosen.reduce((total, method) => total + widths[method], 0);
    grid.classList.toggle("flow", !inColumns && shown < 0);
    grid.classList.toggle("cards", inCards || (shown >= 0 && count === 1));
    document.body.style.setProperty("--columns", `repeat(${count}, minmax(0, 17rem))`);
    columns.replaceChildren(make("span"), ...chosen.map((method) => {
      const [plain, rest] = methods[method][1].split(/ \((.*)\)$/);
      return make("span", { title: methods[method][0], style: `--span:${widths[method]}` },
        make("b", {}, plain), rest ? make("small", {}, rest) : "");
    }));
    return !grid.classList.contains("flow") && !grid.classList.contains("cards");
  }

  window.EntopticRows = { units, tones, best, row, layOut };
})();
