// Linked maps of one image: one row per run, one canvas per map. Zoom, pan, opacity, heat and hover stay in the browser.

const PANEL_VOID = 255;
const PANEL_CODES = [["right", "transparent"], ["missed", "#0072B2"], ["invented", "#E69F00"], ["confused", "#CC79A7"]]
  .map(([name, colour]) => ({ name, colour }));
const PANEL_MAGMA = ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"];
const PANEL_WIDTH = [180, 480];  // CSS pixels, least and most
const PANEL_GAP = 10;            // CSS pixels between columns
const PANEL_DEEPEST = 32;        // times enlarged
const PANEL_TINY = 160;          // pictures up to this wide or high keep their pixels when enlarged
const PANEL_HINT = "Ctrl + wheel zooms, the wheel alone once a map is clicked · drag moves · double click resets · "
  + "keys + − 0 and arrows, Shift + arrows for the pointer, Esc lets go";

// ------------------------------------------------------------------------------------------ numbers

const panelBytes = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
// one word per RGBA pixel: every platform with a browser is little-endian
const panelWord = ([r, g, b], alpha = 255) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
const PANEL_SCALE = `linear-gradient(90deg, ${PANEL_MAGMA})`;

const PANEL_HEAT = Uint32Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (PANEL_MAGMA.length - 1), k = Math.min(Math.floor(at), PANEL_MAGMA.length - 2);
  const [low, high] = [panelBytes(PANEL_MAGMA[k]), panelBytes(PANEL_MAGMA[k + 1])];
  return panelWord(low.map((c, j) => Math.round(c + (at - k) * (high[j] - c))));
});

// Where pixel i of n lies between the pixels of a smaller map (torch, align_corners=False): below, above, share of above.
function panelTap(i, n, small) {
  const at = clamp(((i + 0.5) * small) / n - 0.5, 0, small - 1), below = Math.floor(at);
  return [below, Math.min(below + 1, small - 1), at - below];
}

// Every channel of a soft map at one pixel of the label map, 0..1.
function panelSoftAt({ data, c, h, w }, x, y, [H, W]) {
  const [x0, x1, s] = panelTap(x, W, w), [y0, y1, t] = panelTap(y, H, h);
  return Array.from({ length: c }, (_, k) => {
    const at = (row, column) => data[(k * h + row) * w + column];
    const upper = at(y0, x0) * (1 - s) + at(y0, x1) * s, lower = at(y1, x0) * (1 - s) + at(y1, x1) * s;
    return (upper * (1 - t) + lower * t) / 255;
  });
}

// Is class k among those that a heat map is of?
const panelHeats = (heat, k, nOld) =>
  heat === "background" ? k === 0 : heat === "old" ? k > 0 && k < nOld : heat === "new" ? k >= nOld : k === heat;

const panelHeatName = (heat, classes) => classes[heat === "background" ? 0 : heat]?.name ?? `${heat} classes`;

// ------------------------------------------------------------------------------------------ pixels

// Height and width of an ImageBitmap, an HTMLImageElement or a canvas; 0 where there is nothing to draw.
const panelSize = (image) => [image?.naturalHeight ?? image?.height ?? 0, image?.naturalWidth ?? image?.width ?? 0];

// Labels in words by class. A plain loop: `Uint32Array.from` takes thirty times as long.
function panelWords(labels, colours) {
  const words = new Uint32Array(labels.length);
  for (let i = 0; i < words.length; i++) words[i] = colours[labels[i]];
  return words;
}

// A canvas with one word per pixel of a label map.
function panelLayer([H, W], words) {
  const canvas = make("canvas", { width: W, height: H });
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(words.buffer), W, H), 0, 0);
  return canvas;
}

// The summed channels as a heat map: values are interpolated first and coloured then.
function panelHeatLayer({ data, c, h, w }, { size: [H, W], nOld }, heat) {
  const sum = new Float32Array(h * w), words = new Uint32Array(H * W), line = new Float32Array(w);
  for (let k = 0; k < c; k++) {
    if (panelHeats(heat, k, nOld)) for (let i = 0; i < h * w; i++) sum[i] += data[k * h * w + i];
  }
  const taps = Array.from({ length: W }, (_, x) => panelTap(x, W, w));
  const left = Int32Array.from(taps, (t) => t[0]), right = Int32Array.from(taps, (t) => t[1]);
  const share = Float32Array.from(taps, (t) => t[2]);
  for (let y = 0; y < H; y++) {
    const [y0, y1, t] = panelTap(y, H, h);
    for (let x = 0; x < w; x++) line[x] = sum[y0 * w + x] * (1 - t) + sum[y1 * w + x] * t;
    for (let x = 0; x < W; x++) {
      const value = line[left[x]] + (line[right[x]] - line[left[x]]) * share[x];
      words[y * W + x] = PANEL_HEAT[Math.min(Math.round(value), 255)];
    }
  }
  return panelLayer([H, W], words);
}

// Labels in their colours; where a class is looked at, the others fade. Background and "no label" stay clear.
function panelLabelLayer(labels, kind, { classes, nOld, size }, heat) {
  const colours = new Uint32Array(256);
  if (kind === "difference") {
    for (const code of [1, 2, 3]) colours[code] = panelWord(panelBytes(PANEL_CODES[code].colour));
  } else {
    classes.forEach(({ colour }, k) => {
      if (k) colours[k] = panelWord(panelBytes(colour), heat === null || panelHeats(heat, k, nOld) ? 255 : 56);
    });
  }
  return panelLayer(size, panelWords(labels, colours));
}

const panelVoidLayer = (labels, { size }) => labels.includes(PANEL_VOID)
  ? panelLayer(size, panelWords(labels, new Uint32Array(256).fill(0xff000000, PANEL_VOID))) : null;

// Grey with diagonals, in pixels of the screen: it looks the same at every zoom, and like no class.
function panelHatch(ctx, ratio) {
  const side = Math.round(6 * ratio), tile = make("canvas", { width: side, height: side }), pen = tile.getContext("2d");
  pen.fillStyle = "#b4b4b4";
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = "#555";
  pen.lineWidth = 1.3 * ratio;
  for (const shift of [-side, 0, side]) {  // the neighbours' corners too, or the lines have gaps
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  return ctx.createPattern(tile, "repeat");
}

// The borders between a truth's classes along the edges of its pixels; its void strip counts as background.
function panelOutline(truth, [H, W]) {
  const path = new Path2D(), at = (y, x) => (truth[y * W + x] === PANEL_VOID ? 0 : truth[y * W + x]);
  const trace = (n, length, differs, line) => {
    for (let i = 1; i < n; i++) {
      for (let j = 0, from = -1; j <= length; j++) {
        const edge = j < length && differs(i, j);
        if (edge && from < 0) from = j;
        if (!edge && from >= 0) { line(i, from, j); from = -1; }
      }
    }
  };
  trace(H, W, (y, x) => at(y, x) !== at(y - 1, x), (y, a, b) => { path.moveTo(a, y); path.lineTo(b, y); });
  trace(W, H, (x, y) => at(y, x) !== at(y, x - 1), (x, a, b) => { path.moveTo(x, a); path.lineTo(x, b); });
  return path;
}

// ------------------------------------------------------------------------------------------ elements

// One map: caption, canvas under a ring at the pointer, readout of three entries.
function panelFigure(grid, title, spec, row) {
  const figure = make("figure.wilson-panel", { parent: grid, dataset: { panel: spec.name, row } });
  const caption = make("figcaption", { parent: figure });
  const head = make("div.wilson-panel-head", { parent: caption });
  make("b", { parent: head, text: spec.name });
  const note = make("span.wilson-panel-note", { parent: head });
  const readout = make("div.wilson-panel-readout", { parent: caption });
  const entries = [0, 1, 2].map(() => {
    const entry = make("span.wilson-panel-entry", { parent: readout });
    const [swatch, name, value] = ["i", "span", "b"].map((tag) => make(tag, { parent: entry }));
    return { entry, swatch, name, value };
  });
  const stage = make("div.wilson-panel-stage", { parent: figure });
  const canvas = make("canvas", { parent: stage, tabIndex: 0, role: "application", ariaRoleDescription: "map that zooms",
    ariaLabel: [spec.name, title].filter(Boolean).join(" of ") });
  const ring = make("div.wilson-panel-ring", { parent: stage });
  return { spec, row, figure, note, entries, stage, canvas, ctx: canvas.getContext("2d"), ring };
}

const panelPercent = (value) => (value > 0 && value < 0.005 ? "<1\u202f%" : `${Math.round(100 * value)}\u202f%`);

const panelClass = (classes, k) => classes[k] ?? { name: `class ${k}`, colour: "transparent" };

// What a map says at a pixel: up to three of { name, colour, value }. What the heat map is of is always among them.
function panelSays({ kind, labels, soft }, { classes, nOld, size }, heat, { x, y }) {
  if (kind === "image" || !(labels || soft)) return [];
  if (kind === "difference" || !soft) {
    const k = labels[y * size[1] + x];
    if (k === PANEL_VOID) return [{ name: "no label", colour: "" }];
    return [panelClass(kind === "difference" ? PANEL_CODES : classes, k)];
  }
  const values = panelSoftAt(soft, x, y, size);
  const order = values.map((_, k) => k).sort((a, b) => values[b] - values[a]);
  const top = order.slice(0, 3).filter((k, i) => values[k] > 0 || i === 0);
  const says = top.map((k) => ({ ...panelClass(classes, k), value: values[k] }));
  if (heat !== null && !top.includes(heat === "background" ? 0 : heat)) {
    const value = values.reduce((sum, v, k) => sum + (panelHeats(heat, k, nOld) ? v : 0), 0);
    const colour = classes[heat]?.colour ?? PANEL_SCALE;
    says.splice(2, 1, { name: panelHeatName(heat, classes), colour, value: Math.min(value, 1) });
  }
  return says;
}

// ------------------------------------------------------------------------------------------ the panels together

class LinkedPanels {
  constructor(root, { onHover = () => {} } = {}) {
    Object.assign(this, { onHover, view: null, panels: [], pointer: null, told: null, drag: null, due: 0, stale: false });
    this.look = { opacity: 0.7, heat: null, outline: false };
    this.window = { zoom: 1, left: 0, top: 0 };  // seen is 1/zoom of the image, from this corner on (0..1)
    this.scratch = make("canvas");
    this.outlines = make("canvas");
    this.frame = make("div.wilson-panels", { parent: root });
    this.grid = make("div.wilson-panel-grid", { parent: this.frame });
    const foot = make("div.wilson-panel-foot", { parent: this.frame });
    this.key = make("span.wilson-panel-key", { parent: foot });
    make("span.wilson-panel-hint", { parent: foot, text: PANEL_HINT });
    this.listen();
    // heights follow from widths: only these matter
    this.resizing = new ResizeObserver(() => { if (this.frame.clientWidth !== this.width) this.arrange(); });
    this.resizing.observe(this.frame);
  }

  listen() {
    const on = (type, does) => this.grid.addEventListener(type, does.bind(this), { passive: false });
    on("pointermove", this.pointed);
    on("pointerdown", this.grabbed);
    on("pointerup", () => { this.drag = null; });
    on("pointercancel", () => { this.drag = null; });
    on("pointerleave", () => this.point(null));
    on("wheel", this.wheeled);
    on("dblclick", this.resetZoom);
    on("keydown", this.pressed);
  }

  show(view) {
    if (view.key !== this.view?.key) {
      this.window = { zoom: 1, left: 0, top: 0 };
      this.pointer = null;
    }
    this.view = view;
    const shape = JSON.stringify(view.rows.map((row) => [row.title, row.panels.map((p) => p.name)]));
    if (shape !== this.shape) this.build();  // else the elements stay, and with them focus
    this.shape = shape;
    const flat = view.rows.flatMap((row) => row.panels);
    this.panels.forEach((panel, i) => {
      panel.spec = flat[i];
      panel.note.textContent = panel.note.title = flat[i].note ?? "";
    });
    this.aspect = [...flat.map((p) => panelSize(p.image)), view.size].find(([h, w]) => h && w);
    this.border = null;
    this.compose();
    this.arrange();
  }

  set(changes) {
    const heat = this.look.heat;
    Object.assign(this.look, changes);
    this.look.heat ??= null;
    if (this.view && this.look.heat !== heat) this.compose();
    this.request(true);
  }

  resetZoom() {
    this.move(1, 0, 0);
  }

  destroy() {
    this.resizing.disconnect();
    cancelAnimationFrame(this.due);
    this.frame.remove();
  }

  build() {
    this.grid.replaceChildren();
    const { rows } = this.view;
    this.panels = rows.flatMap(({ title, panels }, i) => panels.map((spec) => panelFigure(this.grid, title, spec, i)));
    // a map keeps its column in every row; the fullest row gives the order
    const fullest = [...rows].sort((a, b) => b.panels.length - a.panels.length);
    this.names = [...new Set(fullest.flatMap((row) => row.panels.map((p) => p.name)))];
  }

  compose() {
    const { view, look: { heat } } = this;
    for (const panel of this.panels) {
      const { kind, soft } = panel.spec, labels = kind === "image" ? null : panel.spec.labels;
      const hot = panel.hot = heat !== null && kind === "classes" && Boolean(soft);
      panel.layer = hot ? panelHeatLayer(soft, view, heat) : labels && panelLabelLayer(labels, kind, view, heat);
      panel.voids = !hot && labels && panelVoidLayer(labels, view);
    }
    this.explain();
    this.request(true);
  }

  // What is in no legend of classes: heat, codes of a difference, hatching.
  explain() {
    const { view, look: { heat }, panels } = this, parts = [];
    if (heat !== null) parts.push([PANEL_SCALE, `0 to 1 ${panelHeatName(heat, view.classes)}`]);
    if (panels.some((p) => p.spec.kind === "difference")) {
      for (const { name, colour } of PANEL_CODES.slice(1)) parts.push([colour, name]);
    }
    if (panels.some((p) => p.voids)) parts.push(["", "no label"]);
    this.key.replaceChildren(...parts.map(([background, text], i) => make(
      "span", { className: heat !== null && !i ? "wilson-panel-scale" : "" }, make("i", { style: `background: ${background}` }), text)));
  }

  // ---------------------------------------------------------------- layout and drawing

  // Where lines must break, the rows' first lines come first: the same map of two runs stays one above the other.
  arrange() {
    const width = this.frame.clientWidth, [least, most] = PANEL_WIDTH, { rows } = this.view ?? {};
    this.width = width;
    if (!rows || !width) return;  // hidden: the observer calls again
    const fitting = Math.max(1, Math.floor((width + PANEL_GAP) / (least + PANEL_GAP)));
    const lines = Math.ceil(this.names.length / fitting) || 1, columns = Math.ceil(this.names.length / lines) || 1;
    const w = Math.min(Math.floor((width + PANEL_GAP) / columns) - PANEL_GAP, most);
    this.box = [w, Math.round((w * this.aspect[0]) / this.aspect[1])];
    this.grid.style.cssText = `grid-template-columns: repeat(${columns}, ${w}px); column-gap: ${PANEL_GAP}px`;
    this.grid.querySelectorAll(".wilson-panel-run").forEach((title) => title.remove());
    const titled = new Set();
    for (const { figure, stage, spec, row } of this.panels) {
      const slot = this.names.indexOf(spec.name), line = Math.floor(slot / columns) * rows.length + row;
      figure.style.gridArea = `${2 * line + 2} / ${(slot % columns) + 1}`;
      stage.style.height = `${this.box[1]}px`;
      if (rows[row].title && !titled.has(line) && (rows.length > 1 || !line)) {
        make("div.wilson-panel-run", { parent: this.grid, text: rows[row].title }).style.gridRow = 2 * line + 1;
        titled.add(line);
      }
    }
    this.request(true);
  }

  // Everything that moves waits for the next frame.
  request(paint) {
    this.stale ||= paint;
    this.due ||= requestAnimationFrame(() => {
      this.due = 0;
      if (!this.box) return;  // not laid out yet
      if (this.stale) this.paint();
      this.stale = false;
      this.tell();
    });
  }

  paint() {
    const ratio = window.devicePixelRatio || 1, [w, h] = this.box.map((side) => Math.round(side * ratio));
    this.grid.classList.toggle("wilson-zoomed", this.window.zoom > 1);
    for (const canvas of [this.scratch, this.outlines, ...this.panels.map((p) => p.canvas)]) {
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    }
    if (this.look.outline && this.view.truth) this.paintOutline(ratio);
    for (const panel of this.panels) this.paintPanel(panel, ratio);
  }

  paintPanel({ ctx, spec, hot, layer, voids }, ratio) {
    const { width, height } = ctx.canvas, { opacity, outline } = this.look;
    ctx.clearRect(0, 0, width, height);
    const side = Math.max(...panelSize(spec.image));
    if (side) this.paintPart(ctx, spec.image, side > PANEL_TINY);
    ctx.globalAlpha = opacity;
    if (layer) this.paintPart(ctx, layer, hot);
    if (voids) {
      const pen = this.scratch.getContext("2d");
      pen.globalCompositeOperation = "copy";
      this.paintPart(pen, voids, false);
      pen.globalCompositeOperation = "source-in";
      pen.fillStyle = panelHatch(pen, ratio);
      pen.fillRect(0, 0, width, height);
      ctx.drawImage(this.scratch, 0, 0);
    }
    ctx.globalAlpha = 1;
    if (outline && this.view.truth) ctx.drawImage(this.outlines, 0, 0);
  }

  // The part of a picture or layer in the window. Reduced it is always smoothed, enlarged only where `soft`.
  paintPart(ctx, source, soft) {
    const { zoom, left, top } = this.window, { width, height } = ctx.canvas;
    const [h, w] = panelSize(source);
    ctx.imageSmoothingEnabled = soft || (width * zoom) / w < 1;
    ctx.imageSmoothingQuality = "medium";
    ctx.drawImage(source, left * w, top * h, w / zoom, h / zoom, 0, 0, width, height);
  }

  // Drawn once for all panels: white between two black lines is seen on any colour.
  paintOutline(ratio) {
    const pen = this.outlines.getContext("2d"), { width, height } = this.outlines;
    const { zoom, left, top } = this.window, [H, W] = this.view.size;
    const moved = new Path2D();
    this.border ??= panelOutline(this.view.truth, this.view.size);
    const [w, h] = [width * zoom, height * zoom];  // of the whole image on the screen
    moved.addPath(this.border, new DOMMatrix([w / W, 0, 0, h / H, -left * w, -top * h]));
    pen.clearRect(0, 0, width, height);
    for (const [colour, thick] of [["#000", 3.2], ["#fff", 1.6]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: thick * ratio, lineCap: "square" });
      pen.stroke(moved);
    }
  }

  // Ring and readout of every panel. Nothing here touches a canvas.
  tell() {
    const { pointer, view, window: { zoom, left, top }, box: [w, h] } = this, [H, W] = view.size;
    const u = pointer ? ((pointer.x + 0.5) / W - left) * zoom : -1;
    const v = pointer ? ((pointer.y + 0.5) / H - top) * zoom : -1;
    for (const { spec, ring, entries } of this.panels) {
      ring.hidden = u < 0 || v < 0 || u > 1 || v > 1;
      ring.style.transform = `translate(${u * w}px, ${v * h}px)`;
      const says = pointer ? panelSays(spec, view, this.look.heat, pointer) : [];
      entries.forEach(({ entry, swatch, name, value }, i) => {
        entry.hidden = !says[i];
        if (!says[i]) return;
        swatch.style.background = says[i].colour;
        name.textContent = says[i].name;
        value.textContent = says[i].value === undefined ? "" : panelPercent(says[i].value);
      });
    }
    if (pointer !== this.told) this.onHover(pointer && { ...pointer });
    this.told = pointer;
  }

  // ---------------------------------------------------------------- pointer, wheel and keys

  // The place under an event in the image, 0..1; null between panels. Rings let events through.
  place(event) {
    const { target, offsetX, offsetY } = event, { zoom, left, top } = this.window;
    if (target.tagName !== "CANVAS") return null;
    return [left + offsetX / target.clientWidth / zoom, top + offsetY / target.clientHeight / zoom];
  }

  point(place) {
    if (!this.view) return;
    const [H, W] = this.view.size;
    const pointer = place && {
      x: clamp(Math.floor(place[0] * W), 0, W - 1), y: clamp(Math.floor(place[1] * H), 0, H - 1) };
    if (pointer?.x === this.pointer?.x && pointer?.y === this.pointer?.y) return;
    this.pointer = pointer;
    this.request(false);
  }

  pointed(event) {
    if (this.drag) {
      const [w, h] = this.box, { zoom, left, top } = this.window;
      this.move(zoom, left - (event.clientX - this.drag[0]) / w / zoom, top - (event.clientY - this.drag[1]) / h / zoom);
      this.drag = [event.clientX, event.clientY];
    }
    const place = this.place(event);
    if (place) this.point(place);
  }

  grabbed(event) {
    if (event.button !== 0 || !this.place(event)) return;
    event.target.setPointerCapture(event.pointerId);
    event.target.focus({ preventScroll: true });
    this.drag = [event.clientX, event.clientY];
  }

  // A notebook scrolls by the wheel: it is taken only with Ctrl (a pinch arrives as that), Cmd, or once a map has focus.
  wheeled(event) {
    const place = this.place(event);
    if (!place || !(event.ctrlKey || event.metaKey || this.grid.matches(":focus-within"))) return;
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? 16 : 1);  // a mouse reports lines in some browsers
    this.zoomAt(Math.exp(clamp(pixels, -25, 25) / -100), place);
  }

  // Zoom by a factor; `place` stays where it is on the screen.
  zoomAt(factor, [u, v]) {
    const { zoom, left, top } = this.window, deeper = clamp(zoom * factor, 1, PANEL_DEEPEST), kept = zoom / deeper;
    this.move(deeper, u - (u - left) * kept, v - (v - top) * kept);
  }

  move(zoom, left, top) {
    this.window = { zoom, left: clamp(left, 0, 1 - 1 / zoom), top: clamp(top, 0, 1 - 1 / zoom) };
    this.request(true);
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation();  // Jupyter would cut a cell at "x" and restart a kernel at "0 0"
    const { zoom, left, top } = this.window, middle = [left + 0.5 / zoom, top + 0.5 / zoom];
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && event.shiftKey) this.nudge(arrow);
    else if (arrow) this.move(zoom, left + (0.1 * arrow[0]) / zoom, top + (0.1 * arrow[1]) / zoom);
    else if (event.key === "+" || event.key === "=") this.zoomAt(1.25, middle);
    else if (event.key === "-" || event.key === "−") this.zoomAt(0.8, middle);
    else if (event.key === "0") this.resetZoom();
    else if (event.key === "Escape") { this.point(null); event.target.blur(); }
    else return;
    event.preventDefault();
  }

  // A hundredth of what is seen, at least a pixel; the window follows.
  nudge([dx, dy]) {
    const { zoom, left, top } = this.window, [H, W] = this.view.size;
    const step = Math.max(1, Math.round(W / zoom / 100));
    const { x, y } = this.pointer ?? { x: Math.floor((left + 0.5 / zoom) * W), y: Math.floor((top + 0.5 / zoom) * H) };
    const place = this.pointer ? [(x + dx * step + 0.5) / W, (y + dy * step + 0.5) / H] : [(x + 0.5) / W, (y + 0.5) / H];
    this.point(place);
    this.move(zoom, clamp(left, place[0] - 1 / zoom, place[0]), clamp(top, place[1] - 1 / zoom, place[1]));
  }
}

// Linked canvases in `root`, which lies in an element of class wilson-studio. Shown is
//   { key,              // of the image: zoom stays while it is the same
//     classes, nOld,    // [{ name, colour: "#rrggbb" }] in training order; known before, background included
//     size: [H, W],     // of labels and truth
//     truth,            // Uint8Array(H*W) | null: for the outline
//     rows: [{ title, panels: [{ name, note, kind, image, labels, soft }] }] }   // a name once in a row
// with kind "image" | "classes" | "difference", image anything a canvas draws | null, labels Uint8Array(H*W) | null,
// soft { data: Uint8Array, c, h, w } | null. Set are opacity 0..1, outline true | false, and heat: null | class index |
// "old" | "new" | "background". onHover is told { x, y } in pixels of `size`, or null.
function createPanels(root, options) {
  const panels = new LinkedPanels(root, options);
  return Object.fromEntries(["show", "set", "resetZoom", "destroy"].map((name) => [name, panels[name].bind(panels)]));
}
