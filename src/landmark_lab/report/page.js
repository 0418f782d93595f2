"use strict";
// Picks one landmark out in all pictures. Without this script all of them are shown.
(() => {
  const sheet = document.head.appendChild(document.createElement("style"));
  let kept = null;
  const show = (landmark) => {
    sheet.textContent = landmark === null ? "" :
      `.frame svg [class*="k"]:not(.k${landmark}) { opacity: 0.08; }`;
  };
  const of = (target) => {
    const marked = target.closest(".legend button, .frame svg [class*='k']");
    const found = marked && /(?:^|\s)k(\d+)/.exec(marked.getAttribute("class"));
    return found ? found[1] : null;
  };
  const keep = (landmark) => {
    kept = kept === landmark ? null : landmark;
    for (const button of document.querySelectorAll(".legend button")) {
      button.setAttribute("aria-pressed", String(button.dataset.landmark === kept));
    }
    show(kept);
  };
  document.addEventListener("pointerover", (event) => show(of(event.target) ?? kept));
  document.addEventListener("click", (event) => {
    const landmark = of(event.target);
    if (landmark !== null) keep(landmark);
  });
})();
