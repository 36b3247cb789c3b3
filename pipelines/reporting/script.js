"use strict";
// Tables of class "sortable" get buttons for heads: a click sorts, best first; a second click turns the order round.
// Without this script they are tables all the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.hasAttribute("data-first")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const turned = { ascending: "descending", descending: "ascending" };
      const order = turned[before] || head.dataset.first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value;
      const isMissing = (row) => value(row) === undefined;
      const isNumber = [...body.rows].every((row) => isMissing(row) || !isNaN(value(row)));
      const compare = (a, b) => (isNumber ? value(a) - value(b) : value(a).localeCompare(value(b), "en", { numeric: true }));
      const rows = [...body.rows].sort((a, b) =>
        isMissing(a) || isMissing(b) ? isMissing(a) - isMissing(b) : sign * compare(a, b)
      );
      body.append(...rows);
    });
  });
}
// Paper cannot be unfolded, and long lists of numbers are not worth it.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open], .long)")) {
    details.open = true;
    details.dataset.wasClosed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-was-closed]")) {
    details.open = false;
    delete details.dataset.wasClosed;
  }
});
