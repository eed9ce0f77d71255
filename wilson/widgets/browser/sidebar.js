// What is done with an image, and with the split: replay, notes and corrections, scores of all, exports.
function createPlayer(root, moved) {
  const row = make("div.ws-row.ws-player", { parent: root, hidden: true });
  const range = make("input", { type: "range", min: 0, step: 1, on: { input: () => go(Number(range.value)) } });
  const play = button(row, "▶", "ws-play", () => (timer ? stop() : start()), "replay the epochs");
  labelled(row, "epoch", range, "ws-epochs");
  const shown = make("output.ws-epoch", { parent: row });
  let epochs = [], timer = null, drawn = Promise.resolve();

  function show(epoch) {
    range.value = epoch === null ? epochs.length : epochs.indexOf(epoch);
    shown.textContent = epoch === null ? "the finished step" : `epoch ${epoch} of ${epochs.at(-1)}`;
  }
  function go(n) {
    const epoch = n < epochs.length ? epochs[n] : null;
    show(epoch);
    drawn = moved(epoch);
  }
  async function start() {
    play.textContent = "❚❚";
    timer = {};
    const mine = timer;
    for (let n = 0; n <= epochs.length && timer === mine; n++) {
      go(n);
      await Promise.all([drawn, new Promise((r) => setTimeout(r, 500))]);
    }
    if (timer === mine) stop();
  }
  function stop() { timer = null; play.textContent = "▶"; }
  return {
    set(found, epoch) { // epochs with maps of this image
      if (String(found) !== String(epochs)) stop();
      epochs = found;
      row.hidden = !epochs.length;
      range.max = epochs.length;
      show(epoch);
    },
    stop,
  };
}

function createNotes(root, { save, take }) {
  const box = make("fieldset.ws-notes", { parent: root  }, make("legend", { text: "This image" }));
  const row = make("div.ws-row", { parent: box });
  const flag = toggle(row, "flag (f)", "ws-flag", (on) => save({ flag: on }));
  const exclude = toggle(row, "exclude from training", "ws-exclude", (on) => save({ exclude: on }));
  const note = labelled(box, "note", make("input", { type: "text", on: { change: () => save({ note: note.value }) } }), "ws-note");
  const labels = make("div.ws-row", { parent: box });
  const correct = button(labels, "save labels as a correction", "ws-correct", () => take(),
    "the image-level labels as they are switched on now");
  const saved = make("div.ws-dim.ws-saved", { parent: box });
  let shown = null;
  return {
    set(edit, { of, file, correction, trains }) {
      flag.checked = edit.flag;
      exclude.checked = edit.exclude;
      exclude.disabled = !trains;
      if (of !== shown || note !== note.getRootNode().activeElement) note.value = edit.note; // not while it is typed
      shown = of;
      correct.disabled = !correction;
      const labelled = [...edit.add.map((n) => `+ ${n}`), ...edit.remove.map((n) => `− ${n}`)].join(", ");
      saved.textContent = labelled || edit.flag || edit.exclude || edit.note
        ? `${labelled ? `${labelled} · ` : ""}in ${file}` : `nothing noted; would be kept in ${file}`;
    },
  };
}

function createScoring(root, { score, cancel }) {
  const box = make("fieldset.ws-scoring", { parent: root  }, make("legend", { text: "All images under this rule" }));
  const row = make("div.ws-row", { parent: box });
  const go = button(row, "score", "ws-score", () => (running ? cancel() : score()));
  const bar = make("progress", { parent: row, max: 1, value: 0, hidden: true });
  const told = make("span.ws-dim.ws-told", { parent: row });
  const result = make("table.ws-classes.ws-scores", { parent: box, hidden: true });
  const command = make("code.ws-command", { parent: box });
  let running = false;
  const digits = (v) => (v === null || v === undefined ? "–" : v.toFixed(1));
  return {
    progress({ done, total, text }) {
      running = done < total;
      bar.hidden = !running;
      bar.value = total ? done / total : 0;
      told.textContent = text ?? `${done} of ${total}`;
      go.textContent = running ? "stop" : "score";
    },
    show(rows) { // {name, miou: {old, new, all}, coverage}
      result.hidden = !rows.length;
      const numbers = (r) => [...["old", "new", "all"].map((k) => r.miou[k]), r.coverage];
      result.replaceChildren(
        make("tr", {}, ...["mIoU, %", "old", "new", "all", "cov."].map((text, n) =>
          make("th", { text, className: n ? "ws-number" : "" }))),
        ...rows.map((r) => make("tr", {}, make("th", { text: r.name, scope: "row" }),
          ...numbers(r).map((v) => make("td.ws-number", { text: digits(v) })))));
    },
    set(train) { command.textContent = train; command.title = "the command that trains with this rule"; },
  };
}

function createExports(root, write) {
  const row = make("div.ws-row.ws-exports", { parent: root  }, make("span", { text: "Export" }));
  for (const [kind, text] of [["figure", "figure (PNG, PDF)"], ["html", "HTML report"]])
    button(row, text, `ws-export-${kind}`, () => write(kind), kind === "html"
      ? "this image, or the flagged ones, with every map and number, in one file"
      : "this image, or the flagged ones, in the layout of a paper's figure");
  const what = make("select", { parent: row, ariaLabel: "which images" });
  setOptions(what, [["image", "this image"], ["flagged", "flagged images"]], "image");
  const told = make("span.ws-dim.ws-exported", { parent: row });
  return { which: () => what.value, say: (text) => { told.textContent = text; } };
}
