// Sorts tables, enlarges pictures, and opens what a link leads to. Without it everything can be read all the same.
const number = (text) => { const found = /-?\d[\d.,]*(e-?\d+)?/i.exec(text); return found ? Number(found[0].replace(/,(?=\d{3})/g, "")) : NaN; };
const key = (row, column) => row.children[column]?.dataset.sort ?? row.children[column]?.firstChild?.textContent ?? "";

function rank(a, b, column) {
  const [x, y] = [key(a, column), key(b, column)];
  const [m, n] = a.children[column]?.dataset.sort === undefined ? [number(x), number(y)] : [Number(x), Number(y)];
  return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m === n ? 0 : m - n;
}

// Rows stay in their group, below its heading.
function sort(table, heading) {
  const column = [...heading.parentNode.children].indexOf(heading);
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.querySelector("th[scope=rowgroup], td[colspan]"));
    body.append(...rows.sort((a, b) => (down ? rank(b, a, column) : rank(a, b, column))));
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.querySelectorAll("thead th")) {
    let button = heading.querySelector("button");
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
    }
    button.addEventListener("click", () => sort(table, heading));
  }
}

const enlarged = document.createElement("dialog");
enlarged.className = "enlarged";
enlarged.setAttribute("aria-label", "Enlarged picture");
enlarged.addEventListener("click", () => enlarged.close());
document.body.append(enlarged);

function enlarge(image) {
  const copy = image.cloneNode();
  for (const name of ["role", "tabindex", "aria-label"]) copy.removeAttribute(name);
  const told = document.createElement("p");
  told.textContent = image.alt;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  enlarged.replaceChildren(copy, told, close);
  enlarged.showModal();
}

for (const image of document.querySelectorAll(".wall img, img.chart")) {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-label", `Enlarge: ${image.alt}`);
  image.addEventListener("click", () => enlarge(image));
  image.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(image);
  });
}

function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.closest("details");
  if (fold) { fold.open = true; target.scrollIntoView(); }
}
addEventListener("hashchange", open);
open();
