// The studio: choices above, maps and rules in the middle, all images below. What needs the networks is asked of the kernel.

function render({ model, el }) {
  const dataset = { lmSuppressShortcuts: "true" }; // JupyterLab's one-letter commands stay out
  const root = make("div.wilson-studio", { parent: el, tabIndex: -1, dataset });
  // those on `:focus` look no further than the element: an arrow would move the notebook's cursor in place of a slider
  root.addEventListener("focusin", ({ target }) => { target.dataset.lmSuppressShortcuts = "true"; });
  const link = createLink(model, pushed);
  const at = { sides: [null, null], list: "validation", position: null, epoch: null, told: null, reply: null,
    panels: null, heat: null, differs: "prediction", table: { map: null, classIndex: null, epoch: null } };
  let drawn = 0;

  // ------------------------------------------------------------------ layout
  const bar = make("div.ws-bar", { parent: root });
  const run = chooser(bar, "Run", "ws-run", (v) => guarded(openStep)(0, v, null));
  const step = chooser(bar, "Step", "ws-step", (v) => guarded(openStep)(0, run.value, Number(v)));
  const other = chooser(bar, "Compare with", "ws-compare", (v) => {
    if (v) return guarded(openStep)(1, ...JSON.parse(v));
    at.sides[1] = null;
    return ask();
 });
  const list = chooser(bar, "Images", "ws-list", (v) => { at.list = v; scoring.show([]); guarded(showList)(); });
  setOptions(list, [["validation", "validation"], ["training", "training"]], "validation");
  const where = make("div.ws-where", { parent: bar });
  button(where, "◀", "ws-back", () => finder.next(-1), "previous image (p)");
  const id = make("input.ws-id", { parent: where, type: "text", ariaLabel: "image id",
    title: "type an id, or a part of one", on: { keydown: (e) => { if (e.key === "Enter") jump(id.value); } } });
  button(where, "▶", "ws-forth", () => finder.next(1), "next image (n)");
  const status = make("div.ws-status", { parent: root, role: "status" });

  const looks = make("div.ws-row.ws-looks", { parent: root });
  const chips = make("div.ws-chips", { parent: looks, role: "group", ariaLabel: "maps" });
  const heat = chooser(looks, "Show", "ws-heat", (v) => setHeat(v === "" ? null : /^\d+$/.test(v) ? Number(v) : v));
  const opacity = slider(looks, "Opacity", "ws-opacity", { min: 0, max: 1, step: 0.05 }, (v) => panels.set({ opacity: v }));
  opacity.set(0.7);
  toggle(looks, "outline of the truth", "ws-outline", (on) => panels.set({ outline: on }));
  const differs = chooser(looks, "Difference of", "ws-differs-of", (v) => { at.differs = v; ask(differences()); });

  const body = make("div.ws-body", { parent: root });
  const left = make("div.ws-left", { parent: body });
  const player = createPlayer(left, (epoch) => { at.epoch = epoch; return ask(); });
  const panels = createPanels(make("div.ws-panels", { parent: left }), {});
  panels.set({ opacity: 0.7 });
  const table = createClassTable(left, { labelled: switchLabel, heat: setHeat });
  const side = make("div.ws-side", { parent: body });
  const rules = createRuleControls(make("div.ws-rules", { parent: side }), (name) => {
    scoring.show([]);
    ask(name ? info().changes[name] : Object.values(info().changes).flat());
  });
  const scoring = createScoring(side, { score: () => scoreAll(), cancel: () => link.ask("cancel") });
  const notes = createNotes(side, { save: (part) => saveEdit(part), take: () => takeLabels() });
  const finder = createFinder(make("div.ws-finder", { parent: root }), {
    open: (position) => showImage(position),
    flag: (position, on) => saveEdit({ flag: on }, position),
    thumbnails, ask: (what) => asked(what),
 });
  const exports = createExports(root, (kind) => write(kind));

  // ------------------------------------------------------------------ words
  function say(text, wrong = false) {
    status.textContent = text;
    status.classList.toggle("ws-wrong", wrong);
  }
  function guarded(act) {
    return async (...given) => {
      try { return await act(...given); } catch (error) { console.warn(error); say(error.message, true); }
    };
  }
  function pushed(message, buffers) {
    if (message.push === "busy") say(message.text);
    if (!info()) return;
    if (message.push === "retrained") guarded(openStep)(0, info().run, info().step);
    if (message.push === "scoring") scoring.progress(message);
    if (message.push === "indexed" && message.of === `${info().title}/${at.list}`) { finder.setProgress(message); if (message.fresh) refreshTable(); }
  }

  // ------------------------------------------------------------------ steps and images
  const info = () => at.sides[0];
  const names = (test = () => true) => info().panels.filter(test).map(({ name }) => name);
  const listed = () => info().lists[at.list];

  function showRuns(hello) {
    setOptions(run, hello.runs.map((r) => [r.name, r.name]), hello.at?.run ?? "");
    at.runs = hello.runs;
  }

  function showOthers(name) { // runs of the same task by their short names, and first
    const near = (r) => r.name.split("/")[0] === name.split("/")[0];
    const runs = [...at.runs.filter(near), ...at.runs.filter((r) => !near(r))];
    setOptions(other, [["", "nothing"], ...runs.flatMap((r) => r.steps.map((s) =>
      [JSON.stringify([r.name, s]), `${near(r) ? r.name.split("/").pop() : r.name} · step ${s}`]))], "");
  }

  const question = (kind, fields) => link.ask(kind, { of: at.sides.filter(Boolean).map((side) => side.title), ...fields });

  async function openStep(n, name, number, image) {
    player.stop();
    try {
      await opened(n, await link.ask("step", { side: n, run: name, step: number, image }));
    } finally { // what could not be opened is not chosen
      if (info()) [run.value, step.value] = [info().run, info().step];
      if (!at.sides[1]) other.value = "";
    }
  }

  async function opened(n, found) {
    at.sides[n] = found;
    if (n === 1) return ask();
    [at.sides[1], at.reply, at.rows, at.position] = [null, null, null, null];
    at.table = { map: null, classIndex: null, epoch: null };
    showOthers(found.run);
    setOptions(step, at.runs.find((r) => r.name === found.run).steps.map((s) => [s, s]), found.step);
    setOptions(heat, [["", "all classes"], ...(found.nOld ? [["old", "old classes"], ["new", "new classes"]] : []),
      ...found.classes.map((c, k) => [k, c.name])], "");
    setHeat(null);
    rules.set(found.rule, found.controls);
    scoring.show([]);
    side.querySelector(".ws-rules").hidden = !found.weak;
    side.querySelector(".ws-scoring").hidden = !found.weak;
    at.panels ??= new Set(names((p) => p.atFirst));
    showChips();
    at.list = list.value = found.first.list;
    await showList(found.first.position);
    if (found.wrong) say(found.wrong, true);
  }

  function showChips() {
    if (!names().includes(at.differs)) at.differs = "prediction";
    chips.replaceChildren(...info().panels.map(({ name, help }) => make("button.ws-chip", { type: "button", text: name, title: help,
      dataset: { map: name }, ariaPressed: at.panels.has(name), on: { click: (e) => {
        at.panels[at.panels.has(name) ? "delete" : "add"](name);
        e.target.ariaPressed = at.panels.has(name);
        ask();
     } } })));
    setOptions(differs, names((p) => p.scored).map((p) => [p, p]), at.differs);
  }

  async function showList(position = listed().ids.length ? 0 : null) {
    finder.setTable({ ids: listed().ids, labels: listed().labels, classes: info().classes, columns: [] });
    finder.setConfusion(null);
    finder.setProgress(null);
    finder.setFlags(flagged());
    refreshTable();
    [at.position, at.reply] = [position, null];
    if (position === null) return say(`This step has no ${at.list} images.`);
    await showImage(position);
  }

  async function showImage(position = at.position) {
    if (position !== at.position) at.epoch = null;
    at.position = position;
    at.told = noted(position);
    id.value = listed().ids[position];
    player.stop();
    showNotes(); // before the maps come: what is written now is of this image
    await ask();
    finder.setCurrent(position);
  }

  const imageKey = () => `${at.list}/${at.position}`; // as the kernel names it
  // Is the image on the screen the one that was chosen?
  const settled = () => at.reply?.key === imageKey();
  const known = (c) => info().weak && c >= (rules.get().label_old_classes ? 1 : Math.max(info().nOld, 1));
  const given = (c, position) => known(c) && listed().labels[position].includes(c);

  // Labels with what was corrected before; null: as they are given.
  function noted(position) {
    const { add, remove } = edit(position), all = info().classes.slice(1).map((c, k) => ({ name: c.name, c: k + 1 }));
    const told = all.map(({ name, c }) => known(c) && (add.includes(name) || (given(c, position) && !remove.includes(name))));
    return all.some(({ c }, k) => told[k] !== given(c, position)) ? told : null;
  }

  // ------------------------------------------------------------------ maps
  // What is drawn can be kept, and only `only` be asked for, as long as this stays the same.
  const drawnOf = () => JSON.stringify([at.list, at.position, at.epoch, at.sides.map((s) => s?.title), [...at.panels]]);

  let whole = true, some = new Set(); // of what has been asked for and not been drawn
  const drawNewest = guarded(newestOnly(async () => {
    if (at.position === null) return;
    const of = drawnOf(), part = !whole && at.reply?.drawnOf === of, only = some;
    [whole, some] = [false, new Set()];
    const began = performance.now();
    try {
      const reply = await question("image", { list: at.list, position: at.position, epoch: at.epoch, rule: rules.get(),
        told: at.told, panels: [...at.panels].filter((p) => !part || only.has(p)), differs: at.differs, part,
        other: Boolean(at.sides[1]), near: finder.near(at.position) });
      if (of !== drawnOf() && reply.key !== imageKey()) return; // something else has been chosen
      await shown({ ...reply, drawnOf: of });
    } catch (error) {
      whole = true;
      throw error;
    }
    root.dataset.milliseconds = (performance.now() - began).toFixed(1);
    root.dataset.drawn = ++drawn;
 }));

  const differences = () => names((p) => p.draws === "difference");

  function ask(only) { // of what has changed: all, or some maps and the difference of one of them
    if (only) [...only, ...(only.includes(at.differs) ? differences() : [])].forEach((p) => some.add(p));
    else whole = true;
    return drawNewest();
  }

  async function shown(reply) {
    const last = reply.part ? at.reply : null;
    if (reply.part && !last) return;
    const base = last ? last.base : await createImageBitmap(new Blob([bytesOf(reply.buffers[reply.picture])]));
    const truth = last ? last.truth : reply.truth === null ? null : bytesOf(reply.buffers[reply.truth]);
    const unpacked = (panel) => ({ ...panel, image: base,
      labels: panel.labels === null ? null : bytesOf(reply.buffers[panel.labels]),
      soft: panel.soft === null ? null : { ...panel.size, data: bytesOf(reply.buffers[panel.soft]) } });
    const rows = reply.rows.map((row, n) => {
      const before = last?.rows[n];
      const all = new Map([...(before?.panels ?? []), ...row.panels.map(unpacked)].map((p) => [p.name, p]));
      const iou = row.iou && { ...before?.iou, ...row.iou }, means = { ...before?.means, ...row.means };
      const shownOf = (p) => ({ ...all.get(p), note: noteOf(means, p) });
      return { ...row, iou, means, panels: names().filter((p) => all.has(p)).map(shownOf) };
   });
    if (last?.rows[1]) rows[1] = last.rows[1];
    at.reply = { ...reply, base, truth, rows };
    panels.show({ key: reply.key, classes: info().classes, nOld: info().nOld, size: reply.size, truth, rows });
    id.value = reply.image;
    showNumbers();
    say(reply.text);
  }

  function noteOf(means, panel) {
    if (differences().includes(panel)) return `of ${at.differs}`;
    return typeof means[panel] === "number" ? `IoU ${(100 * means[panel]).toFixed(1)}` : "";
  }

  function showNumbers() {
    const { rows: [a, b], labels, key } = at.reply;
    // a class that was switched off stays in its row, to be switched on again
    at.rows = { key, classes: new Set([...(at.rows?.key === key ? at.rows.classes : []), ...at.reply.shown]) };
    const classes = [...at.rows.classes].sort((x, y) => x - y);
    table.show({ classes: info().classes, shown: classes, told: at.told ?? labels, scores: a.scores, iou: a.iou,
      other: b?.iou, heatOf: at.heat, known });
    const found = info().epochs, kept = info().kept[at.list].includes(at.position);
    player.set(kept ? found : [], at.epoch);
    showNotes();
    scoring.set(at.reply.command);
  }

  function showNotes() {
    const correction = settled() && String(at.told ?? at.reply.labels) !== String(noted(at.position) ?? at.reply.labels);
    notes.set(edit(), { of: imageKey(), file: info().editsPath, correction, trains: at.list === "training" });
  }

  function switchLabel(c, on) {
    if (!settled()) return showNumbers();
    at.told = (at.told ?? at.reply.labels).map((told, k) => (k === c - 1 ? on : told));
    ask(info().labelled);
  }

  function setHeat(c) {
    at.heat = c;
    heat.value = c === null ? "" : String(c);
    panels.set({ heat: c });
    if (at.reply) showNumbers();
  }

  // ------------------------------------------------------------------ all images
  const refreshTable = guarded(newestOnly(async () => {
    const name = at.list, of = info();
    const reply = await question("table", { list: name, ...at.table });
    if (name !== at.list || of !== info()) return;
    const columns = reply.columns.map((c, n) => ({ ...c, data: floatsOf(reply.buffers[n]) }));
    finder.setTable({ ids: listed().ids, labels: listed().labels, classes: of.classes, columns, epochs: reply.epochs });
    finder.setConfusion(reply.confusion && { ...reply.confusion, counts: Float64Array.from(floatsOf(reply.buffers.at(-1))),
      names: of.classes.map((c) => c.name), colours: of.classes.map((c) => c.colour) });
 }));

  const asked = guarded(async ({ confusion, ...table }) => {
    if (!confusion || confusion.truth === undefined) {
      Object.assign(at.table, confusion ? { map: confusion.map } : table);
      return refreshTable();
    }
    const { map, truth } = confusion, c = info().classes.length;
    const of = info(), from = at.list;
    const reply = await question("behind", { list: at.list, map, truth, epoch: at.table.epoch,
      predicted: Math.min(confusion.predicted, c) });
    if (of === info() && from === at.list) finder.pick({ title: reply.title, positions: intsOf(reply.buffers[0]), pixels: floatsOf(reply.buffers[1]) });
 });

  async function thumbnails(positions) {
    const reply = await question("thumbnails", { list: at.list, positions });
    return new Map(reply.positions.map((p, n) => [p, reply.buffers[n].byteLength
      ? URL.createObjectURL(new Blob([bytesOf(reply.buffers[n])], { type: "image/jpeg" })) : null]));
  }

  const jump = guarded(async (text) => {
    const ids = listed().ids, wanted = text.trim();
    const exact = ids.indexOf(wanted);
    const found = exact >= 0 ? exact : ids.findIndex((i) => i.includes(wanted));
    if (found < 0) throw new Error(`No ${at.list} image has “${wanted}” in its id.`);
    return showImage(found);
 });

  const scoreAll = guarded(async () => {
    const scored = () => JSON.stringify([info().title, at.list, rules.get()]), of = scored();
    let reply = { text: "" };
    try {
      reply = await question("score", { list: at.list, rule: rules.get() });
      scoring.show(of === scored() ? reply.rows : []);
    } finally {
      scoring.progress({ done: 1, total: 1, text: of === scored() ? reply.text : "the rule or the list has changed meanwhile" });
    }
 });

  // ------------------------------------------------------------------ notes and exports
  const NOTHING = { add: [], remove: [], exclude: false, flag: false, note: "" };
  const edit = (position = at.position) => info().edits[listed().ids[position]] ?? NOTHING;
  const flagged = () => new Set(listed().ids.flatMap((i, n) => (info().edits[i]?.flag ? [n] : [])));

  const saveEdit = guarded(async (part, position = at.position) => {
    const image = listed().ids[position];
    const before = edit(position), of = info();
    of.edits[image] = { ...before, ...part }; // at once: the next change must not be made to what was before
    try {
      const reply = await question("edit", { image, edit: part, before: { add: before.add, remove: before.remove } });
      of.edits[image] = reply.edit;
      if (at.reply) at.reply.command = reply.command;
      say(reply.text);
    } catch (error) {
      of.edits[image] = before;
      throw error;
    } finally {
      finder.setFlags(flagged());
      if (settled()) showNumbers();
    }
 });

  async function takeLabels() { // classes that this step does not know keep what was noted of them
    if (!settled() || !at.told) return;
    const before = edit(), position = at.position;
    const all = info().classes.map((c, k) => ({ name: c.name, c: k })).filter(({ c }) => known(c));
    const others = (names) => names.filter((n) => !all.some((c) => c.name === n));
    const named = (test) => all.filter(test).map(({ name }) => name);
    // what the labels say because a correction was trained with stays a correction
    await saveEdit({
      add: [...others(before.add), ...named(({ name, c }) => at.told[c - 1] && (!given(c, position) || before.add.includes(name)))],
      remove: [...others(before.remove),
        ...named(({ name, c }) => !at.told[c - 1] && (given(c, position) || before.remove.includes(name)))] });
  }

  const write = guarded(async (kind) => {
    exports.say("");
    const reply = await question("export", { format: kind, list: at.list, position: at.position, epoch: at.epoch,
      which: exports.which(), rule: rules.get(), told: at.told, panels: names().filter((p) => at.panels.has(p)) });
    exports.say(reply.text);
    say(reply.text);
 });

  // ------------------------------------------------------------------ keys
  root.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !info()) return;
    const act = { n: () => finder.next(1), p: () => finder.next(-1), f: () => saveEdit({ flag: !edit().flag }) }[event.key];
    if (act) { event.preventDefault(); act(); }
 });

  guarded(async () => {
    let hello = null; // asked again where it was lost on a connection that was only being made
    while (!hello) hello = await Promise.race([link.ask("hello"), new Promise((done) => setTimeout(done, 15000))]);
    root.dataset.ready = "true";
    if (!hello.runs.length) {
      root.replaceChildren(status);
      return say(hello.text);
    }
    showRuns(hello);
    return openStep(0, hello.at.run, hello.at.step, hello.at.image);
 })();
  return () => { link.close(); panels.destroy?.(); finder.destroy?.(); };
}

export default { render };
