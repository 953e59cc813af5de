"use strict";
// The rating form: saved as a download and read back, because a page from disk cannot write.
(() => {
  const REMEMBERED = "pds-bids rater";

  function remembered(name) {
    // A browser may forbid storage to pages from disk; the name is then typed again.
    try {
      if (name !== undefined) localStorage.setItem(REMEMBERED, name);
      return localStorage.getItem(REMEMBERED) || "";
    } catch {
      return "";
    }
  }

  function collect(form) {
    const ratings = [...form.querySelectorAll("fieldset[data-image]")]
      .map((set) => ({
        image: set.dataset.image,
        sha256: set.dataset.sha256,
        verdict: set.querySelector("input[type=radio]:checked")?.value,
        artefacts: [...set.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.value),
        comment: set.querySelector("textarea").value.trim(),
      }))
      .filter((rating) => rating.verdict);
    return {
      format: form.dataset.format,
      participant: form.dataset.participant,
      session: form.dataset.session || null,
      rater: form.elements.rater.value.trim(),
      rated_at: new Date().toISOString(),
      ratings,
    };
  }

  function save(form, status) {
    const rating = collect(form);
    if (!rating.ratings.length) {
      status.textContent = "Nothing is saved yet: choose accept, doubt or reject.";
      form.querySelector("input[type=radio]").focus();
      return;
    }
    remembered(rating.rater);
    const rater = rating.rater.replace(/[^A-Za-z0-9]/g, "");
    const name = `${form.dataset.name}${rater ? `_rater-${rater}` : ""}_rating.json`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(rating, null, 2) + "\n"], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    status.textContent = `Saved as ${name}. Move it into the folder "ratings" beside this report.`;
  }

  function restore(form, rating) {
    if (rating.format !== form.dataset.format || !Array.isArray(rating.ratings)) throw new Error("it is not a rating");
    if (rating.participant !== form.dataset.participant || (rating.session || "") !== form.dataset.session) {
      throw new Error(`it is of sub-${rating.participant}${rating.session ? ` ses-${rating.session}` : ""}`);
    }
    form.reset();
    form.elements.rater.value = rating.rater || "";
    const remarks = [];
    for (const one of rating.ratings) {
      const set = [...form.querySelectorAll("fieldset[data-image]")].find((item) => item.dataset.image === one.image);
      if (!set) {
        remarks.push(`${one.image} is not in this report`);
        continue;
      }
      for (const input of set.querySelectorAll("input[type=radio]")) input.checked = input.value === one.verdict;
      const boxes = [...set.querySelectorAll("input[type=checkbox]")];
      for (const box of boxes) box.checked = (one.artefacts || []).includes(box.value);
      set.querySelector("textarea").value = one.comment || "";
      if (one.sha256 !== set.dataset.sha256) remarks.push(`${one.image} has been made again since: look once more`);
    }
    return remarks;
  }

  function attach(form) {
    const status = form.querySelector("[role=status]");
    form.hidden = false;
    form.elements.rater.value = remembered();
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      save(form, status);
    });
    form.querySelector("input[type=file]").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      if (!file) return;
      try {
        const remarks = restore(form, JSON.parse(await file.text()));
        status.textContent = `Loaded ${file.name}. ${remarks.join("; ")}`;
      } catch (error) {
        status.textContent = `${file.name} cannot be loaded: ${error.message}`;
      }
      event.target.value = "";
    });
  }

  document.querySelectorAll("form.rating").forEach(attach);
})();
