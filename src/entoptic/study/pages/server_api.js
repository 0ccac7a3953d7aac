/* The server behind the pages. Every call is tried again while the network is away; nothing is sent twice under two names. */
"use strict";
(function (Study) {
  const tries = [500, 1500, 4000];
  let token = "";

  class Refused extends Error {
    constructor(status, code, message) {
      super(message);
      this.status = status;
      this.code = code;
    }
  }
  Study.Refused = Refused;

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  async function ask(path, options) {
    for (let attempt = 0; ; attempt += 1) {
      let reply;
      try {
        reply = await fetch(path, options);
      } catch {
        if (attempt >= tries.length) throw new Refused(0, "network", "");
        await pause(tries[attempt]);
        continue;
      }
      if (reply.ok) return reply;
      if ((reply.status >= 500 || reply.status === 429) && attempt < tries.length) {
        await pause(tries[attempt]);
        continue;
      }
      let told = {};
      try {
        told = await reply.json();
      } catch {
        told = {};
      }
      throw new Refused(reply.status, told.error || "network", told.message || "");
    }
  }

  const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
  const get = async (path) => (await ask(path, { headers: headers(), cache: "no-store" })).json();
  const post = async (path, body) =>
    (
      await ask(path, {
        method: "POST",
        headers: { ...headers(), "Content-Type": "application/json" },
        body: JSON.stringify(body || {}),
      })
    ).json();

  /* Someone with an identifier may come back in another tab; without one the tab is all that tells people apart. */
  function store(named) {
    try {
      return named ? window.localStorage : window.sessionStorage;
    } catch {
      return null;
    }
  }

  Study.api = {
    parameters() {
      return Object.fromEntries(new URLSearchParams(window.location.search));
    },
    study: () => get("/api/study"),
    wording: (language) => get(`/api/wording/${language}`),

    /** Takes up a session that this browser began; whether there is one. */
    resume(manifest, parameters) {
      const named = ["PROLIFIC_PID", "workerId", "SIMULATED"].some((name) => parameters[name]);
      this.place = { store: store(named), key: `study:${manifest}:${named ? JSON.stringify(parameters) : ""}` };
      try {
        token = this.place.store.getItem(this.place.key) || "";
      } catch {
        token = "";
      }
      return Boolean(token);
    },
    async claim(body) {
      const made = await post("/api/claim", body);
      token = made.token;
      try {
        this.place.store.setItem(this.place.key, token);
      } catch {
        /* a browser without a store: the session lasts as long as the page */
      }
      return made.session;
    },
    forget() {
      token = "";
      try {
        this.place.store.removeItem(this.place.key);
      } catch {
        /* there was no store */
      }
    },
    session: (reload) => get(`/api/session${reload ? "?reload=1" : ""}`),
    instructed: (seconds) => post("/api/instructions", { seconds }),
    goOn: () => post("/api/continue"),
    async picture(trial, n) {
      const reply = await ask(`/api/trials/${trial}/pictures/${n}`, { headers: headers(), cache: "no-store" });
      return URL.createObjectURL(await reply.blob());
    },
    answer: (body) => post("/api/answers", body),
    questions: (body) => post("/api/questions", body),
    finish: () => post("/api/finish"),
    withdraw: () => post("/api/withdraw"),
  };
})(window.Study);
