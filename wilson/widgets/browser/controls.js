// What a step's rule turns on; every change gives the whole rule.
function createRuleControls(root, changed) {
  let trained = null, rule = null;
  const group = (title) => make("fieldset", { parent: root }, make("legend", { text: title }));
  const change = (part) => { rule = { ...rule, ...part }; showChanges(); changed(rule); };

  const target = group("Target (teaches the segmenter)");
  const alpha = slider(target, "alpha", "ws-alpha", { min: 0, max: 1, step: 0.05 }, (v) => change({ alpha: v }));
  const mixed = chooser(target, "background", "ws-background", (v) =>
    change({ background: v === "min" ? "min" : mix.get() }));
  setOptions(mixed, [["min", "least of old and new"], ["mix", "mix of both"]], "min");
  const mix = slider(target, "share of new", "ws-mix", { min: 0, max: 1, step: 0.05 }, (v) => change({ background: v }));

  const hard = group("Hard mask (teaches the localizer)");
  const iterations = slider(hard, "iterations", "ws-iterations", { min: 0, max: 20, step: 1, digits: 0 },
    (v) => change({ iterations: v }));
  const reach = make("div.ws-dilations", { parent: hard, role: "group", ariaLabel: "dilations" },
    make("span", { text: "dilations" }));
  const boxes = new Map([1, 2, 4, 8, 12, 24].map((d) => [d, toggle(reach, String(d), "", () => {
    const kept = [...boxes].filter(([, box]) => box.checked).map(([n]) => n);
    if (kept.length) change({ dilations: kept });
    else boxes.get(d).checked = true; // without neighbours there is no refinement
 })]));
  const limits = ["background", "classes", "floor"].map((name, n) =>
    slider(hard, `${name} >`, `ws-threshold-${name}`, { min: 0, max: 1, step: 0.05 }, (v) =>
      change({ thresholds: rule.thresholds.map((t, k) => (k === n ? v : t)) })));

  const foot = make("div.ws-row", { parent: root });
  const reset = button(foot, "as trained", "ws-reset", () => { set(trained, trained); changed(rule); },
    "back to the rule of the run");
  const differs = make("span.ws-dim.ws-differs", { parent: foot });

  function showChanges() {
    mix.input.disabled = rule.background === "min";
    const names = Object.keys(trained).filter((n) => JSON.stringify(trained[n]) !== JSON.stringify(rule[n]));
    differs.textContent = names.length ? `changed: ${names.join(", ")}` : "";
    reset.disabled = !names.length;
  }
  function set(asTrained, now) {
    [trained, rule] = [asTrained, { ...now }];
    alpha.set(rule.alpha);
    mixed.value = rule.background === "min" ? "min" : "mix";
    mix.set(rule.background === "min" ? 0.5 : rule.background);
    iterations.set(rule.iterations);
    for (const [d, box] of boxes) box.checked = rule.dilations.includes(d);
    limits.forEach((limit, n) => limit.set(rule.thresholds[n]));
    showChanges();
  }
  return { set, get: () => rule, changed: () => !reset.disabled };
}

// The classes of one image: image-level labels as switches, the localizer's scores, IoU by map.
function createClassTable(root, { labelled: switched, heat }) {
  const table = make("table.ws-classes", { parent: make("div.ws-scroll", { parent: root }) });
  const more = make("select.ws-more", { parent: root, ariaLabel: "another image-level label",
    on: { change: () => switched(Number(more.value), true) } });
  const percent = (v) => (v === null ? "–" : (100 * v).toFixed(0));
  const signed = (v) => (v === null ? "–" : (v >= 0 ? "+" : "−") + Math.abs(v).toFixed(1));

  function cellOf(row, values, other) {
    const cell = make("td.ws-number", { parent: row, text: percent(values) });
    if (other === undefined) return;
    const delta = values === null || other === null ? null : 100 * (values - other);
    const cls = delta === null || Math.abs(delta) < 0.5 ? "ws-dim" : delta > 0 ? "ws-gain" : "ws-loss";
    make("span", { parent: cell, className: `ws-delta ${cls}`, text: signed(delta) });
  }

  function show({ classes, shown, told, known, scores, iou, other, heatOf }) {
    const maps = Object.keys(iou ?? {});
    const head = make("tr", {}, ...["label", "class", ...(scores ? ["nGWP", "focal", "score"] : [])].map((text, n) =>
      make("th", { text, scope: "col", className: n > 1 ? "ws-number" : "" })));
    maps.forEach((text) => make("th.ws-number", { parent: head, text, scope: "col" }));
    const title = make("caption", { text: maps.length
      ? `Classes of this image · IoU in % of each map${other ? ", and its difference to the other run in points" : ""}`
      : "Classes of this image (it has no mask, hence no IoU)" });
    const body = make("tbody", {});
    for (const c of shown) {
      const row = make("tr", { parent: body, dataset: { class: c }, className: heatOf === c ? "ws-on" : "" });
      const box = make("input", { type: "checkbox", checked: c === 0 || told[c - 1], disabled: c === 0 || !known(c),
        ariaLabel: `image-level label ${classes[c].name}`, on: { change: () => switched(c, box.checked) } });
      make("td", { parent: row }, box);
      const name = make("button.ws-class", { type: "button", title: "show this class as heat",
        ariaPressed: heatOf === c, on: { click: () => heat(heatOf === c ? null : c) } });
      name.append(make("i.ws-swatch", { style: `background: ${classes[c].colour}` }), classes[c].name);
      make("td", { parent: row }, name);
      for (const kind of scores ? ["nGWP", "focal", "score"] : [])
        make("td.ws-number", { parent: row, text: signed(scores[kind][c]) });
      for (const map of maps) cellOf(row, iou[map][c], other ? other[map]?.[c] ?? null : undefined);
    }
    table.replaceChildren(title, make("thead", {}, head), body);
    const absent = classes.map((c, k) => [k, c.name]).filter(([k]) => k && known(k) && !shown.includes(k));
    setOptions(more, [["", "another label …"], ...absent], "");
    more.hidden = !absent.length;
  }
  return { show };
}
