/* In place of the server: answers are kept in the browser and saved as a file, or posted, at the end. */
"use strict";
(function (Study) {
  const data = window.STUDY;
  let kept = null;
  let trials = [];
  let key = "";

  class Refused extends Error {
    constructor(status, code) {
      super(code);
      this.status = status;
      this.code = code;
    }
  }
  Study.Refused = Refused;

  const random = (bytes) => Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");

  function save() {
    try {
      window.localStorage.setItem(key, JSON.stringify(kept));
    } catch {
      /* a browser without a store: the answers last as long as the page */
    }
  }

  function crc32(text) {
    let crc = 0xffffffff;
    for (const byte of new TextEncoder().encode(text)) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
    }
    return ((crc ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
  }

  const session = () => Study.standing(trials, kept);

  /** The answer file: its content as one text, with a checksum against damage on the way. */
  function file() {
    const payload = JSON.stringify({
      manifest: data.study.manifest, slot: kept.slot, participant: kept.participant, language: kept.language, started: kept.started,
      finished: kept.finished, instruction_seconds: kept.instruction_seconds, open_data: kept.open_data, automated: kept.automated,
      comments: kept.comments, stage: session().stage,
      answers: kept.answers.map(({ right, ...rest }) => rest),
    });
    return JSON.stringify({ format: 1, payload, crc32: crc32(payload) });
  }

  function saving() {
    const { make, text } = Study;
    const url = URL.createObjectURL(new Blob([file()], { type: "application/json" }));
    return make("div", {}, make("p", {}, text("bundle.saved")),
      make("p", {}, make("a", { class: "main", id: "save", href: url, download: `answers-${kept.participant.slice(0, 8)}.json` }, text("bundle.save"))));
  }

  Study.api = {
    warning: true,
    parameters() {
      return Object.fromEntries(new URLSearchParams(window.location.search));
    },
    async study() {
      const languages = Object.fromEntries(Object.entries(data.wording).map(([code, words]) => [code, words["language.name"]]));
      return { ...data.study, languages };
    },
    wording: async (language) => data.wording[language],
    resume(manifest, parameters) {
      key = `study:${manifest}:${parameters.slot || ""}`;
      try {
        kept = JSON.parse(window.localStorage.getItem(key) || "null");
      } catch {
        kept = null;
      }
      if (kept) trials = data.slots[kept.slot];
      return Boolean(kept);
    },
    async claim(body) {
      const asked = Number.parseInt(body.parameters.slot, 10);
      const slot = Number.isInteger(asked) && asked >= 0 && asked < data.slots.length ? asked : Math.floor(Math.random() * data.slots.length);
      kept = { slot, participant: random(16), language: body.language, started: new Date().toISOString(), finished: "", instruction_seconds: null,
        open_data: body.open_data, automated: false, comments: "", questioned: false, withdrawn: false, breaks: 0, answers: [] };
      trials = data.slots[slot];
      save();
      return session();
    },
    forget() {
      kept = null;
    },
    session: async () => session(),
    async instructed(seconds) {
      kept.instruction_seconds = seconds;
      save();
      return session();
    },
    async goOn() {
      kept.breaks = session().next[0].block;
      save();
      return session();
    },
    async picture(trial, n) {
      return trials.find((one) => one.id === trial).pictures[n].file;
    },
    async answer(body) {
      const trial = trials.find((one) => one.id === body.trial);
      const given = trial.scale ? body.rating : body.choice;
      const right = trial.practice && trial.right.length && !body.technical ? trial.right.includes(given) : null;
      if (!kept.answers.some((one) => one.trial === body.trial)) kept.answers.push({ ...body, right, received: new Date().toISOString() });
      save();
      return { stored: true, right, session: session() };
    },
    async questions(body) {
      Object.assign(kept, body, { questioned: true, finished: new Date().toISOString() });
      save();
      return session();
    },
    async finish() {
      if (!data.postUrl) return { code: "", redirect: "", extra: saving() };
      try {
        const reply = await fetch(data.postUrl, { method: "POST", headers: { "Content-Type": "application/json" }, body: file() });
        if (!reply.ok) throw new Error(String(reply.status));
        return { code: "", redirect: "", extra: Study.make("p", {}, Study.text("bundle.posted")) };
      } catch {
        return { code: "", redirect: "", extra: Study.make("div", {}, Study.make("p", { role: "alert" }, Study.text("bundle.unposted")), saving()) };
      }
    },
    async withdraw() {
      kept = { ...kept, withdrawn: true, answers: [], comments: "" };
      save();
      return session();
    },
  };
})(window.Study);
