/* The pages around the trials: consent, instructions, breaks, questions, the end. */
"use strict";
(function (Study) {
  const { make, text, show } = Study;
  const FIELDS = ["purpose", "contact", "ethics", "payment", "risks", "data", "deletion"];

  function button(key, onclick, about) {
    return make("button", { type: "button", class: "main", onclick, ...about }, text(key));
  }

  /** A button that can be pressed once, until what it began has failed. */
  function once(key, action, about) {
    const made = button(key, async () => {
      made.disabled = true;
      try {
        await action();
      } finally {
        made.disabled = false;
      }
    }, about);
    return made;
  }

  const screens = {};

  screens.consent = function (about, language, change, start) {
    const agree = make("input", { type: "checkbox", id: "agree" });
    const open = make("input", { type: "checkbox", id: "open" });
    const website = make("input", { type: "text", id: "website", name: "website", tabindex: "-1", autocomplete: "off" });
    const note = make("p", { class: "note", role: "alert" });
    const languages = Object.entries(about.languages);
    const choice = make("select", { id: "language", onchange: () => change(choice.value) },
      ...languages.map(([code, name]) => make("option", { value: code, selected: code === language, lang: code }, name)));
    const rows = FIELDS.flatMap((field) => [
      make("dt", {}, text(`consent.${field}`)),
      make("dd", about.consent[field] ? {} : { class: "unstated" }, about.consent[field] || text("consent.unstated")),
    ]);
    show(
      languages.length > 1 ? make("p", { class: "language" }, make("label", { for: "language" }, text("consent.language"), " "), choice) : null,
      make("h1", {}, about.title),
      make("h2", {}, text("consent.what")),
      make("p", {}, text("consent.doing", { minutes: Math.ceil(about.minutes) })),
      Study.api.warning ? make("p", { class: "warning" }, text("bundle.warning")) : null,
      make("h2", {}, text("consent.title")),
      make("dl", {}, ...rows),
      make("p", {}, text("consent.voluntary")),
      make("p", {}, text("consent.anonymous")),
      make("p", { class: "tick" }, agree, make("label", { for: "agree" }, text("consent.agree"))),
      make("p", { class: "tick" }, open, make("label", { for: "open" }, text("consent.open"))),
      make("p", { class: "elsewhere", "aria-hidden": "true" }, make("label", { for: "website" }, "Website"), website),
      note,
      once("consent.start", async () => {
        if (!agree.checked) {
          note.textContent = text("consent.needed");
          agree.focus();
          return;
        }
        await start({ consent: true, open_data: open.checked, website: website.value, language });
      }),
    );
  };

  screens.instructions = function (session, done) {
    const began = performance.now();
    show(
      make("h1", {}, text("instructions.title")),
      make("p", {}, text("instructions.network")),
      Study.taskHow(session.tasks[0]),
      make("p", {}, text("instructions.keys")),
      make("p", {}, text("instructions.honest")),
      make("p", {}, text("instructions.practice")),
      once("instructions.go", () => done((performance.now() - began) / 1000)),
    );
  };

  screens.again = function (session, task, done) {
    const values = { round: session.practice.round + 1, rounds: session.practice.rounds };
    show(make("h1", {}, text("instructions.title")), make("p", { class: "warning" }, text("practice.again", values)),
      Study.taskHow(task), once("instructions.go", done));
  };

  screens.rest = function (session, before, done) {
    const task = session.next[0].task;
    const other = task !== before;
    show(
      make("h1", {}, text("break.title")),
      make("p", {}, text("break.text", session)),
      other ? make("p", {}, text("break.new")) : null,
      other ? Study.taskHow(task) : null,
      once("break.go", done),
    );
  };

  screens.questions = function (done) {
    const yes = make("input", { type: "radio", name: "automated", id: "yes" });
    const no = make("input", { type: "radio", name: "automated", id: "no", checked: true });
    const comments = make("textarea", { id: "comments", rows: "4", maxlength: "2000" });
    show(
      make("h1", {}, text("questions.title")),
      make("fieldset", {}, make("legend", {}, text("questions.automated")),
        make("p", { class: "tick" }, no, make("label", { for: "no" }, text("questions.no"))),
        make("p", { class: "tick" }, yes, make("label", { for: "yes" }, text("questions.yes")))),
      make("p", {}, make("label", { for: "comments" }, text("questions.comments"))),
      comments,
      once("questions.send", () => done({ automated: yes.checked, comments: comments.value })),
    );
  };

  screens.end = function (stage, told) {
    show(
      make("h1", {}, text(`${stage}.title`)),
      make("p", {}, text(`${stage}.text`)),
      told && told.code ? make("p", {}, text("finished.code"), ": ", make("strong", { class: "code" }, told.code)) : null,
      told && told.redirect ? make("p", {}, make("a", { class: "main", href: told.redirect }, text("finished.return"))) : null,
      told && told.extra ? told.extra : null,
    );
  };

  screens.stopped = function (code) {
    show(make("h1", {}, text("stopped.title")), make("p", {}, text(`stopped.${code}`)));
  };

  screens.failed = function (again) {
    show(make("h1", {}, text("error.title")), make("p", { role: "alert" }, text("error.network")), button("error.retry", again));
  };

  screens.withdraw = function (yes, no) {
    show(make("h1", {}, text("withdraw.title")), make("p", {}, text("withdraw.text")),
      make("p", { class: "row" }, button("withdraw.no", no), once("withdraw.yes", yes, { class: "danger" })));
  };

  screens.foot = function (session, withdraw) {
    const foot = document.getElementById("foot");
    if (!session) return foot.replaceChildren();
    const bar = make("progress", { max: session.total || 1, value: session.done, "aria-label": text("trial.progress", { number: session.done, total: session.total }) });
    return foot.replaceChildren(bar, make("button", { type: "button", class: "link", onclick: withdraw }, text("withdraw.link")));
  };

  Study.screens = screens;
})(window.Study);
