/* Makes jsPsych trials of a timeline of Entoptic, and an answer file for `STUDY/returned/` of what jsPsych recorded. */
"use strict";
window.Entoptic = (function () {
  const random = (bytes) => Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");

  function crc32(text) {
    let crc = 0xffffffff;
    for (const byte of new TextEncoder().encode(text)) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
    }
    return ((crc ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
  }

  /** The trials of one place. `plugins` gives the class of each kind: {"html-button-response": …, "survey-text": …, preload: …}. */
  function timeline(told, slot, plugins) {
    const trials = told.slots[slot];
    if (!trials) throw new Error(`there is no place ${slot}, only 0 to ${told.slots.length - 1}`);
    const made = trials.map(({ preload, ...one }) => ({ ...one, type: plugins[one.type], on_finish: (row) => { row.received = new Date().toISOString(); } }));
    if (plugins.preload) made.unshift({ type: plugins.preload, images: [...new Set(trials.flatMap((one) => one.preload))] });
    return made;
  }

  /** What one row of jsPsych's data answers. */
  function answer(row) {
    const said = row.means ? row.means[row.response] : { text: (row.response && row.response.text) || "" };
    return { ...said, trial: row.trial, nonce: random(12), shown_ms: row.time_elapsed - row.rt, answered_ms: row.time_elapsed,
      received: row.received, viewport: [window.innerWidth, window.innerHeight], pixel_ratio: window.devicePixelRatio || 1 };
  }

  /** The answer file. `about`: {started, instruction_seconds, open_data, automated, comments}, as far as you asked. */
  function answerFile(told, slot, rows, about) {
    const payload = JSON.stringify({
      started: "", instruction_seconds: null, open_data: false, automated: false, comments: "", ...about, manifest: told.manifest, slot,
      participant: random(16), language: told.language, finished: new Date().toISOString(), stage: "finished",
      answers: rows.filter((row) => row.trial && row.rt !== null).map(answer),
    });
    return JSON.stringify({ format: 1, payload, crc32: crc32(payload) });
  }

  return { timeline, answerFile };
})();
