/* A list in pages, with search, choices, addresses and keys: of the index, and of the page of a dictionary. */
(() => {
  "use strict";
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== "") element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  /* own: the file name of the page. steps: whether the pager leads one page on and back. filter(query) gives what is found, in
     order; draw(list) draws list.here; stops() are the elements that keys go through, each in a `row`; arrive(list) draws first. */
  function pagedList({ all, perPage, own, find, pager, choices, steps, filter, draw, stops, row, arrive }) {
    let query = "";
    let page = 1;
    let found = all;
    let waiting = 0; // the search of what is being typed
    const pageCount = () => Math.max(1, Math.ceil(found.length / perPage));
    const address = (toPage) => {
      const search = new URLSearchParams();
      if (query) search.set("q", query);
      for (const choice of choices) if (choice.value) search.set(choice.id, choice.value);
      if (toPage > 1) search.set("page", toPage);
      return String(search) ? `?${search}` : own;
    };
    const list = {
      get query() { return query; },
      get found() { return found; },
      get here() { return found.slice((page - 1) * perPage, page * perPage); },
      get address() { return address(page); },
      draw: drawPage, reveal, remember, select, search, open, clear,
      /* Of how many it shows how many, and which page. */
      counted(noun) {
        const n = (some) => some.toLocaleString("en");
        const whole = `${n(all.length)} ${noun}${all.length === 1 ? "" : "s"}`;
        return (found.length < all.length || query ? `${n(found.length)} of ${whole}` : whole)
          + (pageCount() > 1 ? `, page ${page} of ${pageCount()}` : "");
      },
    };

    function drawPager() {
      const last = pageCount();
      pager.hidden = last === 1;
      const near = new Set([1, last, page - 1, page, page + 1].filter((n) => n >= 1 && n <= last));
      const items = [];
      let before = 0;
      const step = (to, words, rel) => to >= 1 && to <= last
        ? make("a", { href: address(to), "data-page": to, rel }, words) : make("span", { class: "off" }, words);
      if (steps) items.push(step(page - 1, "← Before", "prev"));
      for (const n of [...near].sort((a, b) => a - b)) {
        if (n > before + 1) items.push(make("span", { class: "gap" }, "…"));
        items.push(make("a", { href: address(n), "data-page": n, "aria-label": `Page ${n}`,
          "aria-current": n === page ? "page" : null }, n.toLocaleString("en")));
        before = n;
      }
      if (steps) items.push(step(page + 1, "Next →", "next"));
      pager.replaceChildren(...items);
    }
    /* Whatever led here, the page is of `query`: a search that still waits is dropped, and the field says the same. */
    function drawPage() {
      clearTimeout(waiting);
      if (find.value.trim() !== query) find.value = query;
      page = Math.min(Math.max(1, page), pageCount());
      const focused = document.activeElement;
      const [isPager, isRow] = [pager.contains(focused), Boolean(focused?.closest(row))];
      draw(list);
      drawPager();
      // What had the focus is replaced. It stays in the pager, or in the rows.
      const next = isPager && !pager.hidden ? pager.querySelector("[aria-current]") : isPager || isRow ? stops()[0] : null;
      next?.focus({ preventScroll: true });
    }
    // A file:// page may be refused a change of its address; the page works without. hash: the place on the page, or nothing.
    function remember(isStep, hash = "") {
      try {
        const to = address(page);
        history[isStep ? "pushState" : "replaceState"](null, "", (to === own ? location.pathname : to) + hash);
      } catch { /* refused */ }
    }
    function search(words) {
      query = words.trim();
      page = 1;
      found = filter(query);
      drawPage();
      remember(false);
    }
    function clear() {
      find.value = "";
      for (const choice of choices) choice.value = "";
    }
    function turn(to, focus) {
      if (to < 1 || to > pageCount()) return false;
      page = to;
      drawPage();
      remember(true);
      if (focus === "last") select(stops().at(-1));
      else if (focus === "first") select(stops()[0]);
      if (focus !== "last") window.scrollTo({ top: 0 });
      return true;
    }
    function select(element) {
      if (!element) return;
      element.focus({ preventScroll: true });
      const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      element.closest(row).scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
    }
    function move(by) {
      const all = stops();
      const current = all.findIndex((one) => one.closest(row).contains(document.activeElement));
      const next = current < 0 ? (by > 0 ? 0 : all.length - 1) : current + by;
      if (next >= all.length) turn(page + 1, "first");
      else if (next < 0) turn(page - 1, "last");
      else select(all[next]);
    }
    /* Goes to the page of an item, wherever it lies. Only the choices that hide it are cleared. Returns its place, or -1. */
    function reveal(isIt) {
      let at = found.findIndex(isIt);
      if (at < 0 && all.some(isIt)) {
        const [words, chosen] = [query, choices.map((choice) => choice.value)];
        clear();
        // One by one, those that leave it in sight come back.
        choices.forEach((choice, i) => {
          choice.value = chosen[i];
          if (chosen[i] && !filter("").some(isIt)) choice.value = "";
        });
        query = words && filter(words).some(isIt) ? words : "";
        found = filter(query);
        at = found.findIndex(isIt);
      }
      if (at >= 0) page = Math.floor(at / perPage) + 1;
      return at;
    }
    function open() {
      const asked = new URLSearchParams(location.search);
      query = (asked.get("q") || "").trim();
      find.value = query;
      for (const choice of choices) {
        // A choice that the reader cannot see could not be taken back.
        const value = choice.closest("[hidden]") ? "" : asked.get(choice.id) || "";
        choice.value = [...choice.options].some((option) => option.value === value) ? value : "";
      }
      page = Math.floor(Number(asked.get("page"))) || 1;
      found = filter(query);
      arrive(list);
      // An address that asked for other than what is shown is put right.
      const now = new URLSearchParams(address(page).split("?")[1]);
      const names = ["q", "page", ...choices.map((choice) => choice.id)];
      if (names.some((name) => (asked.get(name) || "") !== (now.get(name) || ""))) remember(false, location.hash);
    }

    for (const choice of choices) choice.addEventListener("change", () => search(find.value));
    find.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => search(find.value), 80);
    });
    find.form.addEventListener("submit", (event) => {
      event.preventDefault();
      search(find.value);
      select(stops()[0]);
    });
    find.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        if (find.value) { find.value = ""; search(""); } else find.blur();
      } else if (event.key === "ArrowDown") {
        event.preventDefault();
        select(stops()[0]);
      }
    });
    pager.addEventListener("click", (event) => {
      const to = event.target.closest("a")?.dataset.page;
      if (!to || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      turn(Number(to), "top");
    });
    window.Entoptic.listen({
      j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
      ArrowRight: () => turn(page + 1, "top"), ArrowLeft: () => turn(page - 1, "top"),
      "/": () => { find.focus(); find.select(); },
      Escape: () => { if (query) { find.value = ""; search(""); } else document.activeElement.blur(); },
    });
    window.addEventListener("popstate", open);
    return list;
  }

  Object.assign(window.Entoptic, { make, pagedList });
})();
