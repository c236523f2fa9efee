"use strict";
// What the viewer adds to a study's page: a brush, saving, and a truth to compare with. It asks this machine alone.
document.addEventListener("study", ({detail: study}) => {
  const {scan, marks, state, PLANES, redraw, go, whole} = study;
  const plane = scan.rows * scan.columns, INFECTED = 4, LUNGS = 3;
  const $ = id => document.getElementById(id);
  const [stage, kept, answer, save, undo, differ, most] =
    ["stage", "kept", "answer", "save", "undo", "differ", "most"].map($);
  const here = location.pathname;
  let tool = "look", ready = false, saving = false;
  const strokes = [], touched = new Set();  // what undo takes back; slices that differ from what is saved
  let truth = null;                         // {task, slices: array of marks as the scan's}

  // ---- what was chosen before it was opened
  const show = new URLSearchParams(location.search).get("show");
  state.side = $("side").checked = true;
  if (show === "infection") state.lungs = $("lungs").checked = false;
  if (show === "lungs") {
    state.infection = $("infection").checked = false;
    $("task").value = "lungs"; $("mark").value = "1";
  }
  whole.then(all => {
    ready = all;
    if (!all) kept.textContent = "Some slices cannot be shown: nothing can be corrected here.";
  });

  function buttons() {
    undo.disabled = !strokes.length;
    save.disabled = !touched.size || saving;
  }

  // ---- the brush: a disc in the plane that is shown, its size in mm
  function changed(value, mark) {
    if (tool === "paint") return mark === INFECTED ? value | INFECTED : (value & INFECTED) | mark;
    if (mark === INFECTED) return value & LUNGS;
    return (value & LUNGS) === mark ? value & INFECTED : value;
  }

  function set(at, value) {
    const slice = Math.floor(at / plane), before = marks[at];
    scan.lung[slice] += (value > 0) - (before > 0);
    scan.infected[slice] += (value >= INFECTED) - (before >= INFECTED);
    marks[at] = value;
    touched.add(slice);
  }

  function dab(stroke, x, y) {
    const view = PLANES[state.plane], {width, height, right, down, mm} = view, start = view.start(state.at[state.plane]);
    const radius = $("brush").value / 2, mark = +$("mark").value;
    const wide = Math.floor(radius / mm[0]), tall = Math.floor(radius / mm[1]);
    for (let row = Math.max(0, y - tall); row <= Math.min(height - 1, y + tall); row++)
      for (let column = Math.max(0, x - wide); column <= Math.min(width - 1, x + wide); column++) {
        if (((column - x) * mm[0]) ** 2 + ((row - y) * mm[1]) ** 2 > radius ** 2) continue;
        const at = start + row * down + column * right, value = changed(marks[at], mark);
        if (value === marks[at]) continue;
        stroke.push([at, marks[at]]);
        set(at, value);
      }
  }

  function line(stroke, from, to) {
    const steps = Math.max(1, Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    for (let i = 0; i <= steps; i++)
      dab(stroke, Math.round(from.x + (to.x - from.x) * i / steps), Math.round(from.y + (to.y - from.y) * i / steps));
  }

  let drawing = null;
  function place(event) {
    const box = drawing.canvas.getBoundingClientRect();
    return {x: Math.floor((event.clientX - box.left) / box.width * drawing.canvas.width),
      y: Math.floor((event.clientY - box.top) / box.height * drawing.canvas.height)};
  }
  // Before the page's own listeners, which would drag the window.
  $("viewer").addEventListener("pointerdown", event => {
    const canvas = event.target.closest("#stage canvas");
    if (tool === "look" || !canvas || event.button) return;
    event.stopPropagation(); event.preventDefault();
    stage.focus({preventScroll: true});
    if (!ready) { kept.textContent = "Nothing can be corrected until all slices are there."; return; }
    drawing = {canvas, stroke: [], at: null};
    stage.setPointerCapture(event.pointerId);
    drawing.at = place(event);
    line(drawing.stroke, drawing.at, drawing.at);
    redraw();
  }, true);
  $("viewer").addEventListener("pointermove", event => {
    if (!drawing) return;
    event.stopPropagation();
    const to = place(event);
    line(drawing.stroke, drawing.at, to);
    drawing.at = to;
    redraw();
  }, true);
  for (const end of ["pointerup", "pointercancel"]) $("viewer").addEventListener(end, () => {
    if (drawing && drawing.stroke.length) strokes.push(drawing.stroke);
    drawing = null;
    buttons();
  }, true);

  function takeBack() {
    const stroke = strokes.pop();
    if (stroke) for (const [at, before] of stroke.reverse()) set(at, before);
    buttons(); redraw();
  }

  // ---- asking the server
  async function ask(path, body) {
    let response, told;
    try {
      response = await fetch(here + path, {method: "POST", body});
      told = await response.json();
    } catch { throw new Error("The viewer does not answer; is covct view still running?"); }
    if (!response.ok) throw new Error(told.message);
    return told;
  }

  function runs(slice) {
    const out = [], end = (slice + 1) * plane;
    for (let at = slice * plane; at < end;) {
      let next = at + 1;
      while (next < end && marks[next] === marks[at]) next++;
      out.push(marks[at], next - at);
      at = next;
    }
    return out;
  }

  async function keep() {
    const sent = [...touched];
    saving = true; touched.clear(); buttons();
    try {
      const slices = Object.fromEntries(sent.map(slice => [slice, runs(slice)]));
      const told = await ask("/marks", JSON.stringify({reader: $("reader").value, slices}));
      kept.textContent = told.message;
      if (told.compared) compared(told.compared);
    } catch (error) {
      for (const slice of sent) touched.add(slice);
      kept.textContent = error.message;
    }
    saving = false; buttons();
  }

  // ---- the truth
  async function compare() {
    const [file] = $("truth").files;
    if (!file) return;
    most.hidden = true;
    answer.textContent = "Reading the truth …";
    const asked = new URLSearchParams({task: $("task").value, name: file.name, labels: $("labels").value});
    try { compared(await ask(`/truth?${asked}`, file)); }
    catch (error) { answer.textContent = error.message; }
    $("truth").value = "";  // so that the same file can be chosen again
  }

  const figure = (value, digits, unit = "") => value === null ? "–" : value.toFixed(digits) + unit;
  function compared(told) {
    if (told.runs) truth = {bits: told.task === "lungs" ? LUNGS : INFECTED, mask: spread(told.runs)};
    const name = told.task === "lungs" ? "Lungs" : "Opacity";
    answer.textContent = `${name} as saved against the truth: Dice ${figure(told.dice, 3)}, ` +
      `IoU ${figure(told.iou, 3)}; ${figure(told.missed_ml, 1, " mL")} missed, ` +
      `${figure(told.beyond_ml, 1, " mL")} beyond it.`;
    most.textContent = `differs most in slice ${told.most + 1}`;
    most.onclick = () => { document.querySelector("input[value=axial]").click(); go(told.most); };
    most.hidden = differ.disabled = false;
    if (!differ.checked) differ.click();
    stage.focus({preventScroll: true});  // out of the fields, where letters are no keys
    redraw();
  }

  function spread(slices) {
    const mask = new Uint8Array(scan.slices * plane);
    slices.forEach((one, slice) => {
      for (let i = 0, at = slice * plane; i < one.length; at += one[i + 1], i += 2)
        if (one[i]) mask.fill(1, at, at + one[i + 1]);
    });
    return mask;
  }

  const BOTH = [0, 158, 115], MISSED = [40, 130, 255], BEYOND = [240, 140, 0];
  document.addEventListener("drawn", () => {
    $("differing").hidden = !(truth && differ.checked);
    if (!truth || !differ.checked || !state.side) return;
    const view = PLANES[state.plane], {width, height, right, down} = view, start = view.start(state.at[state.plane]);
    const context = $("plain").getContext("2d"), image = context.getImageData(0, 0, width, height), out = image.data;
    for (let y = 0, o = 0; y < height; y++) for (let x = 0; x < width; x++, o += 4) {
      const at = start + y * down + x * right, mine = marks[at] & truth.bits, true_ = truth.mask[at];
      if (!mine && !true_) continue;
      const tint = mine && true_ ? BOTH : true_ ? MISSED : BEYOND;
      for (let i = 0; i < 3; i++) out[o + i] += (tint[i] - out[o + i]) * 0.5;
    }
    context.putImageData(image, 0, 0);
  });

  // ---- controls
  function choose(name) {
    tool = name;
    for (const one of document.querySelectorAll("input[name=tool]")) one.checked = one.value === name;
  }
  for (const one of document.querySelectorAll("input[name=tool]"))
    one.addEventListener("change", () => choose(one.value));
  $("brush").addEventListener("input", () => { $("brush-mm").textContent = `${$("brush").value} mm`; });
  differ.addEventListener("change", () => {
    if (differ.checked) state.side = $("side").checked = true;
    redraw();
  });
  undo.addEventListener("click", takeBack);
  save.addEventListener("click", keep);
  $("truth").addEventListener("change", compare);
  const LETTERS = {v: () => choose("look"), p: () => choose("paint"), e: () => choose("erase"), z: takeBack,
    d: () => { if (!differ.disabled) differ.click(); }};
  document.addEventListener("keydown", event => {
    const letter = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
    if (event.altKey || event.target.matches("input[type=text], select") || !(letter in LETTERS)) return;
    if (control && letter !== "z") return;
    LETTERS[letter]();
    event.preventDefault();
  });
  addEventListener("beforeunload", event => { if (touched.size) event.preventDefault(); });
});
