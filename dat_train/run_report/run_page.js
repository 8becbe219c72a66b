"use strict";
// Each checkbox shows or hides the lines of a run.
for (const box of document.querySelectorAll("#runs input"))
  box.addEventListener("change", () => {
    for (const line of document.querySelectorAll(`.run-${box.value}`)) line.style.display = box.checked ? "" : "none";
  });
