/* Loads and decodes the pictures of a trial before it is shown, and those of the next ones meanwhile. */
"use strict";
(function (Study) {
  const loading = new Map(); // by trial: a promise of its decoded images

  async function image(trial, picture) {
    const url = await Study.api.picture(trial.id, picture.n);
    const made = new Image(picture.width, picture.height);
    made.src = url;
    made.dataset.n = picture.n;
    await made.decode();
    return made;
  }

  async function once(trial, picture) {
    try {
      return await image(trial, picture);
    } catch (error) {
      if (error instanceof Study.Refused && error.code === "network") throw error;
      return image(trial, picture); // a second try; what fails again is a technical failure
    }
  }

  Study.pictures = {
    load(trial) {
      if (!loading.has(trial.id)) {
        const all = Promise.all(trial.pictures.map((picture) => once(trial, picture)));
        all.catch(() => loading.delete(trial.id));
        loading.set(trial.id, all);
      }
      return loading.get(trial.id);
    },
    /** Begins to load further trials, after the current one is there. */
    ahead(trials) {
      trials.reduce((before, trial) => before.then(() => this.load(trial)), Promise.resolve()).catch(() => {});
    },
    async drop(trial) {
      const images = await (loading.get(trial.id) || Promise.resolve([])).catch(() => []);
      loading.delete(trial.id);
      for (const one of images) if (one.src.startsWith("blob:")) URL.revokeObjectURL(one.src);
    },
  };
})(window.Study);
