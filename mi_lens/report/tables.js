"use strict";
const $ = (id) => document.getElementById(id);

(() => {
  // Light and dark.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const showTheme = () => { $("theme").textContent = `Switch to ${isDark() ? "light" : "dark"}`; };
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  dark.addEventListener("change", showTheme);
  showTheme();

  // Tables.
  function compare(a, b) {
    if ("empty" in a.dataset || "empty" in b.dataset) return 0;
    if ("key" in a.dataset && "key" in b.dataset) return Number(a.dataset.key) - Number(b.dataset.key);
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }
  function sort(head) {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const body = head.closest("table").tBodies[0];
    const cell = (row) => row.cells[head.cellIndex];
    const empty = (row) => Number("empty" in cell(row).dataset); // last in either order
    const rows = [...body.rows].sort((a, b) => empty(a) - empty(b) || sign * compare(cell(a), cell(b)));
    for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    body.append(...rows);
  }
  function sayWhatSortingDoes(head) {
    const [first, last] = head.classList.contains("words") ? ["A to Z", "Z to A"] : ["lowest first", "highest first"];
    head.firstChild.title = `Sort the rows, ${head.getAttribute("aria-sort") === "ascending" ? last : first}`;
  }
  for (const button of document.querySelectorAll("th button")) {
    sayWhatSortingDoes(button.parentNode);
    button.addEventListener("click", () => {
      sort(button.parentNode);
      for (const head of button.parentNode.parentNode.cells) sayWhatSortingDoes(head);
    });
  }
})();
