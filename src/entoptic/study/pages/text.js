/* Texts, and elements made of them. Text is set as text and never as HTML. */
"use strict";
window.Study = window.Study || {};
(function (Study) {
  let words = { // until a language is there
    "error.title": "Something went wrong",
    "error.network": "The server cannot be reached. Check your connection and try again.",
    "error.retry": "Try again",
    "stopped.title": "You cannot take part now",
    "stopped.closed": "The study is closed.",
  };

  Study.setWords = function (found, language) {
    words = found;
    document.documentElement.lang = language;
  };

  /** The text of a key, with its placeholders filled. */
  Study.text = function (key, values) {
    const text = words[key];
    if (text === undefined) return key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => (values && name in values ? String(values[name]) : whole));
  };

  /** An element: `make("p", {class: "note"}, "text", child…)`; `onclick` and its like are listeners. */
  Study.make = function (tag, about, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(about || {})) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  };

  /** Shows a page, begins at its top, and moves the focus to its heading, so that it is read out. */
  Study.show = function (...children) {
    const page = document.getElementById("page");
    page.replaceChildren(...children.filter(Boolean));
    const heading = page.querySelector("h1");
    document.title = heading ? heading.textContent : document.title;
    window.scrollTo(0, 0);
    if (heading) {
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    }
  };

  Study.say = function (text) {
    document.getElementById("live").textContent = text;
  };
})(window.Study);
