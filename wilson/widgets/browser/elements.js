// What all other files build the page from: native elements with their labels, so that a keyboard and a screen reader find them.

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// An element ("div.some-class") with its properties, data attributes and listeners. Strings among the children stay text.
function make(kind, { parent, text, dataset, on, ...properties } = {}, ...children) {
  const [tag, ...classes] = kind.split("."), element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  Object.assign(element, properties);
  if (dataset) Object.assign(element.dataset, dataset);
  for (const event in on) element.addEventListener(event, on[event]);
  if (text !== undefined) element.append(text);
  if (children.length) element.append(...children);
  parent?.append(element);
  return element;
}

function labelled(parent, label, control, cls = "") {
  make("label", { parent, className: `ws-field ${cls}` }, make("span", { text: label }), control);
  return control;
}

function setOptions(select, options, value) { // options: [value, text]
  select.replaceChildren(...options.map(([v, text]) => make("option", { value: String(v), text })));
  select.value = String(value);
}

function chooser(parent, label, cls, chosen) {
  return labelled(parent, label, make("select", { on: { change: (e) => chosen(e.target.value) } }), cls);
}

function slider(parent, label, cls, { min, max, step, digits = 2 }, moved) {
  const shown = make("output");
  const input = make("input", { type: "range", min, max, step, on: {
    input: () => { show(); moved(Number(input.value)); } } });
  const show = () => { shown.textContent = Number(input.value).toFixed(digits); };
  labelled(parent, label, input, `ws-slider ${cls}`).after(shown);
  return { input, set(value) { input.value = value; show(); }, get: () => Number(input.value) };
}

function number(parent, label, cls, { min, max, step }, changed) {
  const input = make("input", { type: "number", step, on: { change: () => { if (input.checkValidity()) changed(Number(input.value)); } } });
  for (const [name, value] of Object.entries({ min, max })) if (value !== undefined) input[name] = value;
  labelled(parent, label, input, cls);
  return { input, set(value) { input.value = value; } };
}

function toggle(parent, label, cls, changed) {
  const box = make("input", { type: "checkbox", on: { change: () => changed(box.checked) } });
  make("label", { parent, className: `ws-check ${cls}` }, box, make("span", { text: label }));
  return box;
}

function button(parent, text, cls, pressed, title = "") {
  return make("button", { parent, type: "button", text, className: cls, title, on: { click: pressed } });
}
