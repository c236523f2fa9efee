"use strict";
// Search, filter and sort the rows that are there; the page is whole without.
(() => {
  const $ = id => document.getElementById(id);
  const rows = [...document.querySelectorAll("main tbody tr")];
  const folds = [...document.querySelectorAll("main details")].map(fold => ({fold, open: fold.open}));
  const texts = new Map();
  const text = row => {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  };
  const number = (row, name) => row.dataset[name] === undefined || row.dataset[name] === "" ? NaN : +row.dataset[name];
  const known = row => row.dataset.percent === "" ? 1000 : number(row, "percent");  // what has no share comes last
  const SHOWN = {
    all: () => true,
    severe: row => number(row, "class") >= 3,
    doubtful: row => row.dataset.low === "1",
    warned: row => +row.dataset.warned > 0,
    unknown: row => row.dataset.percent === "",
  };
  const ORDER = {
    worst: (a, b) => a.place - b.place,
    mildest: (a, b) => known(a.row) - known(b.row) || a.place - b.place,
    newest: (a, b) => (b.row.dataset.finished || "").localeCompare(a.row.dataset.finished || ""),
  };

  function filter() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), wanted = SHOWN[$("show").value];
    const narrowed = words.length > 0 || $("show").value !== "all";
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(wanted(row) && words.every(word => text(row).includes(word)));
      shown += !row.hidden;
    }
    for (const {fold, open} of folds) {
      const any = fold.querySelector("tbody tr:not([hidden])") !== null;
      fold.hidden = narrowed && !any;
      fold.open = narrowed ? any : open;
    }
    $("found").textContent = narrowed ? `${shown} of ${rows.length} rows` : "";
  }

  function sort() {
    for (const body of document.querySelectorAll("main tbody.sortable")) {
      const numbered = [...body.rows].map(row => ({row, place: +row.dataset.place}));
      numbered.sort(ORDER[$("order").value]);
      body.append(...numbered.map(one => one.row));
    }
  }

  for (const body of document.querySelectorAll("main tbody.sortable"))
    [...body.rows].forEach((row, place) => { row.dataset.place = place; });
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  $("show").addEventListener("change", filter);
  $("order").addEventListener("change", sort);
  $("tools").hidden = false;
})();
