"use strict";
// What is picked in one place is shown in all others.
function pick(name, from) {
  for (const each of document.querySelectorAll(".picked")) each.classList.remove("picked");
  for (const each of document.querySelectorAll("[data-node]")) {
    if (each.dataset.node !== name) continue;
    each.classList.add("picked");
    if (each.closest(".graph") && !from.closest(".graph")) {
      each.scrollIntoView({ block: "nearest", inline: "center" });
    }
  }
}
document.addEventListener("click", (event) => {
  const there = event.target.closest("[data-node]");
  if (there && there.dataset.node) pick(there.dataset.node, there);
});
document.addEventListener("keydown", (event) => {
  const there = event.target.closest("[data-node]");
  if (event.key === "Enter" && there) pick(there.dataset.node, there);
});
