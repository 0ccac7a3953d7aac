/* The way through the study: what the session says comes next. */
"use strict";
(function (Study) {
  const { screens, text } = Study;
  const state = { task: "", practice: "", withdrawing: false };
  const ENDS = ["taken", "full", "closed", "preview"];

  const nonce = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

  /** Halts the way while the page asks whether to withdraw: what was on its way must not take that page's place. */
  const undisturbed = () => (state.withdrawing ? new Promise(() => {}) : undefined);

  /** Runs a step; when the network is away, says so and tries the same step again. `own`: a step of withdrawing itself. */
  async function step(action, own = false) {
    for (;;) {
      try {
        const done = await action();
        if (!own) await undisturbed();
        return done;
      } catch (error) {
        if (!(error instanceof Study.Refused)) throw error;
        if (!own) await undisturbed();
        if (ENDS.includes(error.code)) {
          screens.foot(null);
          screens.stopped(error.code);
          return new Promise(() => {});
        }
        if (error.code !== "network") throw error;
        await new Promise((again) => screens.failed(again));
      }
    }
  }

  async function trial(session) {
    const now = session.trial;
    let images = null;
    try {
      images = await Study.pictures.load(now);
    } catch (error) {
      if (error instanceof Study.Refused && error.code === "network") throw error;
    }
    await undisturbed();
    let answer;
    if (images) {
      Study.pictures.ahead(session.next);
      answer = await Study.ask(now, session, images);
    } else {
      Study.say(text("trial.technical"));
      answer = { trial: now.id, technical: true };
    }
    const body = {
      ...answer, nonce: nonce(), viewport: [window.innerWidth, window.innerHeight], pixel_ratio: window.devicePixelRatio || 1,
    };
    let reply;
    try {
      reply = await step(() => Study.api.answer(body));
    } catch (error) {
      if (!(error instanceof Study.Refused) || error.status !== 409) throw error;
      return Study.api.session(false); // answered in another tab: go on where the session is
    }
    if (now.practice && reply.right !== null) await Study.feedback(reply.right);
    Study.pictures.drop(now);
    return reply.session;
  }

  async function next(session) {
    const task = session.trial && session.trial.task;
    if (session.stage === "instructions") {
      return new Promise((done) => screens.instructions(session, async (seconds) => done(await step(() => Study.api.instructed(seconds)))));
    }
    if (session.stage === "break") {
      Study.pictures.ahead(session.next);
      return new Promise((done) => screens.rest(session, state.task, async () => done(await step(() => Study.api.goOn()))));
    }
    if (session.stage === "questions") {
      return new Promise((done) => screens.questions(async (told) => done(await step(() => Study.api.questions(told)))));
    }
    const round = `${task} ${session.practice.round}`;
    if (session.stage === "practice" && session.practice.round > 0 && state.practice !== round) {
      state.practice = round;
      await new Promise((done) => screens.again(session, task, done));
    }
    state.task = task;
    return step(() => trial(session));
  }

  async function go(first) {
    let session = first;
    for (;;) {
      await undisturbed();
      const over = ["finished", "screened-out", "withdrawn"].includes(session.stage);
      document.body.dataset.stage = session.stage;
      screens.foot(over ? null : session, withdraw);
      if (over) {
        const told = session.stage === "withdrawn" ? null : await step(() => Study.api.finish());
        screens.end(session.stage, told);
        return;
      }
      session = await next(session);
    }
  }

  function withdraw() {
    if (state.withdrawing) return;
    state.withdrawing = true;
    screens.withdraw(
      async () => {
        const session = await step(() => Study.api.withdraw(), true);
        screens.foot(null);
        screens.end(session.stage, null);
      },
      () => window.location.reload(), // the session goes on where it was
    );
  }

  async function begin() {
    Study.show();
    const about = await step(() => Study.api.study());
    const parameters = Study.api.parameters();
    const codes = Object.keys(about.languages);
    const wanted = [parameters.lang, ...(navigator.languages || []).map((one) => one.split("-")[0])];
    let language = wanted.find((one) => codes.includes(one)) || codes[0];
    const speak = async (code) => Study.setWords(await step(() => Study.api.wording(code)), code);
    await speak(language);
    if (Study.api.resume(about.manifest, parameters)) {
      try {
        const session = await step(() => Study.api.session(true));
        await speak(session.language);
        return go(session);
      } catch (error) {
        if (!(error instanceof Study.Refused) || error.status !== 401) throw error;
        Study.api.forget();
      }
    }
    if (!about.open) return screens.stopped("closed");
    const offer = async () => {
      await speak(language);
      screens.consent(about, language, (code) => { language = code; offer(); }, async (given) => {
        go(await step(() => Study.api.claim({ ...given, parameters })));
      });
    };
    return offer();
  }

  begin();
})(window.Study);
