/* The page of a dictionary: only the features of one page are in the document. All text goes in as text, never as markup. */
(() => {
  "use strict";
  const { unit, methods, photos, features: rows } = window.DICTIONARY;
  const PER_PAGE = 48;
  const MOST_KIN = 12;
  const { make, pagedList } = window.Entoptic;
  const byId = (id) => document.getElementById(id);
  const [find, sort, family, show, grid, pager, count] = ["q", "sort", "family", "show", "features", "pages", "count"].map(byId);
  const choices = [sort, family, show];

  const children = new Map();
  rows.forEach(([, , , , parents = []], k) => {
    for (const parent of parents) children.set(parent, [...(children.get(parent) ?? []), k]);
  });
  const features = rows.map(([density, strength = 0, mean = 0, shots = [], parents = [], duplicates = [], name = "", picture = 0], k) => ({
    k, density, strength, mean, shots, parents, duplicates, name, picture, children: children.get(k) ?? [],
    text: [`${k}`, name, ...shots.map(([place]) => photos[place][0])].join("\n").toLowerCase(),
  }));
  const strongest = features.reduce((most, { strength }) => Math.max(most, strength), 0) || 1;

  const families = {
    parents: (f) => f.parents.length, children: (f) => f.children.length, duplicates: (f) => f.duplicates.length,
    alone: (f) => !f.parents.length && !f.children.length && !f.duplicates.length,
  };
  const shown = { active: (f) => f.density > 0, picture: (f) => f.picture };
  const orders = {
    density: (a, b) => b.density - a.density, rare: (a, b) => (a.density || 2) - (b.density || 2),
    strength: (a, b) => b.strength - a.strength, children: (a, b) => b.children.length - a.children.length,
  };

  const number = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1));

  function filter(query) {
    const terms = query.toLowerCase().split(/\s+/).filter(Boolean);
    // A number finds its feature alone: it would be part of most photos' names.
    const fits = terms.length === 1 && /^#?\d+$/.test(terms[0]) && Number(terms[0].replace("#", "")) < features.length
      ? (f) => f.k === Number(terms[0].replace("#", ""))
      : (f) => terms.every((term) => f.text.includes(term));
    const found = features.filter((f) => fits(f) && (!family.value || families[family.value](f)) && (!show.value || shown[show.value](f)));
    return sort.value ? found.sort((a, b) => orders[sort.value](a, b) || a.k - b.k) : found;
  }

  function figure(f, [place, value]) {
    const [name, file] = photos[place];
    const what = file ? make("img", { src: file, alt: `photo ${name}`, title: name, loading: "lazy", decoding: "async", width: 96, height: 96 })
      : make("div", { class: "gone", title: name }, name.split("/").at(-1));
    return make("figure", {}, what, make("figcaption", { title: name }, number(value)));
  }
  function kin(words, numbers) {
    if (!numbers.length) return "";
    const links = numbers.slice(0, MOST_KIN).flatMap((k) => [make("a", { href: `#feature-${k}`, "data-feature": k }, `${k}`), " "]);
    return make("p", { class: "kin" }, `${words}: `, ...links, numbers.length > MOST_KIN ? `and ${numbers.length - MOST_KIN} more` : "");
  }
  function card(f) {
    const shots = make("div", { class: f.picture ? "shots pictured" : "shots" });
    if (f.picture) {
      const [method, file] = f.picture;
      shots.append(make("figure", {}, make("img", { src: file, alt: `what feature ${f.k} looks for, by ${methods[method]}`, loading: "lazy", decoding: "async" }),
        make("figcaption", {}, methods[method])));
    }
    shots.append(...(f.density > 0 || f.strength !== 0 ? f.shots : []).map((shot) => figure(f, shot)));
    const share = (value) => make("span", { class: "bar-of", "aria-hidden": "true" }, make("i", { style: `width:${Math.min(100, 100 * value)}%` }));
    return make("article", { class: "feature", tabindex: "0", id: `feature-${f.k}`, "aria-label": `feature ${f.k}` },
      make("h2", {}, `${f.k}`, f.name ? make("small", {}, f.name) : ""),
      make("p", { class: "numbers" },
        make("b", {}, `${number(100 * f.density)} %`), " of photos, strength ", make("b", {}, number(f.strength)), `, mean ${number(f.mean)}`,
        share(f.density), share(Math.max(0, f.strength) / strongest)),
      shots, kin("Parents", f.parents), kin("Children", f.children), kin("Duplicates", f.duplicates));
  }

  function draw(list) {
    grid.replaceChildren(...list.here.map(card));
    if (!list.found.length) grid.append(make("p", { class: "nothing" }, list.query ? `No feature matches “${list.query}”.` : "No feature fits these choices."));
    count.textContent = list.counted("feature");
  }
  /* Shows a feature on whichever page it lies. Its address keeps the feature, so it can be sent, and reloaded. */
  function jump(k, isStep) {
    const at = list.reveal((f) => f.k === k);
    list.draw();
    if (at < 0) return;
    list.remember(isStep, `#feature-${k}`);
    list.select(byId(`feature-${k}`));
  }
  grid.addEventListener("click", (event) => {
    const to = event.target.closest("a[data-feature]")?.dataset.feature;
    if (to === undefined || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    jump(Number(to), true);
  });
  const list = pagedList({
    all: features, perPage: PER_PAGE, own: location.pathname.split("/").at(-1), find, pager, choices, steps: false, filter, draw,
    stops: () => [...grid.querySelectorAll(".feature")], row: ".feature",
    arrive() {
      const wanted = /^#feature-(\d+)$/.exec(location.hash);
      if (wanted) jump(Number(wanted[1]), false); // a step would keep Back from leading away
      else list.draw();
    },
  });
  list.open();
})();
