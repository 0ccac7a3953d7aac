/* One trial: it is shown when all its pictures are decoded, in boxes of fixed size, and timed from the second frame on. */
"use strict";
(function (Study) {
  const { make, text } = Study;
  const LETTERS = "ABCDEF";

  const frame = () => new Promise((done) => requestAnimationFrame(done));

  function alternative(role, number) {
    if (role === "query" || role === "option") return text("trial.alt.choice", { letter: LETTERS[number] });
    return text(`trial.alt.${role}`, { number: number + 1 });
  }

  function box(image, role, number) {
    image.alt = alternative(role, number);
    image.draggable = false;
    return make("div", { class: "box" }, image);
  }

  function groups(trial, images) {
    const found = {};
    trial.pictures.forEach((picture, i) => {
      (found[picture.role] = found[picture.role] || []).push(images[i]);
    });
    return found;
  }

  function figure(kind, title, images) {
    if (!images) return null;
    const boxes = make("div", { class: `boxes ${images.length === 1 ? "one" : images.length === 2 || images.length === 4 ? "few" : "many"}` },
      ...images.map((image, i) => box(image, kind, i)));
    return make("section", { class: `group ${kind}`, "aria-label": title }, make("h2", {}, title), boxes);
  }

  function question(trial, found) {
    if (trial.task === "2afc" && !found.high) return text("task.2afc.none");
    if (trial.task === "preference" && trial.word) return text("task.preference.word", trial);
    return text(`task.${trial.task}.question`, trial);
  }

  function key(name) {
    return make("kbd", { "aria-hidden": "true" }, name);
  }

  /** Cards of pictures that can be chosen, each with its buttons. */
  function choices(trial, images, send) {
    const cards = images.map((image, i) => {
      const letter = LETTERS[i];
      const name = text("trial.choice", { letter });
      const buttons = trial.confidence
        ? Array.from({ length: trial.confidence }, (_, c) =>
            make("button", { type: "button", class: "answer", "data-key": `${c + 1}`, title: text(`trial.confidence.${c + 1}`),
              "aria-label": `${name}, ${c + 1}: ${text(`trial.confidence.${c + 1}`)}`,
              onclick: () => send({ choice: i, confidence: c + 1 }) }, `${c + 1}`))
        : [make("button", { type: "button", class: "answer", "data-key": letter, onclick: () => send({ choice: i }) }, name)];
      return make("div", { class: "card", role: "group", "aria-label": trial.confidence ? text("trial.confidence", { letter }) : name, "data-letter": letter },
        box(image, "option", i),
        trial.confidence ? make("p", { class: "name" }, letter) : null,
        make("div", { class: "row" }, ...buttons),
        trial.confidence ? make("p", { class: "ends" }, make("span", {}, text("trial.confidence.1")), make("span", {}, text(`trial.confidence.${trial.confidence}`))) : null);
    });
    const unsure = trial.not_sure
      ? make("p", { class: "row unsure" }, make("button", { type: "button", class: "answer", "data-key": "0", onclick: () => send({ not_sure: true }) }, text("trial.unsure"), " ", key("0")))
      : null;
    return make("section", { class: `choices of${images.length}` }, make("div", { class: "cards" }, ...cards), unsure);
  }

  function rating(trial, send) {
    const buttons = Array.from({ length: trial.scale }, (_, i) =>
      make("button", { type: "button", class: "answer", "data-key": `${i + 1}`, onclick: () => send({ rating: i + 1 }),
        "aria-label": i === 0 ? `1: ${text("trial.rating.1")}` : i + 1 === trial.scale ? `${i + 1}: ${text("trial.rating.5")}` : null }, `${i + 1}`));
    return make("section", { class: "rating" }, make("div", { class: "row" }, ...buttons),
      make("p", { class: "ends" }, make("span", {}, text("trial.rating.1")), make("span", {}, text("trial.rating.5"))));
  }

  function writing(send, told) {
    const field = make("input", { type: "text", id: "words", maxlength: "500", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const paste = (event) => {
      event.preventDefault();
      told.pasted = true;
      Study.say(text("trial.paste"));
      note.textContent = text("trial.paste");
    };
    field.addEventListener("paste", paste);
    field.addEventListener("drop", paste);
    const note = make("p", { class: "note" });
    const form = make("form", { class: "writing", onsubmit: (event) => {
      event.preventDefault();
      if (field.value.trim()) send({ text: field.value.trim() });
    } },
      make("label", { for: "words" }, text("trial.text")),
      make("div", { class: "row" }, field, make("button", { type: "submit", class: "answer" }, text("trial.send"))),
      make("button", { type: "button", class: "answer quiet", onclick: () => send({ text: "" }) }, text("trial.cannot")), note);
    return form;
  }

  function content(trial, images, send, told) {
    const found = groups(trial, images);
    const high = figure("high", text("trial.high"), found.high);
    const low = figure("low", text("trial.low"), found.low);
    const options = found.query || found.option;
    const references = figure("reference", text("trial.references"), found.reference);
    const target = found.target ? make("section", { class: "group target" }, references ? make("h2", {}, text("trial.target")) : null, box(found.target[0], "target", 0)) : null;
    const body = make("div", { class: `stage ${trial.task}${high || references ? "" : " bare"}${low ? "" : " single"}` }, high, references,
      options ? choices(trial, options, send) : null, target, low);
    const answers = trial.scale ? rating(trial, send) : trial.task === "describe" ? writing(send, told) : null;
    return { heading: question(trial, found), parts: [body, answers] };
  }

  /** Keys: a letter chooses a picture (or its card), a digit a rating or the confidence of the chosen card. */
  function keys(trial, page) {
    let card = null;
    return function (event) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
      const letter = event.key.toUpperCase();
      const chosen = page.querySelector(`.card[data-letter="${CSS.escape(letter)}"]`);
      if (chosen && trial.confidence) {
        card = chosen;
        page.querySelectorAll(".card").forEach((one) => one.classList.toggle("chosen", one === card));
        card.querySelector("button").focus({ preventScroll: false });
        event.preventDefault();
        return;
      }
      const within = trial.confidence ? (document.activeElement || page).closest(".card") || card : page;
      const pressed = within && within.querySelector(`[data-key="${CSS.escape(letter)}"]`);
      if (pressed && !pressed.disabled) {
        event.preventDefault();
        pressed.click();
      }
    };
  }

  /** Shows a trial; resolves with its answer. */
  Study.ask = async function (trial, session, images) {
    const told = { pasted: false };
    let losses = 0;
    let shown = null;
    let give;
    const given = new Promise((done) => { give = done; });
    const send = (answer) => {
      if (shown === null) return; // it is not open for answers yet
      give({ ...answer, answered: performance.now() });
    };
    const { heading, parts } = content(trial, images, send, told);
    const number = trial.practice ? text("trial.practice") : text("trial.progress", { number: session.done + 1, total: session.total });
    Study.show(make("p", { class: "number" }, number), make("h1", {}, heading), ...parts);
    const page = document.getElementById("page");
    const controls = [...page.querySelectorAll(".answer")];
    controls.forEach((one) => one.setAttribute("aria-disabled", "true"));
    await frame();
    await frame();
    const start = performance.now();
    const lost = () => { losses += 1; };
    const press = keys(trial, page);
    window.addEventListener("blur", lost);
    document.addEventListener("keydown", press);
    setTimeout(() => {
      shown = start;
      controls.forEach((one) => one.removeAttribute("aria-disabled"));
      page.classList.add("open");
    }, trial.min_ms);
    const answer = await given;
    window.removeEventListener("blur", lost);
    document.removeEventListener("keydown", press);
    page.classList.remove("open");
    controls.forEach((one) => { one.disabled = true; });
    const { answered, ...what } = answer;
    return { ...what, trial: trial.id, shown_ms: start, answered_ms: answered, focus_losses: losses, pasted: told.pasted };
  };

  /** Says whether a practice answer was right, by a sign and a word; resolves when the person goes on. */
  Study.feedback = function (right) {
    const word = text(right ? "trial.right" : "trial.wrong");
    Study.say(word);
    return new Promise((done) => {
      const next = make("button", { type: "button", class: "main", onclick: done }, text("trial.next"));
      document.getElementById("page").append(make("div", { class: `feedback ${right ? "right" : "wrong"}` }, make("p", {}, word), next));
      next.focus();
    });
  };
})(window.Study);
