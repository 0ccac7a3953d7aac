// For keyboards and screen readers: the search has a name, and what scrolls can be reached by the Tab key.
function nameAndReach() {
  document.querySelectorAll('[role="dialog"]:not([aria-label])').forEach((box) => box.setAttribute("aria-label", "Search"));
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset .drawing, .md-typeset pre > code").forEach((wide) => {
    if (wide.scrollWidth > wide.clientWidth) {
      wide.setAttribute("tabindex", "0");
      wide.setAttribute("role", "region");
      wide.setAttribute("aria-label", "Scrolls sideways");
    }
  });
}
window.addEventListener("load", nameAndReach);
window.addEventListener("resize", nameAndReach);
