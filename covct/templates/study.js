"use strict";
// The viewer of a study page. Nothing is fetched: every slice lies in the page, as JPEG (grey) and PNG (marks).
(() => {
  const scan = JSON.parse(document.getElementById("scan").textContent);
  const {slices, rows, columns} = scan;
  const plane = rows * columns;
  const grey = new Uint8Array(slices * plane), marks = new Uint8Array(slices * plane);
  const ready = new Map();  // slice -> promise of its pixels
  const broken = new Set();
  let loaded = 0;

  // index of the first voxel, then steps in pixels to the right and downwards; sizes in pixels and mm
  const PLANES = {
    axial: {count: slices, width: columns, height: rows, right: 1, down: columns,
      start: at => at * plane, mm: [scan.spacing[2], scan.spacing[1]], letters: ["R", "L", "A", "P"]},
    coronal: {count: rows, width: columns, height: slices, right: 1, down: plane,
      start: at => at * columns, mm: [scan.spacing[2], scan.spacing[0]], letters: ["R", "L", "H", "F"]},
    sagittal: {count: columns, width: rows, height: slices, right: columns, down: plane,
      start: at => at, mm: [scan.spacing[1], scan.spacing[0]], letters: ["A", "P", "H", "F"]},
  };
  const WINDOWS = {lung: [-600, 1500], mediastinum: [40, 400]};
  const INFECTED = 4;
  const state = {plane: "axial", at: {axial: scan.first, coronal: rows >> 1, sagittal: columns >> 1},
    window: [...WINDOWS.lung], lungs: true, infection: true, opacity: 0.4, side: false};

  const $ = id => document.getElementById(id);
  const [stage, plain, marked, slider, strip, told] =
    ["stage", "plain", "marked", "position", "strip", "told"].map($);
  const pen = Object.assign(document.createElement("canvas"), {width: columns, height: rows})
    .getContext("2d", {willReadFrequently: true});

  // ---- slices from the page
  async function channel(address, into, offset) {
    const image = new Image();
    image.src = address;
    await image.decode();
    pen.drawImage(image, 0, 0, columns, rows);
    const pixels = pen.getImageData(0, 0, columns, rows).data;
    for (let i = 0; i < plane; i++) into[offset + i] = pixels[4 * i];
  }

  function load(slice) {
    const source = document.querySelector(`script[data-slice="${slice}"]`);
    // while the page arrives, the last element may be there in part
    const whole = source && (document.readyState !== "loading" || source.nextElementSibling);
    if (!whole) return Promise.resolve(false);
    if (!ready.has(slice)) ready.set(slice, (async () => {
      const [jpeg, png] = source.textContent.trim().split(",");
      await channel(`data:image/jpeg;base64,${jpeg}`, grey, slice * plane);
      if (png) await channel(`data:image/png;base64,${png}`, marks, slice * plane);
      source.textContent = "";
      loaded++;
      return true;
    })().catch(() => { broken.add(slice); return false; }));
    return ready.get(slice);
  }

  // One slice at a time: two would share the one canvas that they are read from.
  let queue = Promise.resolve();
  const inTurn = slice => queue = queue.then(() => load(slice));

  async function loadAll() {
    const order = [...Array(slices).keys()].sort((a, b) => Math.abs(a - scan.first) - Math.abs(b - scan.first));
    let drawn = performance.now();
    for (const slice of order) {
      await inTurn(slice);
      if (performance.now() - drawn > 300) { draw(); drawn = performance.now(); await new Promise(requestAnimationFrame); }
    }
    draw();
  }

  // ---- drawing
  function table() {  // grey to what is seen, by the window
    const [level, width] = state.window;
    return Uint8ClampedArray.from({length: 256}, (_, g) =>
      (scan.lowest_hu + scan.hu_a_grey * g - (level - width / 2)) * 255 / width);
  }

  function paint(canvas, overlay) {
    const view = PLANES[state.plane], {width, height, right, down} = view, start = view.start(state.at[state.plane]);
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
    const seen = table(), [R, L, I] = scan.colours, alpha = state.opacity;
    for (let y = 0, o = 0; y < height; y++) for (let x = 0; x < width; x++, o += 4) {
      const at = start + y * down + x * right, mark = overlay ? marks[at] : 0;
      let r = seen[grey[at]], g = r, b = r;
      if (mark) {
        const edge = bits => (x && x < width - 1 && y && y < height - 1) &&
          [at - right, at + right, at - down, at + down].some(next => (marks[next] & bits) !== (mark & bits));
        const infected = state.infection && mark & INFECTED;
        const tint = infected ? I : state.lungs ? (mark & 1 ? R : L) : null;
        if (tint) {
          const share = infected ? (edge(INFECTED) ? Math.max(alpha, 0.9 * (alpha > 0)) : alpha)
            : edge(3) ? Math.min(1, 2.2 * alpha) : 0;
          r += (tint[0] - r) * share; g += (tint[1] - g) * share; b += (tint[2] - b) * share;
        }
      }
      out[o] = r; out[o + 1] = g; out[o + 2] = b; out[o + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    canvas.style.setProperty("--ratio", (width * view.mm[0]) / (height * view.mm[1]));
  }

  function drawStrip() {
    const context = strip.getContext("2d"), axial = state.plane === "axial";
    strip.hidden = !axial;
    if (!axial) return;
    const wide = strip.width = slices, tall = strip.height = 40, most = Math.max(1, ...scan.lung);
    const css = getComputedStyle(document.documentElement);
    for (let i = 0; i < wide; i++) {
      const bar = (share, colour) => { context.fillStyle = colour; const h = share * tall; context.fillRect(i, tall - h, 1, h); };
      bar(scan.lung[i] / most, css.getPropertyValue("--grey"));
      bar(scan.infected[i] / most, css.getPropertyValue("--fill"));
    }
    context.fillStyle = css.getPropertyValue("--text");
    context.fillRect(state.at.axial, 0, Math.max(1, wide / 300), tall);
  }

  function words() {
    const view = PLANES[state.plane], at = state.at[state.plane], [level, width] = state.window;
    const name = state.plane === "axial" ? "slice" : `${state.plane} plane`;
    let text = `${name} ${at + 1} of ${view.count}`;
    if (state.plane === "axial" && scan.lung[at])
      text += `, ${(100 * scan.infected[at] / scan.lung[at]).toFixed(1)} % of its lung marked`;
    if (state.plane === "axial" && broken.has(at)) text += ", cannot be shown";
    text += `. Window ${Math.round(level)} / ${Math.round(width)} HU.`;
    if (told.textContent !== text) told.textContent = text;
    const left = slices - loaded - broken.size;
    $("loading").textContent = left ? `${left} slices are still to be loaded` : "";
  }

  function draw() {
    const view = PLANES[state.plane];
    slider.max = view.count - 1; slider.value = state.at[state.plane];
    slider.setAttribute("aria-valuetext", `${state.at[state.plane] + 1} of ${view.count}`);
    stage.classList.toggle("side", state.side);
    plain.parentElement.hidden = !state.side;
    if (state.side) paint(plain, false);
    paint(marked, true);
    for (const box of stage.children)
      view.letters.forEach((letter, i) => { box.querySelectorAll("span")[i].textContent = letter; });
    drawStrip(); words();
    document.dispatchEvent(new Event("drawn"));
  }

  let waiting = false;
  function redraw() { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; draw(); }); } }

  async function go(at) {
    const view = PLANES[state.plane];
    at = Math.min(view.count - 1, Math.max(0, Math.round(at)));
    state.at[state.plane] = at;
    redraw();
    if (state.plane === "axial" && await inTurn(at)) redraw();
  }
  const step = by => go(state.at[state.plane] + by);

  // ---- controls
  function choose(name, value) {
    for (const one of document.querySelectorAll(`input[name="${name}"]`)) one.checked = one.value === value;
  }
  function setPlane(name) { state.plane = name; choose("plane", name); redraw(); }
  function setWindow(name) { state.window = [...WINDOWS[name]]; choose("window", name); redraw(); }
  function toggle(name) { state[name] = !state[name]; $(name).checked = state[name]; redraw(); }

  for (const one of document.querySelectorAll('input[name="plane"]'))
    one.addEventListener("change", () => setPlane(one.value));
  for (const one of document.querySelectorAll('input[name="window"]'))
    one.addEventListener("change", () => setWindow(one.value));
  for (const name of ["lungs", "infection", "side"])
    $(name).addEventListener("change", () => { state[name] = $(name).checked; redraw(); });
  $("opacity").addEventListener("input", event => { state.opacity = event.target.value / 100; redraw(); });
  slider.addEventListener("input", () => go(+slider.value));
  strip.addEventListener("pointerdown", event =>
    go(Math.floor((event.clientX - strip.getBoundingClientRect().left) / strip.clientWidth * slices)));

  stage.addEventListener("wheel", event => { event.preventDefault(); step(Math.sign(event.deltaY)); }, {passive: false});
  const KEYS = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 10, PageUp: -10};
  const LETTERS = {l: () => toggle("lungs"), i: () => toggle("infection"), s: () => toggle("side"),
    w: () => setWindow(state.window.join() === WINDOWS.lung.join() ? "mediastinum" : "lung"),
    1: () => setPlane("axial"), 2: () => setPlane("coronal"), 3: () => setPlane("sagittal")};
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input[type=text], select")) return;
    const letter = event.key.toLowerCase();
    if (event.target.matches("input")) { if (!(letter in LETTERS)) return; }  // a slider has its own arrows
    else if (event.target !== stage && event.key in KEYS) return;  // else the page scrolls
    if (event.key in KEYS) step(KEYS[event.key]);
    else if (event.target === stage && event.key === "Home") go(0);
    else if (event.target === stage && event.key === "End") go(Infinity);
    else if (letter in LETTERS) LETTERS[letter]();
    else return;
    event.preventDefault();
  });

  // A finger scrolls through the slices, a mouse drags the window: to the right wider, downwards darker.
  let held = null;
  stage.addEventListener("pointerdown", event => {
    held = {x: event.clientX, y: event.clientY, at: state.at[state.plane], window: [...state.window]};
    stage.setPointerCapture(event.pointerId);
    stage.focus({preventScroll: true});
  });
  stage.addEventListener("pointermove", event => {
    if (!held) return;
    const x = event.clientX - held.x, y = event.clientY - held.y;
    if (event.pointerType === "touch") go(held.at + y * PLANES[state.plane].count / 400);
    else if (Math.abs(x) + Math.abs(y) > 3) {
      state.window = [held.window[0] + 2 * y, Math.max(20, held.window[1] + 4 * x)];
      choose("window", ""); redraw();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { held = null; });

  for (const button of document.querySelectorAll("button[data-at]")) {
    button.addEventListener("click", () => {
      const [slice, row, column] = button.dataset.at.split(" ").map(Number);
      state.at = {axial: slice, coronal: row, sagittal: column};
      go(state.at[state.plane]);
      stage.scrollIntoView({block: "nearest"});
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // For a script that adds to this page: what it shows, and when all of it is there.
  const whole = new Promise(resolve => {
    const begin = () => loadAll().then(() => resolve(!broken.size));
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
    else begin();
  });
  document.dispatchEvent(new CustomEvent("study", {detail: {scan, marks, state, PLANES, redraw, go, whole}}));

  $("viewer").hidden = false;
  inTurn(scan.first).then(draw);
})();
