"use strict";
// The boxes above the curves show and hide a run's lines.
for (const box of document.querySelectorAll("#runs input"))
  box.addEventListener("change", () => {
    for (const line of document.querySelectorAll(`.run-${box.value}`)) line.style.display = box.checked ? "" : "none";
  });
