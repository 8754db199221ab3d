"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  table.tHead.querySelectorAll("button").forEach((button, place) => {
    const head = button.closest("th");
    const directions = place ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
    button.addEventListener("click", () => {
      const next = directions[(directions.indexOf(head.getAttribute("aria-sort")) + 1) % directions.length];
      table.tHead.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      const key = (row) => row.cells[place].dataset.sort === "" ? NaN : Number(row.cells[place].dataset.sort);
      const sign = next === "ascending" ? 1 : -1;
      const sorted = next === "none" ? first : [...first].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : sign * (a - b);
      });
      if (next !== "none") head.setAttribute("aria-sort", next);
      body.append(...sorted);
    });
  });
}
const origin = document.getElementById("origin");
document.addEventListener("click", (event) => {
  const number = event.target.closest("data");
  origin.hidden = !number;
  origin.textContent = number ? `${number.textContent}: ${number.dataset.file}, ${number.dataset.field} = ${number.value}` : "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") origin.hidden = true;
});
