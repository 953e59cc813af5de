"use strict";
// Two pictures of the same planes, one over the other: a slider fades between them, a button flickers.
(() => {
  const PERIOD_MS = 700;

  function attach(root) {
    const [slider, button] = [root.querySelector("input[type=range]"), root.querySelector("button")];
    const top = root.querySelector(".pictures > :last-child");
    let timer = null;
    const fade = () => { top.style.opacity = slider.value; };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.setAttribute("aria-pressed", "false");
    };
    root.classList.add("stacked");
    root.querySelector(".controls").hidden = false;
    slider.addEventListener("input", () => { stop(); fade(); });
    button.addEventListener("click", () => {
      if (timer) {
        stop();
        return;
      }
      button.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = Number(slider.value) > 0.5 ? 0 : 1;
        fade();
      }, PERIOD_MS);
    });
    fade();
  }

  document.querySelectorAll(".compare").forEach(attach);
})();
