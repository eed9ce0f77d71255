// The grading sheet: one image at a time, a grade by one key, saved at once by the kernel.

const GRADE_NAMES = ["nothing fits", "a quarter fits", "half fits", "three quarters fit", "all fits"];
const GRADE_HINT = "Keys 0 to 4 grade and go on · m and f before the number: the error is mostly missed, or mostly false · "
  + "← → moves · u takes the last grade back";

function renderGrading({ model, el }) {
  const root = make("div.wilson-studio.wilson-grading", { parent: el, tabIndex: 0, dataset: { lmSuppressShortcuts: "true" } });
  root.addEventListener("focusin", ({ target }) => { target.dataset.lmSuppressShortcuts = "true"; });
  const link = createLink(model, (message) => { if (message.push === "busy") say(message.text); });
  const at = { sheet: null, position: 0, missed: false, false: false, asksArea: false, done: [], failed: "" };
  let drawn = 0, urls = [], saving = Promise.resolve();

  // ------------------------------------------------------------------ layout
  const bar = make("div.ws-bar", { parent: root });
  const name = chooser(bar, "Class", "wg-class", (v) => guarded(open)(v));
  const count = make("span.wg-count", { parent: bar });
  const estimate = make("span.wg-estimate", { parent: bar });
  const status = make("div.ws-status", { parent: root, role: "status" });
  const pictures = make("div.wg-pictures", { parent: root });
  const question = make("div.wg-question", { parent: root });
  const marks = make("div.ws-row.wg-marks", { parent: root });
  const missed = button(marks, "m  mostly missed", "ws-chip wg-missed", () => mark("missed"), "the error is mostly a part of the class without colour");
  const false_ = button(marks, "f  mostly false", "ws-chip wg-false", () => mark("false"), "the error is mostly colour where the class is not");
  const grades = make("div.ws-row.wg-grades", { parent: root });
  const areas = make("div.ws-row.wg-areas", { parent: root, hidden: true });
  const moves = make("div.ws-row", { parent: root });
  button(moves, "←", "wg-back", () => go(at.position - 1), "previous image");
  button(moves, "→", "wg-forth", () => go(at.position + 1), "next image");
  const undo = button(moves, "u  take back", "wg-undo", () => takeBack(), "take the last grade back");
  const dots = make("div.wg-dots", { parent: root, role: "group", ariaLabel: "images of the sheet" });
  make("div.ws-dim.wg-hint", { parent: root, text: GRADE_HINT });

  GRADE_NAMES.forEach((text, key) => button(grades, `${key}  ${text}`, `wg-grade wg-grade-${key}`, () => choose(key)));

  function say(text, wrong = false) {
    status.textContent = text;
    status.classList.toggle("ws-wrong", wrong);
  }
  const guarded = (act) => async (...given) => {
    try { return await act(...given); } catch (error) { say(error.message, true); }
  };

  // ------------------------------------------------------------------ what is seen
  const item = () => at.sheet.sample[at.position];
  const graded = () => at.sheet.sample.filter(({ grade }) => grade).length;

  function percent(value) { return Math.round(100 * value); }

  function showNumbers() {
    const { sample, estimate: found } = at.sheet;
    count.textContent = `${graded()} of ${sample.length} graded`;
    estimate.textContent = found
      ? `IoU ${percent(found.iou)} %, 95 % interval ${percent(found.low)} to ${percent(found.high)}` : "IoU: after a few more grades";
    undo.disabled = !at.done.length;
    sample.forEach(({ id, grade }, n) => {
      const dot = dots.children[n];
      dot.className = `wg-dot wg-dot-${grade ? grade.overlap : "open"}`;
      dot.title = `${id}: ${grade ? GRADE_NAMES[grade.overlap] : "not graded"}`;
      dot.ariaCurrent = String(n === at.position);
    });
    const { grade } = item();
    [...grades.children].forEach((b, key) => {
      b.ariaPressed = String(grade?.overlap === key);
      b.disabled = !item().predicted && key > 0 && key < 4; // nothing is predicted: right, or missed
    });
    missed.disabled = false_.disabled = !item().predicted;
    missed.ariaPressed = String(at.missed);
    false_.ariaPressed = String(at.false);
    areas.hidden = !at.asksArea;
    grades.hidden = marks.hidden = at.asksArea;
    question.textContent = at.asksArea ? `How large is the ${at.sheet.className} that is missed? (share of the image; Esc: back)`
      : item().predicted ? `How well does the colour fit the ${at.sheet.className}?`
        : `Nothing is predicted here. 0: a ${at.sheet.className} is missed · 4: there is none, that is right`;
  }

  async function showImage() {
    const mine = ++drawn, of = at.position;
    root.dataset.shown = "";
    showNumbers();
    const reply = await link.ask("image", { position: of });
    if (mine !== drawn) return; // another image was opened meanwhile
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = reply.buffers.map((b) => URL.createObjectURL(new Blob([bytesOf(b)], { type: "image/jpeg" })));
    pictures.replaceChildren(...["image", "prediction"].map((what, n) => make("figure", {},
      make("img", { src: urls[n], alt: `${what} of ${item().id}` }), make("figcaption", { text: n ? reply.text : item().id }))));
    root.dataset.shown = item().id;
    say(at.failed || (graded() === at.sheet.sample.length ? "All images are graded." : ""), Boolean(at.failed));
  }

  function go(position) {
    if (!at.sheet) return;
    at.position = clamp(position, 0, at.sheet.sample.length - 1);
    const { grade } = item();
    Object.assign(at, { missed: Boolean(grade?.missed), false: Boolean(grade?.false), asksArea: false });
    return guarded(showImage)();
  }

  // ------------------------------------------------------------------ grades
  function mark(which) {
    if (!at.sheet || at.asksArea || !item().predicted) return;
    at[which] = !at[which];
    showNumbers();
  }

  function choose(key) {
    if (!at.sheet) return;
    const predicted = item().predicted > 0;
    if (!predicted && key > 0 && key < 4) return;
    if (key === 0 && (at.missed || !predicted)) {
      at.asksArea = true;
      return showNumbers();
    }
    return save({ overlap: key, missed: key < 4 && predicted && at.missed, false: key < 4 && predicted && at.false, area: null });
  }

  function chooseArea(area) {
    if (area !== undefined) return save({ overlap: 0, missed: true, false: item().predicted > 0, area });
  }

  function save(grade) {
    const before = item().grade, position = at.position;
    at.done.push({ position, before });
    send(position, grade);
    const open = at.sheet.sample.findIndex(({ grade: g }, n) => !g && n > position);
    const first = at.sheet.sample.findIndex(({ grade: g }) => !g);
    return go(open >= 0 ? open : first >= 0 ? first : Math.min(position + 1, at.sheet.sample.length - 1));
  }

  function takeBack() {
    const last = at.done.pop();
    if (!last) return;
    send(last.position, last.before);
    return go(last.position);
  }

  // at once on the page; the kernel gets one grade after another
  function send(position, grade) {
    const { sheet } = at, of = sheet.sample[position], before = of.grade;
    of.grade = grade;
    root.dataset.saved = "";
    saving = saving.then(async () => {
      try {
        const reply = await link.ask("grade", { position, grade });
        sheet.estimate = reply.estimate;
        root.dataset.saved = String(reply.graded);
        at.failed = "";
      } catch (error) {
        of.grade = before;
        at.failed = `Not saved: ${error.message}`; // an image that is opened meanwhile does not hide it
        say(at.failed, true);
      }
      if (at.sheet === sheet) showNumbers();
    });
  }

  // ------------------------------------------------------------------ keys
  root.addEventListener("keydown", (event) => {
    if (!at.sheet || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const number = /^[0-9]$/.test(event.key) ? Number(event.key) : -1;
    const act = at.asksArea
      ? { Escape: () => { at.asksArea = false; showNumbers(); } }[event.key] ?? (number > 0 && number <= at.sheet.areas.length ? () => chooseArea(at.sheet.areas[number - 1]) : null)
      : number >= 0 && number < GRADE_NAMES.length ? () => choose(number)
        : { m: () => mark("missed"), f: () => mark("false"), u: takeBack, ArrowLeft: () => go(at.position - 1), ArrowRight: () => go(at.position + 1) }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });

  async function open(className = null) {
    await saving;
    root.dataset.ready = "";
    const sheet = await link.ask("open", { className });
    Object.assign(at, { sheet, done: [], failed: "" });
    setOptions(name, sheet.classes.map((c) => [c, c]), sheet.className);
    areas.replaceChildren();
    sheet.areas.forEach((area, n) => button(areas, `${n + 1}  ${percent(area)} %`, "wg-area", () => chooseArea(area)));
    dots.replaceChildren(...sheet.sample.map((_, n) => make("button", { type: "button", on: { click: () => go(n) } })));
    const first = sheet.sample.findIndex(({ grade }) => !grade);
    await go(Math.max(first, 0));
    root.dataset.ready = sheet.className;
    root.focus({ preventScroll: true });
  }

  guarded(open)();
  return () => { link.close(); urls.forEach((url) => URL.revokeObjectURL(url)); };
}
