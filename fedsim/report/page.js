// Sorts a table by the column whose heading is pressed, once up, then down. Without it the table is in the plan's order.
for (const table of document.querySelectorAll("table.sortable")) {
  const buttons = [...table.querySelectorAll("thead button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const heading = button.closest("th");
      const column = [...heading.parentNode.children].indexOf(heading);
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.children[column].dataset.sort;
      const rank = (a, b) => {
        const [x, y] = [Number(key(a)), Number(key(b))];
        return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x === y ? 0 : x - y;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (down ? rank(b, a) : rank(a, b))));
    });
  }
}
