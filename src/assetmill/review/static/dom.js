// Elements from plain values. Texts only ever become text nodes: nothing from a sheet is read as markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button", { class: "x", onclick: f, "aria-label": "…" }, "text", child, …)
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const PATHS = {
  check: "M4 10.5l4 4 8-9",
  cross: "M5 5l10 10M15 5L5 15",
  undo: "M7 4L3 8l4 4M3 8h8a5 5 0 0 1 0 10H8",
  reroll: "M16 6A7 7 0 1 0 17 11M17 3v4h-4",
  vary: "M4 15c3-9 6 3 9-6l3-3M12 6h4v4",
  note: "M4 4h12v9l-4 4H4zM7 8h6M7 11h4",
  compare: "M3 4h6v12H3zM11 4h6v12h-6z",
  left: "M12 4l-6 6 6 6",
  right: "M8 4l6 6-6 6",
  search: "M9 3.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM13 13l4 4",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 1.5v2M10 16.5v2M1.5 10h2M16.5 10h2M4 4l1.4 1.4M14.6 14.6L16 16M4 16l1.4-1.4M14.6 5.4L16 4",
  eye: "M2 10s3-5 8-5 8 5 8 5-3 5-8 5-8-5-8-5zM10 7.8a2.2 2.2 0 1 0 0 4.4 2.2 2.2 0 0 0 0-4.4z",
  blind: "M2 10s3-5 8-5 8 5 8 5-3 5-8 5-8-5-8-5zM3 3l14 14",
  help: "M7.5 7.5a2.5 2.5 0 1 1 3.4 2.3c-.6.3-.9.8-.9 1.7M10 14.6v.1",
  more: "M4.5 10h.01M10 10h.01M15.5 10h.01",
  upload: "M10 13V4M6 8l4-4 4 4M4 16h12",
  pin: "M10 11v6M6 3h8l-1 5 2 3H5l2-3z",
  globe: "M10 2.5a7.5 7.5 0 1 0 0 15 7.5 7.5 0 0 0 0-15zM2.5 10h15M10 2.5c3.2 3.4 3.2 11.6 0 15M10 2.5c-3.2 3.4-3.2 11.6 0 15",
  ground: "M3 3h14v14H3zM3 10h14M10 3v14",
  sliders: "M3 6h8M15 6h2M13 4v4M3 14h2M9 14h8M7 12v4",
  reload: "M16 6A7 7 0 1 0 17 11M17 3v4h-4",
  user: "M10 3.5a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 0 0 0-6.4zM3.5 17c.8-3.4 3.4-5 6.5-5s5.7 1.6 6.5 5",
  bulk: "M2.5 10.5l3 3 6-7M9.5 13.5l.5.5 7-8",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

export function button(label, onclick, { key, glyph, kind = "", quiet = false, ...rest } = {}) {
  return h(
    "button",
    { type: "button", class: `button ${kind}`, onclick, title: key ? `${label} (${key})` : label,
      "aria-label": quiet ? label : undefined, "aria-keyshortcuts": key, ...rest },
    glyph ? icon(glyph) : null, quiet ? null : h("span", {}, label), key && !quiet ? h("kbd", {}, key) : null,
  );
}

// A line at the foot of the page that goes by itself; errors stay longer. `action` is [label, function].
export function toast(text, { kind = "", action, seconds } = {}) {
  const place = document.getElementById("toasts");
  const element = h("div", { class: `toast ${kind}` }, h("span", {}, text),
    action ? h("button", { type: "button", class: "button small", onclick: () => { element.remove(); action[1](); } }, action[0]) : null,
    h("button", { type: "button", class: "button small quiet", "aria-label": "Close", onclick: () => element.remove() }, icon("cross")));
  // The newest word takes the place of the one before it; errors stay until they are read.
  for (const old of [...place.children]) if (!old.classList.contains("bad")) old.remove();
  while (place.children.length > 2) place.firstChild.remove();
  place.append(element);
  setTimeout(() => element.remove(), (seconds ?? (kind === "bad" ? 12 : 5)) * 1000);
  return element;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString()} ${count === 1 ? one : many}`;
}

export function when(iso) {
  const date = new Date(iso);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

export function number(value, digits = 3) {
  return value === null || value === undefined ? "" : value.toFixed(digits);
}
