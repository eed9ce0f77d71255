// What a step's rule turns on: a control for every parameter of its links; every change gives the whole rule.
function createRuleControls(root, changed) {
  let trained = null, rule = null, built = "";
  const groups = make("div.ws-links", { parent: root });
  const controls = new Map(); // by parameter: shows a value
  const foot = make("div.ws-row", { parent: root });
  const reset = button(foot, "as trained", "ws-reset", () => { show(trained); changed(null); }, "back to the rule of the run");
  const differs = make("span.ws-dim.ws-differs", { parent: foot });

  function change(name, value) {
    rule = { ...rule, [name]: value };
    showChanges();
    changed(name);
  }

  // A control for { name, label, help, kind, choices, min, max, step }; gives the function that shows a value.
  function control(parent, { name, label, help, kind, choices, min, max, step }) {
    const cls = `ws-${name.replaceAll("_", "-")}`, moved = (v) => change(name, v);
    if (kind === "bool") {
      const box = toggle(parent, label, cls, moved);
      box.title = help;
      return (v) => { box.checked = v; };
    }
    if (choices.length) {
      const select = chooser(parent, label, cls, (v) => moved(choices.find((c) => String(c) === v)));
      setOptions(select, choices.map((c) => [c, c]), choices[0]);
      select.title = help;
      return (v) => { select.value = String(v); };
    }
    if (kind === "int" || kind === "float") {
      const limits = Object.fromEntries(Object.entries({ min, max }).filter(([, v]) => v !== null));
      const digits = kind === "int" ? 0 : 2, any = step ?? (max - min) / 100;
      const made = min !== null && max !== null ? slider(parent, label, cls, { min, max, step: any, digits }, moved)
        : number(parent, label, cls, { ...limits, step: step ?? "any" }, moved);
      made.input.title = help;
      return made.set;
    }
    const text = labelled(parent, label, make("input", { type: "text", title: help, on: { change: () => moved(text.value) } }), cls);
    return (v) => { text.value = v; };
  }

  function build(described) {
    if (JSON.stringify(described) === built) return;
    built = JSON.stringify(described);
    controls.clear();
    groups.replaceChildren(...described.map(({ title, params }) => {
      const group = make("fieldset", {}, make("legend", { text: title }));
      for (const param of params) controls.set(param.name, control(group, param));
      return group;
    }));
  }

  function showChanges() {
    const names = Object.keys(trained).filter((n) => trained[n] !== rule[n]);
    differs.textContent = names.length ? `changed: ${names.join(", ")}` : "";
    reset.disabled = !names.length;
  }

  function show(values) {
    rule = { ...values };
    for (const [name, set] of controls) set(rule[name]);
    showChanges();
  }
  return {
    set(values, described) { // of the run, and what the controls are made of
      build(described);
      trained = values;
      show(values);
    },
    get: () => rule,
    changed: () => !reset.disabled,
  };
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
