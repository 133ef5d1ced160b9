"use strict";

// Theme: the system's until the reader chooses another.
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (dark) => {
  root.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light" : "Dark";
};
setTheme(prefersDark.matches);
prefersDark.addEventListener("change", (event) => setTheme(event.matches));
document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme !== "dark"));

// Tables: a click on a header sorts by it, a second one the other way round; what is missing stays last.
const valueOf = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/^[^\d.+-]*/, ""));
  return { text, number, missing: text === "-" || text === "" };
};
const compare = (a, b) => {
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return a.number - b.number;
  return a.text.localeCompare(b.text);
};
document.querySelectorAll("th button").forEach((button) => {
  button.addEventListener("click", () => {
    const header = button.parentElement;
    const body = header.closest("table").tBodies[0];
    const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    header.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => ({ row, key: valueOf(row, header.cellIndex) }));
    keyed.sort((a, b) => a.key.missing - b.key.missing || sign * compare(a.key, b.key));
    keyed.forEach(({ row }) => body.append(row));
  });
});

// Hover: what a point or a bar stands for.
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const point = event.target.closest ? event.target.closest("[data-tip]") : null;
  tip.style.visibility = point ? "visible" : "hidden";
  if (!point) return;
  tip.textContent = point.dataset.tip;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 10}px`;
});
