// The finder: from ten thousand images to the one that explains a failure. A table, a scatter plot and a confusion
// matrix show what passes one filter. A position is an index into the table as it was given, a place one into what is shown.

const FINDER_PIXELS = "finder:pixels";  // key of the column that a pick brings along
const FINDER_NO_LABEL = 255;
const FINDER_SPARE = 3;                 // rows drawn beyond either edge, so that a quick scroll shows no gap
const FINDER_FORMATS = [0, 1, 2, 3].map((digits) =>
  new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

const finderNumber = (value, digits = 0) => FINDER_FORMATS[Math.min(digits, 3)].format(value);
const finderPlain = (title) => title.replace(/\u00AD/g, "");  // a soft hyphen says where a narrow header may break a title
const finderName = ({ title, group }) => finderPlain(group ? `${title} (${group})` : title);

// Options of a select, rebuilt only when they differ: an open list would close, a choice would be lost.
function finderOptions(select, options, preferred) {
  const text = JSON.stringify(options), values = options.map(([value]) => value), kept = select.value;
  if (select.finderOptions === text) return;
  select.finderOptions = text;
  setOptions(select, options, [kept, preferred].find((value) => values.includes(value)) ?? values[0] ?? "");
}

// Keys that an element answers; the notebook, which has keys of its own, does not get them.
function finderKeys(element, answer) {
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || answer(event.key) === false) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

// `draw` once in the next frame, however often it is called for.
function finderLater(draw) {
  let frame = 0;
  const later = () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); };
  return Object.assign(later, { cancel: () => cancelAnimationFrame(frame) });
}

// ------------------------------------------------------------------------------------------------ order and filter

// All positions by value; stable, and what has no value comes last in either direction.
function finderSorted(data, direction, n) {
  const known = [], missing = [];
  for (let i = 0; i < n; i++) (Number.isFinite(data[i]) ? known : missing).push(i);
  return known.sort((a, b) => direction * (data[a] - data[b])).concat(missing);
}

// The rank of each id, numbers in it by value: to compare 10,000 texts at every click would be felt.
function finderRanks(ids) {
  const { compare } = new Intl.Collator("en", { numeric: true }), ranks = new Float64Array(ids.length);
  [...ids.keys()].sort((a, b) => compare(ids[a], ids[b])).forEach((position, rank) => { ranks[position] = rank; });
  return ranks;
}

// Whether a row passes the filter, as a function of its position.
function finderTest({ table, picked, flags, filter }) {
  const { text, holds, fewest, most, column, low, high, flagged } = filter;
  const ranged = low > -Infinity || high < Infinity, data = ranged && table.columns.find(({ key }) => key === column)?.data;
  return (position) => (!picked || Number.isFinite(picked.data[position]))
    && (!text || table.ids[position].toLowerCase().includes(text))
    && (holds < 0 || table.labels[position].includes(holds))
    && table.labels[position].length >= fewest && table.labels[position].length <= most
    && (!data || (data[position] >= low && data[position] <= high))
    && (!flagged || flags.has(position));
}

// The value that fills a bar or ends an axis: 100 for percent, 1 for shares, else the largest there is.
function finderTop(column) {
  if (/%/.test(finderName(column))) return 100;
  return column.data.reduce((most, value) => (value > most ? value : most), 1);
}

// Sets what is shown: `order` (positions by place) and `place` (places by position, -1 for what the filter hides).
function finderArrange(model) {
  const { table, sort } = model, n = table.ids.length, column = model.columns.find(({ key }) => key === sort?.key);
  const data = sort?.key === "id" ? model.ranks ??= finderRanks(table.ids) : column?.data ?? null;
  if (model.sorted?.table !== table || model.sorted.data !== data || model.sorted.sort !== sort) {
    model.sorted = { table, data, sort, all: finderSorted(data ?? [], sort?.direction ?? 1, n) };
  }
  model.order = model.sorted.all.filter(finderTest(model));
  model.place = new Int32Array(n).fill(-1);
  model.order.forEach((position, place) => { model.place[position] = place; });
  model.version += 1;
}

function finderFilters(model, act) {
  const field = (type, label, more) => make("input", { type, ariaLabel: label, ...more });
  const range = (...labels) => labels.map((label, i) => field("number", label, { step: "any", placeholder: ["min", "max"][i] }));
  const text = field("search", "search in ids", { placeholder: "search id" });
  const holds = make("select", { ariaLabel: "class among the labels" });
  const column = make("select", { ariaLabel: "column of the range" });
  const epoch = make("select", { ariaLabel: "epoch" });
  const [fewest, most] = range("fewest labels", "most labels"), [low, high] = range("least value", "greatest value");
  const [flagged, compact] = [field("checkbox", "flagged only"), field("checkbox", "compact rows")];
  const [count, chip] = [make("output.finder-count"), make("span.finder-chip")];
  const reset = make("button", { type: "button", title: "Lift every filter" }, "reset");
  const unpick = make("button", { type: "button", title: "Show all images again", ariaLabel: "show all again" }, "✕");
  const line = (tag, ...parts) => make(tag, {}, ...parts);
  const inputs = make("span.finder-inputs", {}, text, holds, line("span", "labels ", fewest, "–", most),
    line("span", column, " ", low, "–", high), line("label", flagged, "flagged"), epoch);
  const element = make("div.finder-filters", { role: "search", ariaLabel: "filter of images" },
    inputs, make("span.finder-end", {}, count, reset, line("label", compact, "compact")), chip);

  const number = (input, otherwise) => (Number.isNaN(input.valueAsNumber) ? otherwise : input.valueAsNumber);
  const clear = (...all) => all.forEach((input) => { input.value = ""; });
  const read = () => {
    const before = column.value;
    finderOptions(holds, [["", "any class"], ...model.table.classes.map(({ name }, c) => [String(c), name]).slice(1)]);
    finderOptions(column, model.table.columns.map((c) => [c.key, finderName(c)]), "iou:prediction");
    finderOptions(epoch, [["", "finished step"], ...(model.table.epochs ?? []).map((e) => [String(e), `epoch ${e}`])], "");
    epoch.hidden = !model.table.epochs?.length;
    if (before && column.value !== before) clear(low, high);  // a range of a column that has gone must not cut another
    return { text: text.value.trim().toLowerCase(), holds: holds.value === "" ? -1 : Number(holds.value), flagged: flagged.checked,
             fewest: number(fewest, 0), most: number(most, Infinity), column: column.value, low: number(low, -Infinity),
             high: number(high, Infinity) };
  };
  const tell = () => {
    count.textContent = `${finderNumber(model.order.length)} of ${finderNumber(model.table.ids.length)} images`;
    if (chip.picked === model.picked) return;
    chip.picked = model.picked;
    chip.replaceChildren(...(model.picked ? [make("span", { title: model.picked.name }, model.picked.name), unpick] : []));
  };
  inputs.addEventListener("input", () => act.refresh(true));
  const chosen = (select) => (select.value === "" ? null : Number(select.value));
  holds.addEventListener("input", () => act.ask({ classIndex: chosen(holds) }));  // its IoU instead of the mean
  epoch.addEventListener("input", () => act.ask({ epoch: chosen(epoch) }));
  compact.addEventListener("input", () => act.compact(compact.checked));
  unpick.addEventListener("click", () => { reset.focus(); act.lift(); });  // the button goes: the keyboard stays near
  reset.addEventListener("click", () => {
    clear(text, holds, fewest, most, low, high);
    flagged.checked = false;
    act.lift();
  });
  return { element, read, tell };
}

// ---------------------------------------------------------------------------------------------------------- table

// Pictures by position, each asked for once, when scrolling has come to rest. null: there is none.
function finderThumbnails(fetched, arrived) {
  let known = new Map(), timer = 0;
  const ask = async (positions) => {
    const asked = known, fresh = positions.filter((position) => !asked.has(position));
    if (!fresh.length) return;
    fresh.forEach((position) => asked.set(position, null));
    const answer = await Promise.resolve(fresh).then(fetched).catch(() => new Map());
    fresh.forEach((position) => asked.set(position, answer.get(position) ?? null));
    if (asked === known) arrived();  // otherwise they belong to a table that has gone
  };
  return {
    get: (position) => known.get(position),
    want(positions) { clearTimeout(timer); timer = setTimeout(ask, 80, positions); },
    clear() { clearTimeout(timer); known = new Map(); },
  };
}

const finderCell = (role, name, ...children) => make(`div.finder-${name}`, { role }, ...children);

// Neighbouring columns of one group, which share a line above their titles.
function finderGroups(columns) {
  const runs = [];
  columns.forEach(({ group = "" }, first) => {
    if (runs.at(-1)?.group === group) runs.at(-1).count += 1;
    else runs.push({ group, first, count: 1 });
  });
  return runs.filter(({ group }) => group);
}

function finderTitles(columns, sort) {
  const sorter = (column, kind) => {
    const better = { true: "; higher is better", false: "; lower is better" }[column.higherIsBetter] ?? "";
    const told = { title: `${finderName(column)}${better}; click to sort`, ariaLabel: finderName(column) };
    const button = make("button", { type: "button", ...told, onclick: () => sort(column.key) }, column.title,
      make("span.finder-arrow"));
    return Object.assign(finderCell("columnheader", kind, button), { key: column.key });
  };
  const groups = finderGroups(columns).map(({ group, first, count }) => make("div.finder-group",
    { ariaHidden: true, style: `grid-column: ${first - columns.length - 1} / span ${count}` }, group));
  const named = (name, label) => Object.assign(finderCell("columnheader", name), { ariaLabel: label });
  return [...groups, named("star", "flag"), named("thumb", "picture"), sorter({ key: "id", title: "id" }, "id"),
          finderCell("columnheader", "labels", "labels"), ...columns.map((column) => sorter(column, "number"))];
}

// Widths for header and rows, which are grids of their own. The widest part of a title that does not break must fit.
function finderWidths({ table, columns, compact, tops }, element) {
  const context = make("canvas").getContext("2d"), { fontFamily } = getComputedStyle(element);
  const widest = (size, texts) => {
    context.font = `${size}px ${fontFamily}`;
    return Math.ceil(Math.max(...texts.map((text) => context.measureText(text).width)));
  };
  const longest = table.ids.reduce((most, id) => (id.length > most.length ? id : most), "");
  const numbers = columns.map(({ title, digits }, i) => 8 + Math.max(29, widest(12, [finderNumber(tops[i], digits)]),
    widest(11, title.replace(/\u00AD/g, "- ").split(" "))));
  const fixed = [26, ...(compact ? [] : [50]), clamp(9 + widest(12, [longest]), 0, 140)], least = 86;
  return [`${fixed.join("px ")}px minmax(${least}px, 1fr) ${numbers.map((width) => `${width}px`).join(" ")}`,
          `${[...fixed, least, ...numbers].reduce((a, b) => a + b)}px`];
}

// An empty row: rows are filled anew while the table scrolls.
function finderRow(columns) {
  const star = make("button", { type: "button", tabIndex: -1, title: "Flag (space)" });
  const picture = make("img", { alt: "", draggable: false });
  const [name, labels] = ["id", "labels"].map((kind) => finderCell("gridcell", kind));
  const numbers = columns.map(() => finderCell("gridcell", "number"));
  const row = make("div.finder-row", { role: "row" }, finderCell("gridcell", "star", star),
    finderCell("gridcell", "thumb", picture), name, labels, ...numbers);
  return Object.assign(row, { star, picture, name, labels, numbers });
}

// As many chips as there is room for, and how many more there are; all names in the title.
function finderChips(cell, classes, room) {
  cell.title = classes.map(({ name }) => name).join(", ");
  cell.replaceChildren(...classes.slice(0, room).map(({ name, colour }) => make("span.finder-label", {},
    make("i", { style: `background: ${colour}` }), make("span", {}, name))));
  const more = classes.length - room;
  if (more > 0) cell.append(make("span.finder-more", {}, `+${more}`));
}

function finderFill(row, position, { table, columns, flags, tops, compact }, picture) {
  const flagged = flags.has(position), values = columns.map(({ data }) => data[position]);
  // a row that is not measured yet has one number at most: its labels are known before
  const none = values.filter(Number.isFinite).length < Math.min(2, columns.length) ? "…" : "–";
  Object.assign(row.star, { textContent: flagged ? "★" : "☆", ariaPressed: flagged, ariaLabel: `flag ${table.ids[position]}` });
  if (picture) row.picture.src = picture;
  row.picture.hidden = !picture;
  row.name.textContent = row.name.title = table.ids[position];
  finderChips(row.labels, table.labels[position].map((c) => table.classes[c]).filter(Boolean), compact ? 1 : 2);
  row.numbers.forEach((cell, i) => {
    const there = Number.isFinite(values[i]);
    cell.textContent = there ? finderNumber(values[i], columns[i].digits) : none;
    cell.classList.toggle("finder-lower", columns[i].higherIsBetter === false);
    cell.style.setProperty("--share", there ? clamp(values[i] / tops[i], 0, 1) : 0);
  });
}

// Only rows in view are elements, and the one that has the keyboard, which would be lost with its element.
function finderGrid(model, act, thumbnails) {
  const header = make("div.finder-header", { role: "row", ariaRowIndex: 1 });
  const body = make("div.finder-body", { role: "rowgroup" }), none = make("p.finder-none");
  const element = make("div.finder-grid", { role: "grid", ariaLabel: "images" }, header, body, none);
  const rows = new Map(), pictures = finderThumbnails(thumbnails, () => { model.version += 1; draw(); });
  const height = () => (model.compact ? 28 : 52), view = () => element.clientHeight - header.offsetHeight;
  let built = "", measured = [], unseen = false;

  const measure = () => {
    const now = [model.table, model.picked, model.compact];
    if (now.every((each, i) => each === measured[i])) return;
    const [columns, width] = finderWidths(model, element);
    element.style.setProperty("--finder-columns", columns);
    element.style.setProperty("--finder-width", width);
    element.classList.toggle("finder-compact", model.compact);
    measured = now;
  };

  const heading = () => {
    const now = JSON.stringify(model.columns.map(({ key, title, group }) => [key, title, group]));
    if (now !== built) {
      header.replaceChildren(...finderTitles(model.columns, act.sort));
      body.replaceChildren();
      rows.clear();
      built = now;
    }
    for (const cell of header.children) {
      const direction = cell.key === model.sort?.key ? model.sort?.direction : 0;
      if (!cell.key) continue;
      cell.ariaSort = ["descending", "none", "ascending"][direction + 1];
      cell.querySelector(".finder-arrow").textContent = [" ▼", "", " ▲"][direction + 1];
    }
    element.ariaRowCount = model.order.length + 1;
  };

  const put = (row, position) => {
    row.style.transform = `translateY(${model.place[position] * height()}px)`;
    row.tabIndex = position === model.cursor ? 0 : -1;
    if (row.version === model.version && row.position === position) return;
    Object.assign(row, { version: model.version, position, ariaSelected: position === model.current });
    row.ariaRowIndex = model.place[position] + 2;
    finderFill(row, position, model, pictures.get(position));
  };

  const draw = () => {
    const first = Math.floor(element.scrollTop / height()), last = Math.ceil((element.scrollTop + view()) / height());
    const had = body.matches(":focus-within"), { order } = model;
    if (!(model.place[model.cursor] >= 0)) model.cursor = order[first] ?? order[0] ?? -1;
    const wanted = new Set(order.slice(Math.max(0, first - FINDER_SPARE), last + FINDER_SPARE));
    if (order.length) wanted.add(model.cursor);
    const idle = [...rows.keys()].filter((position) => !wanted.has(position));
    for (const position of wanted) {
      const old = rows.has(position) ? position : idle.pop();
      const row = rows.get(old) ?? body.appendChild(finderRow(model.columns));
      rows.delete(old);
      rows.set(position, row);
      put(row, position);
    }
    idle.forEach((position) => { rows.get(position).remove(); rows.delete(position); });
    if (had) rows.get(model.cursor)?.focus({ preventScroll: true });
    if (!model.compact && view() > 0) pictures.want(order.slice(first, last));
  };

  const reveal = (position) => {
    const at = model.place[position] * height();
    unseen = view() <= 0;  // in a tab that is closed: when it opens
    if (at >= 0 && !unseen) element.scrollTop = Math.max(at + height() - view(), Math.min(at, element.scrollTop));
  };

  const refresh = (toTop) => {
    heading();
    measure();
    body.style.height = `${model.order.length * height()}px`;
    none.textContent = model.order.length ? "" : model.table.ids.length ? "No image passes the filter." : "No images yet.";
    if (toTop) element.scrollTop = 0;
    draw();
  };

  finderKeys(body, (key) => {
    const at = model.place[model.cursor], page = Math.ceil(view() / height()) - 2, end = model.order.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: end }[key];
    if (key === "Enter") return act.open(model.cursor);
    if (key === " ") return act.toggle(model.cursor);
    if (to === undefined) return false;
    model.cursor = model.order[clamp(to, 0, end)];
    reveal(model.cursor);
    draw();
  });
  body.addEventListener("click", ({ target }) => {
    const row = target.closest(".finder-row");
    if (!row) return;
    model.cursor = row.position;
    (target === row.star ? act.toggle : act.open)(row.position);
  });
  element.addEventListener("scroll", draw);
  const shown = () => { if (unseen) reveal(model.current); draw(); };
  return { element, refresh, draw, reveal, shown, forget: pictures.clear };
}

// ------------------------------------------------------------------------------------------- what both plots share

// A canvas with choices above and a line of text below; to the keyboard it is one control.
function finderPanel(name, hint, ...choices) {
  const canvas = make("canvas.finder-canvas", { tabIndex: 0, role: "application", ariaLabel: hint });
  const plot = make("div.finder-plot", {}, canvas), readout = make("output.finder-readout");
  const element = make("div.finder-panel", { role: "tabpanel", ariaLabel: name },
    make("div.finder-choice", {}, ...choices), plot, readout);
  return { element, canvas, readout, width: () => plot.clientWidth };
}

// A cleared canvas of this size in CSS pixels, sharp on any screen, with the colours that the style sheet gives it.
function finderContext(canvas, width, height, style = getComputedStyle(canvas)) {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  context.scale(ratio, ratio);
  Object.assign(context, { font: `11px ${style.fontFamily}`, fillStyle: style.color });
  const colour = (name) => style.getPropertyValue(name).trim();
  return [context, { text: style.color, line: colour("--ws-line"), paper: colour("--ws-ground"), point: colour("--finder-point"),
                     error: colour("--finder-error"), flag: colour("--finder-flag") }];
}

function finderWrite(context, text, x, y, textAlign, textBaseline = "middle", turned = 0) {
  context.save();
  context.translate(x, y);
  context.rotate(turned * Math.PI / 2);
  Object.assign(context, { textAlign, textBaseline });
  context.fillText(text, 0, 0);
  context.restore();
}

// -------------------------------------------------------------------------------------------------------- scatter

// Where values of two columns lie on a canvas; nowhere (null) for a row that lacks one.
function finderFrame(width, height, across, up) {
  const left = 46, top = 8, right = width - 10, bottom = height - 38, [xTop, yTop] = [across, up].map(finderTop);
  const x = (value) => left + (right - left) * value / xTop, y = (value) => bottom - (bottom - top) * value / yTop;
  const at = (position) => {
    const [a, b] = [across.data[position], up.data[position]];
    return Number.isFinite(a) && Number.isFinite(b) ? [x(a), y(b)] : null;
  };
  return { left, top, right, bottom, xTop, yTop, x, y, at, across, up, size: [width, height] };
}

function finderAxes(context, { left, top, right, bottom, xTop, yTop, x, y, across, up }, colours) {
  context.strokeStyle = colours.line;
  context.strokeRect(left, top, right - left, bottom - top);
  context.setLineDash([4, 4]);
  if (xTop === yTop) context.stroke(new Path2D(`M${left} ${bottom}L${right} ${top}`));
  context.setLineDash([]);
  for (const share of [0, 0.5, 1]) {
    const text = (end) => finderNumber(share * end, share * end % 1 ? 1 : 0);
    finderWrite(context, text(xTop), Math.min(x(share * xTop), right - 3), bottom + 6, "center", "top");
    finderWrite(context, text(yTop), left - 6, Math.max(y(share * yTop), top + 3), "right");
  }
  finderWrite(context, finderName(across), (left + right) / 2, bottom + 35, "center", "bottom");
  finderWrite(context, finderName(up), 4, (top + bottom) / 2, "center", "top", -1);
}

// Hidden points first, then those that pass, flagged ones on top. Squares: ten thousand discs take four times as long.
function finderPoints(context, frame, { order, place, flags, table }, colours) {
  const square = (position, side) => {
    const at = frame.at(position);
    if (at) context.fillRect(at[0] - side / 2, at[1] - side / 2, side, side);
  };
  context.globalAlpha = 0.06;
  if (order.length < table.ids.length) place.forEach((at, position) => { if (at < 0) square(position, 3); });
  Object.assign(context, { fillStyle: colours.point, globalAlpha: Math.min(0.9, Math.max(0.3, 30 / Math.sqrt(order.length))) });
  for (const position of order) square(position, order.length > 500 ? 3 : 5);
  Object.assign(context, { fillStyle: colours.flag, strokeStyle: colours.paper, lineWidth: 3, textAlign: "center",
                           textBaseline: "middle", font: context.font.replace("11px", "17px") });
  for (const position of flags) {
    const at = frame.at(position);
    context.globalAlpha = place[position] < 0 ? 0.3 : 1;
    if (at) context.strokeText("★", ...at), context.fillText("★", ...at);
  }
}

function finderScatter(model, act) {
  const [x, y] = ["x axis", "y axis"].map((label) => make("select", { ariaLabel: label }));
  const { element, canvas, readout, width } = finderPanel("scatter",
    "scatter plot: left and right go from image to image, Enter opens", "x ", x, " y ", y);
  const base = make("canvas");  // all points: to point at one must not draw ten thousand
  let frame = null, pointed = -1;

  const point = (position) => {
    if (!frame) return;
    const [context, colours] = finderContext(canvas, ...frame.size);
    pointed = position;
    context.drawImage(base, 0, 0, ...frame.size);
    for (const [ringed, radius] of [[model.current, 6.5], [pointed, 4.5]]) {
      const at = frame.at(ringed);
      for (const [strokeStyle, lineWidth] of [[colours.paper, 5], [colours.error, 2]]) {
        context.beginPath();
        if (at) context.arc(...at, radius, 0, 2 * Math.PI);
        Object.assign(context, { strokeStyle, lineWidth }).stroke();
      }
    }
    const value = ({ title, data, digits }) => `${finderPlain(title)} ${finderNumber(data[pointed], digits)}`;
    readout.textContent = pointed < 0 ? "" : `${model.table.ids[pointed]}: ${value(frame.across)}, ${value(frame.up)}`;
  };

  const draw = () => {
    const { columns } = model.table, keys = columns.map(({ key }) => key), size = [width(), Math.min(width(), 326)];
    [[x, "iou:target", 0], [y, "iou:prediction", 1]].forEach(([select, usual, otherwise]) =>
      finderOptions(select, columns.map((c) => [c.key, finderName(c)]), keys.includes(usual) ? usual : keys[otherwise]));
    const [across, up] = [x, y].map(({ value }) => columns.find(({ key }) => key === value));
    frame = size[0] && across && up ? finderFrame(...size, across, up) : null;
    canvas.hidden = !frame;
    if (!frame) return;
    const [context, colours] = finderContext(base, ...size, getComputedStyle(canvas));
    finderAxes(context, frame, colours);
    finderPoints(context, frame, model, colours);
    point(model.place[pointed] >= 0 && frame.at(pointed) ? pointed : -1);
  };

  const nearest = ({ offsetX, offsetY }) => {
    let [best, distance] = [-1, 8];
    for (const position of model.order) {
      const at = frame.at(position), now = at ? Math.hypot(at[0] - offsetX, at[1] - offsetY) : Infinity;
      if (now <= distance) [best, distance] = [position, now];
    }
    return best;
  };
  const step = (by) => {  // in the order of x, then of y
    const [xs, ys] = [frame.across.data, frame.up.data];
    const along = model.order.filter(frame.at).sort((a, b) => xs[a] - xs[b] || ys[a] - ys[b]), from = along.indexOf(pointed);
    point(along[from < 0 ? Math.max(0, along.indexOf(model.current)) : clamp(from + by, 0, along.length - 1)] ?? -1);
  };
  const later = finderLater(draw);
  for (const select of [x, y]) select.addEventListener("input", later);
  canvas.addEventListener("pointermove", (event) => { const found = nearest(event); if (found !== pointed) point(found); });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("click", (event) => act.open(nearest(event)));
  finderKeys(canvas, (key) => {
    if (key === "Enter") return act.open(pointed);
    return key === "ArrowLeft" || key === "ArrowRight" ? step(key === "ArrowLeft" ? -1 : 1) : false;
  });
  return { element, canvas, later, ring: () => point(pointed) };
}

// ------------------------------------------------------------------------------------------------------ confusion

// Text that fits a width, with an ellipsis where it was cut.
function finderElided(context, text, width) {
  let cut = text;
  while (cut.length > 1 && context.measureText(cut).width > width) cut = `${cut.replace(/…$/, "").slice(0, -1)}…`;
  return cut;
}

// Cells as large as fit, names where they can be read; never below 5 px, where the panel scrolls instead.
function finderMatrix(n, width) {
  const fitting = (edge) => Math.floor((width - edge - 2) / (n + 1)), named = fitting(84) >= 9, edge = named ? 84 : 24;
  const size = Math.min(28, Math.max(5, fitting(edge)));
  return { named, edge, size, side: size > 7 ? size - 1 : size, all: [edge + size * (n + 1) + 2, edge + size * n + 2] };
}

// Names along both edges, each with a stripe in its class's colour.
function finderMargins(context, { named, edge, size, side }, { names, colours, map }) {
  const text = context.fillStyle;
  finderWrite(context, "truth", 8, edge + size * names.length / 2, "center", "middle", -1);
  finderWrite(context, map, edge + size * names.length / 2, 8, "center");
  context.font = context.font.replace("11px", `${Math.min(11, size - 1)}px`);
  [...names, "no label"].forEach((name, i) => {
    const short = named ? finderElided(context, name, 62) : "", middle = edge + i * size + side / 2;
    finderWrite(context, short, middle, edge - 8, "left", "middle", -1);
    if (i < names.length) finderWrite(context, short, edge - 8, middle, "right");
    context.fillStyle = colours[i] ?? "transparent";
    context.fillRect(edge + i * size, edge - 5, side, 3);
    if (i < names.length) context.fillRect(edge - 5, edge + i * size, 3, side);
    context.fillStyle = text;
  });
}

function finderConfusion(act) {
  const map = make("select", { ariaLabel: "map compared with the truth" });
  const { element, canvas, readout, width } = finderPanel("confusion",
    "confusion matrix: arrows go from cell to cell, Enter lists the images of a cell", "map ", map);
  let confusion = null, sums = [], shape = null, cell = null, n = 0;
  const count = (truth, column) => confusion.counts[truth * (n + 1) + column];
  const share = (truth, column) => (sums[truth] ? count(truth, column) / sums[truth] : 0);

  const describe = ([truth, column]) => {
    const { names } = confusion, pixels = finderNumber(count(truth, column)), percent = finderNumber(100 * share(truth, column), 1);
    if (!sums[truth]) return `truth ${names[truth]}: no pixel`;
    const taken = column === truth ? "recognised" : column === n ? "without a label" : `taken for ${names[column]}`;
    return `truth ${names[truth]}, ${taken}: ${percent} % (${pixels} pixels)`;
  };

  const draw = () => {
    canvas.hidden = !n;
    if (!width() || !n) return;
    shape = finderMatrix(n, width());
    const [context, colours] = finderContext(canvas, ...shape.all), { edge, size, side } = shape;
    finderMargins(context, shape, confusion);
    context.strokeStyle = colours.line;
    context.strokeRect(edge - 1.5, edge - 1.5, size * (n + 1) + 2, size * n + 2);
    for (let truth = 0; truth < n; truth++) {
      for (let column = 0; column <= n; column++) {
        context.globalAlpha = Math.sqrt(share(truth, column));  // most confusions are small: a straight ramp would hide them
        context.fillStyle = truth === column ? colours.point : column === n ? colours.text : colours.error;
        context.fillRect(edge + column * size, edge + truth * size, side, side);
      }
    }
    Object.assign(context, { globalAlpha: 1, strokeStyle: colours.text, lineWidth: 2 });
    if (cell) context.strokeRect(edge + cell[1] * size - 1, edge + cell[0] * size - 1, side + 2, side + 2);
  };

  const later = finderLater(draw);
  const point = (to) => {
    if (String(to) === String(cell)) return;
    cell = to;
    canvas.title = readout.textContent = to ? describe(to) : "";
    later();
  };
  const under = ({ offsetX, offsetY }) => {
    const [column, truth] = [offsetX, offsetY].map((at) => Math.floor((at - shape.edge) / shape.size));
    return truth >= 0 && truth < n && column >= 0 && column <= n ? [truth, column] : null;
  };
  const ask = (to) => {
    if (to) act.ask({ confusion: { map: confusion.map, truth: to[0], predicted: to[1] === n ? FINDER_NO_LABEL : to[1] } });
  };
  const set = (to) => {
    confusion = to;
    n = to?.names.length ?? 0;
    const row = (truth) => to.counts.subarray(truth * (n + 1), (truth + 1) * (n + 1));
    sums = Array.from({ length: n }, (_, truth) => row(truth).reduce((a, b) => a + b, 0));
    finderOptions(map, (to?.maps ?? []).map((name) => [name, name]));
    if (to) map.value = to.map;
    if (cell && (cell[0] >= n || cell[1] > n)) cell = null;
    readout.textContent = !to ? "No confusion yet: it needs the ground truth." : cell ? describe(cell) : "";
    element.ariaBusy = false;
    later();
  };
  map.addEventListener("input", () => { element.ariaBusy = true; act.ask({ confusion: { map: map.value } }); });
  canvas.addEventListener("pointermove", (event) => point(under(event)));
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("click", (event) => ask(under(event)));
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) point(cell ?? [0, 0]); });
  finderKeys(canvas, (key) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
    const [truth, column] = cell ?? [0, 0];
    if (key === "Enter") return ask(cell);
    return by ? point([clamp(truth + by[0], 0, n - 1), clamp(column + by[1], 0, n)]) : false;
  });
  set(null);
  return { element, canvas, later, set };
}

// ---------------------------------------------------------------------------------------------------------- whole

// One panel at a time; where all have room beside each other, the style sheet shows them all and hides the tabs.
function finderTabs(panels) {
  const list = make("div.finder-tabs", { role: "tablist" });
  const choose = (chosen) => panels.forEach((panel, i) => {
    panel.classList.toggle("finder-behind", i !== chosen);
    Object.assign(list.children[i], { ariaSelected: i === chosen, tabIndex: i === chosen ? 0 : -1 });
  });
  list.append(...panels.map(({ ariaLabel }, i) =>
    make("button", { type: "button", role: "tab", onclick: () => choose(i) }, ariaLabel)));
  finderKeys(list, (key) => {
    const tabs = [...list.children], by = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!by) return false;
    const to = clamp(tabs.findIndex((tab) => tab.matches(":focus")) + by, 0, tabs.length - 1);
    choose(to);
    tabs[to].focus();
  });
  choose(0);
  return make("div.finder-side", {}, list, ...panels);
}

function finderProgress() {
  const bar = make("div.finder-bar"), text = make("span");
  const element = make("div.finder-progress", { role: "progressbar", ariaLabel: "index", hidden: true }, bar, text);
  const set = (progress) => {
    const { done = 0, total = 0, text: said = `indexed ${finderNumber(done)} of ${finderNumber(total)}` } = progress ?? {};
    Object.assign(element, { hidden: !(done < total), ariaValueNow: Math.round(100 * done / Math.max(1, total)) });
    bar.style.setProperty("--share", done / Math.max(1, total));
    text.textContent = said;
  };
  return { element, set };
}

function createFinder(root, { open, flag, thumbnails, ask }) {
  const model = { table: { ids: [], labels: [], classes: [], columns: [] }, columns: [], tops: [], picked: null, filter: null,
                  sort: null, sorted: null, ranks: null, order: [], place: [], flags: new Set(), current: -1, cursor: -1,
                  compact: false, version: 0 };
  const act = {
    ask,
    open(position) { if (position >= 0) { setCurrent(position); open(position); } },
    toggle(position) {
      const on = !model.flags.delete(position);
      if (on) model.flags.add(position);
      act.refresh();
      flag(position, on);
    },
    sort(key) {  // ascending, descending, as given
      const before = model.sort?.key === key ? model.sort.direction : 0;
      model.sort = before < 0 ? null : { key, direction: before ? -1 : 1 };
      act.refresh(true);
    },
    compact(on) { model.compact = on; act.refresh(); grid.reveal(model.current); },
    lift() {
      if (model.sort?.key === FINDER_PIXELS) model.sort = model.picked.before;
      setColumns(model.table, null);
      act.refresh(true);
    },
    refresh(toTop) {
      model.filter = filters.read();
      finderArrange(model);
      filters.tell();
      grid.refresh(toTop);
      scatter.later();
    },
  };
  const filters = finderFilters(model, act), progress = finderProgress(), grid = finderGrid(model, act, thumbnails);
  const scatter = finderScatter(model, act), confusion = finderConfusion(act);
  const parts = make("div.finder-parts", {}, grid.element, finderTabs([scatter.element, confusion.element]));
  const whole = make("div.finder", {}, filters.element, progress.element, parts);
  const redraw = () => { grid.shown(); scatter.later(); confusion.later(); };
  const sizes = new ResizeObserver(redraw);

  function setColumns(table, picked) {
    const columns = picked ? [picked, ...table.columns] : table.columns;
    Object.assign(model, { table, picked, columns, tops: columns.map(finderTop) });
  }
  function setCurrent(position) {
    model.current = model.cursor = position;
    model.version += 1;
    grid.reveal(position);
    grid.draw();
    scatter.ring();
  }
  function setTable(table) {
    const same = model.table.ids.every((id, position) => id === table.ids[position]);
    if (!same) grid.forget();  // positions now mean other images
    if (!same && model.sort?.key === FINDER_PIXELS) model.sort = null;
    model.ranks = null;
    setColumns({ ...table }, same ? model.picked : null);  // new even where the same object comes again with other values
    act.refresh();
  }
  function pick({ title, positions, pixels }) {
    const data = new Float32Array(model.table.ids.length).fill(NaN), { before } = model.picked ?? { before: model.sort };
    positions.forEach((position, i) => { data[position] = pixels[i]; });
    setColumns(model.table, { key: FINDER_PIXELS, title: "pixels", name: title, data, digits: 0, before });
    model.sort = { key: FINDER_PIXELS, direction: -1 };
    act.refresh(true);
  }
  function next(by) {
    const at = model.place[model.current], { order } = model;
    const to = order[at >= 0 ? clamp(at + by, 0, order.length - 1) : 0];
    if (to !== undefined && to !== model.current) act.open(to);
  }
  // Positions that a reader may open next, in the order of the table: the two after this one, then the one before.
  function near(position) {
    const at = model.place[position], { order } = model;
    return at >= 0 ? [at + 1, at + 2, at - 1].flatMap((n) => order[n] ?? []) : [];
  }
  function setFlags(flags) {
    model.flags = new Set(flags);
    act.refresh();
  }
  function destroy() {
    sizes.disconnect();
    [scatter, confusion].forEach(({ later }) => later.cancel());
    grid.forget();
    whole.remove();
  }

  root.append(whole);
  [parts, scatter.canvas.parentNode, confusion.canvas.parentNode].forEach((part) => sizes.observe(part));
  whole.addEventListener("transitionend", ({ target }) => { if (target === whole) redraw(); });  // the theme has changed
  act.refresh();
  return { setTable, setConfusion: confusion.set, setCurrent, setFlags, setProgress: progress.set, pick, next, near,
           visible: () => [...model.order], destroy };
}
