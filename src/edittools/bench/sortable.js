"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", () => {
    const head = button.parentElement, column = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value;
    const order = (a, b) => column === 0 ? key(b).localeCompare(key(a)) : Number(key(b)) - Number(key(a));
    const rows = [...table.tBodies[0].rows].sort((a, b) => down ? order(a, b) : order(b, a));
    // Missing values stay at the end in both directions.
    rows.sort((a, b) => (key(a) === "") - (key(b) === ""));
    table.tBodies[0].append(...rows);
  }));
}
