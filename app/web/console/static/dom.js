// Small helpers for the page. Text is always set as text, so that nothing a model says can become markup.

/** Makes an element: h("p", {class: "x", onclick: f}, "text", child, …). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  if ("class" in attributes) element.className = attributes.class;
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

export function bytes(count) {
  if (count == null) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) { count /= 1000; at += 1; }
  return `${count >= 100 || at === 0 ? Math.round(count) : count.toFixed(1)} ${units[at]}`;
}

export function seconds(value) {
  if (value == null) return "";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 90) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

export function when(iso) {
  if (!iso) return "";
  const time = new Date(iso);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

/** A message at the foot of the page, for a while. */
export function notice(text, kind = "bad") {
  const line = h("p", { class: `notice ${kind}` }, text);
  document.getElementById("notices").append(line);
  setTimeout(() => line.remove(), 8000);
}

/** What an action gives; where it fails, null and a message. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    notice(error.message);
    return null;
  }
}

/** A table with a caption. A head that begins with # is of numbers; a telephone shows each cell under its head. */
export function table(caption, heads, rows, empty = "Nothing here yet.") {
  const number = heads.map((head) => (head.startsWith("#") ? "num" : ""));
  const names = heads.map((head) => head.replace("#", ""));
  return h("div", { class: "card scroll" }, rows.length ? h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, names.map((name, at) => (name ? h("th", { scope: "col", class: number[at] }, name) : h("td"))))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, at) => {
      const box = h("td", { class: number[at] }, cell);
      box.dataset.head = names[at];
      return box;
    }))))) : h("p", { class: "empty" }, empty));
}

/** A page's head: its title, a line on what it is, and what stands at the right. */
export function head(title, lead, ...right) {
  return h("div", { class: "head" }, h("div", {}, h("h1", {}, title), lead && h("p", { class: "lead" }, lead)), ...right);
}

export function badge(status, text = status.replace("_", " ")) {
  return h("span", { class: `badge ${status}` }, text);
}

/** Asks in a dialog: for a word where there is a label, else for yes or no. The answer: the word, true, or null. */
export function question(title, { label, note, yes = "OK", danger = false } = {}) {
  return new Promise((resolve) => {
    const field = label && h("input", { required: true, autocomplete: "off" });
    const box = h("dialog", { "aria-label": title }, h("h2", {}, title), note && h("p", { class: "note" }, note),
      h("form", { method: "dialog", onsubmit: () => { box.returnValue = "yes"; } },
        label && h("label", {}, label, field),
        h("div", { class: "acts" }, button("Cancel", () => box.close("")),
          h("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, yes))));
    box.addEventListener("close", () => {
      resolve(box.returnValue === "yes" ? field?.value.trim() ?? true : null);
      box.remove();
    });
    document.body.append(box);
    box.showModal();
  });
}

export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

export function bar(share, label, kind = "") {
  return h("progress", { max: 1, value: share ?? 0, "aria-label": label, class: kind });
}

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** A small chart of the last values, as SVG; the newest is at the right. */
export function chart(values, label, kept) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, at) => `${(100 - (values.length - 1 - at) * 100 / (kept - 1)).toFixed(1)},${(29 - 27 * value / top).toFixed(1)}`);
  const box = shape("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label });
  const first = points[0]?.split(",")[0] ?? 100;
  box.append(shape("polygon", { points: `${first},30 ${points.join(" ")} 100,30` }), shape("polyline", { points: points.join(" ") }));
  return box;
}
