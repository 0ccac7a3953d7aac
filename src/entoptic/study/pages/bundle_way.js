/* Where a person stands in the trials of a bundle; the same rules as on the server. */
"use strict";
(function (Study) {
  /** Trials that are still to come, and whether a task's practice failed in its last round. */
  function left(trials, right) {
    const found = [];
    const passed = new Set();
    const members = (one) => trials.filter((other) => other.practice && other.task === one.task && other.round === one.round);
    for (const one of trials) {
      if (!one.practice) {
        if (!(one.id in right)) found.push(one);
        continue;
      }
      const round = members(one);
      if (one !== round[0] || passed.has(one.task)) continue;
      const open = round.filter((member) => !(member.id in right));
      found.push(...open);
      const told = round.filter((member) => member.right.length).map((member) => right[member.id]);
      if (open.length || !told.length || (!told.includes(false) && told.includes(true))) passed.add(one.task);
      else if (!trials.some((other) => other.practice && other.task === one.task && other.round === one.round + 1)) return { found, failed: true };
    }
    return { found, failed: false };
  }

  /** The session, as the server would tell it. */
  Study.standing = function (trials, kept) {
    const counted = trials.filter((one) => !one.practice);
    const right = Object.fromEntries(kept.answers.map((one) => [one.trial, one.right]));
    const session = {
      stage: "trials", language: kept.language, done: counted.filter((one) => one.id in right).length, total: counted.length,
      tasks: [...new Set(trials.map((one) => one.task))], practice: { round: 0, rounds: 0 }, trial: null, next: [],
    };
    if (kept.withdrawn) return { ...session, stage: "withdrawn" };
    if (kept.instruction_seconds === null) return { ...session, stage: "instructions", next: trials.slice(0, 3) };
    const { found, failed } = left(trials, right);
    if (failed) return { ...session, stage: "screened-out" };
    if (!found.length) return { ...session, stage: kept.questioned ? "finished" : "questions" };
    const first = found[0];
    if (first.block > kept.breaks && first.round === 0) return { ...session, stage: "break", next: found.slice(0, 3) };
    const rounds = Math.max(...trials.filter((one) => one.practice && one.task === first.task).map((one) => one.round + 1), 1);
    return { ...session, stage: first.practice ? "practice" : "trials", trial: first, next: found.slice(1, 4), practice: { round: first.round, rounds } };
  };
})(window.Study);
