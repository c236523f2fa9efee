"use strict";
// Search, filter and sort the rows that are there; make those that are folded once they are wanted.
(() => {
  const $ = id => document.getElementById(id);
  const rows = [], folds = [];
  const texts = new Map();
  const text = row => {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  };
  const number = (row, name) => row.dataset[name] ? +row.dataset[name] : NaN;
  const place = row => row.dataset.place ? +row.dataset.place : 1000;  // what has no share comes last
  const SHOWN = {
    all: () => true,
    severe: row => number(row, "class") >= 3,
    new: row => row.dataset.made === "new",
    again: row => row.dataset.made === "again",
    changed: row => row.dataset.since === "changed",
    first: row => row.dataset.since === "first",
    doubtful: row => row.dataset.low === "1",
    warned: row => +row.dataset.warned > 0,
    unknown: row => row.dataset.percent === "",
    failed: row => row.dataset.status === "failed",
    rejected: row => row.dataset.status === "rejected",
  };
  const ORDER = {
    worst: (a, b) => a.rank - b.rank,
    mildest: (a, b) => place(a.row) - place(b.row) || a.rank - b.rank,
    newest: (a, b) => (b.row.dataset.finished || "").localeCompare(a.row.dataset.finished || ""),
  };

  // Rows below an element are known from now on, and in the order that is chosen.
  function adopt(element) {
    for (const body of element.querySelectorAll("tbody")) {
      [...body.rows].forEach((row, rank) => { row.dataset.rank = rank; rows.push(row); });
      if ($("order").value !== "worst") sort(body);
    }
  }

  // The markup of a fold is the text of its <noscript>.
  function unfold(fold) {
    const held = fold.querySelector("noscript");
    if (!held) return;
    const made = document.createElement("template");
    made.innerHTML = held.textContent;
    held.replaceWith(made.content);
    adopt(fold);
  }

  function filter() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), wanted = SHOWN[$("show").value];
    const narrowed = words.length > 0 || $("show").value !== "all";
    if (narrowed) for (const {fold} of folds) unfold(fold);
    let shown = 0;
    for (const row of rows) {
      const hide = !(wanted(row) && words.every(word => text(row).includes(word)));
      if (row.hidden !== hide) row.hidden = hide;
      shown += !hide;
    }
    for (const {fold, open} of folds) {
      const any = fold.querySelector("tbody tr:not([hidden])") !== null;
      fold.hidden = narrowed && !any;
      fold.open = narrowed ? any : open;
    }
    $("found").textContent = narrowed ? `${shown} of ${rows.length} rows` : "";
  }

  function sort(body) {
    if (!body.classList.contains("sortable")) return;
    const numbered = [...body.rows].map(row => ({row, rank: +row.dataset.rank}));
    numbered.sort(ORDER[$("order").value]);
    body.append(...numbered.map(one => one.row));
  }

  for (const fold of document.querySelectorAll("main details")) {
    folds.push({fold, open: fold.open});
    fold.addEventListener("toggle", () => { if (fold.open) unfold(fold); });
  }
  adopt(document.querySelector("main"));
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  $("show").addEventListener("change", filter);
  $("order").addEventListener("change", () => document.querySelectorAll("main tbody").forEach(sort));
  $("tools").hidden = false;
})();
