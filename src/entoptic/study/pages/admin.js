/* What the people who run a study see. Everything that came from participants is set as text. */
"use strict";
(function (Study) {
  const { make } = Study;
  const note = document.getElementById("note");
  let token = "";

  async function ask(what, body) {
    const reply = await fetch(`/admin/api/${what}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify(body || {}),
    });
    if (!reply.ok) throw new Error((await reply.json()).message);
    return reply;
  }

  async function save(table) {
    const blob = await (await ask("export", { table })).blob();
    const link = make("a", { href: URL.createObjectURL(blob), download: `${table}.csv` });
    link.click();
  }

  const counts = (all) => Object.entries(all).map(([name, n]) => `${name} ${n}`).join(", ") || "none";

  function table(heads, rows) {
    return make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, String(cell)))))));
  }

  function fields(about) {
    return make("dl", {}, ...Object.entries(about).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function render(status) {
    const act = (label, action) => make("button", { type: "button", class: "main", onclick: () => run(action) }, label);
    document.getElementById("status").replaceChildren(
      make("h2", {}, status.study),
      fields({
        State: status.open ? "open" : "closed",
        Places: `${status.places}: ${status.filled} finished, ${status.held} held`,
        Sessions: counts(status.stages),
        "Came by": counts(status.sources),
        "Median minutes": status.median_minutes === null ? "not known yet" : String(status.median_minutes),
        "Catch trials": `${status.catch.passed} passed, ${status.catch.failed} failed`,
      }),
      make("p", { class: "row" }, act("Refresh", () => show()),
        status.open ? act("Close the study", async () => { await ask("close"); await show(); }) : act("Open the study", async () => { await ask("open"); await show(); }),
        status.open ? null : act("Save answers", () => save("answers")), status.open ? null : act("Save sessions", () => save("participations"))),
      status.open ? make("p", {}, "Results are not shown while the study is open.") : null,
      make("h2", {}, "Answers a condition and unit"),
      status.answers.length ? table(["Task", "Condition", "Unit", "Answers"], status.answers.map((one) => [one.task, one.arm, one.unit, one.n])) : make("p", {}, "None yet."),
      make("h2", {}, "Comments"),
      ...(status.comments.length ? status.comments.map((one) => make("p", { class: "comment" }, one)) : [make("p", {}, "None yet.")]),
    );
  }

  async function show() {
    render(await (await ask("status")).json());
  }

  async function run(action) {
    note.textContent = "";
    try {
      await action();
    } catch (error) {
      note.textContent = error.message;
    }
  }

  document.getElementById("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    token = document.getElementById("token").value.trim();
    run(show);
  });
})(window.Study);
