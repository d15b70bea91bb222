// Sortable tables: a button in every head, order inside each block, missing values last.

const FIRST_ORDER = { "↑": "descending", "↓": "ascending", "→0": "ascending" };

function makeSortable(table) {
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const button = el("button", { type: "button", class: "sort" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sortBy(table, head));
  }
  for (const block of table.tBodies) [...block.rows].forEach((row, number) => (row.dataset.place = number));
}

/** First press: best first; second: worst first; third: as printed. */
function sortBy(table, head) {
  const best = FIRST_ORDER[/↑|↓|→0/.exec(head.textContent)?.[0]] ?? (head.dataset.sort === "text" ? "ascending" : "descending");
  const other = best === "ascending" ? "descending" : "ascending";
  const next = { none: best, [best]: other, [other]: "none" }[head.getAttribute("aria-sort") ?? "none"];
  for (const each of table.querySelectorAll("th[aria-sort]")) each.removeAttribute("aria-sort");
  if (next !== "none") head.setAttribute("aria-sort", next);
  for (const block of table.tBodies) {
    const rows = [...block.rows].filter((row) => !row.classList.contains("block"));
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
    if (next !== "none") rows.sort((a, b) => compareCells(a, b, head, next === "ascending" ? 1 : -1));
    block.append(...rows);
  }
}

function compareCells(first, second, head, sign) {
  if (head.dataset.sort === "text") {
    const [a, b] = [first, second].map((row) => row.cells[head.cellIndex].textContent);
    return sign * a.localeCompare(b, undefined, { numeric: true });
  }
  const toZero = head.textContent.includes("→0");
  const [a, b] = [first, second].map((row) => {
    const { value } = row.cells[head.cellIndex].dataset;
    return value === undefined ? null : toZero ? Math.abs(value) : Number(value);
  });
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (a - b);
}

for (const table of document.querySelectorAll("figure.table table")) makeSortable(table);
