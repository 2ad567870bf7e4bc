// The top of the page: what is looked at, how far one has come, and the filters.

import { button, h, icon, plural } from "./dom.js";
import { model } from "./model.js";
import { setSize, sizeIndex } from "./sheet.js";

const TABS = [
  ["review", "To review"], ["approved", "Approved"], ["rejected", "Rejected"], ["rerolled", "Queued"],
  ["waiting", "Held back"], ["published", "Published"], ["trouble", "Trouble"], ["", "All"],
];
const ALWAYS = ["review", "approved", "rejected", ""];

let on;
let progress, tabs, tools, who, picks;
let searchBox;

export function buildBar(place, shelf, handlers) {
  on = handlers;
  progress = h("div", { class: "progress" });
  tabs = h("nav", { class: "tabs", "aria-label": "Status" });
  picks = h("div", { id: "filters", role: "group", "aria-label": "Filters", hidden: innerWidth < 900 });
  shelf.replaceChildren(tabs, picks);
  tools = h("div", { class: "tools" });
  who = h("button", { type: "button", class: "who-button", title: "Reviewer", onclick: on.rename });
  searchBox = h("input", { type: "search", id: "search", placeholder: "Search", "aria-label": "Search ids, columns and prompts", "aria-keyshortcuts": "/", value: model.filter.text || "",
    oninput: () => on.search(searchBox.value), onkeydown: (event) => { if (event.key === "Escape" || event.key === "Enter") { event.stopPropagation(); searchBox.blur(); on.back(); } } });
  place.replaceChildren(
    h("div", { class: "brand" }, h("img", { src: "/static/icon.svg", alt: "", width: 22, height: 22 }), h("h1", {}, model.start.config)),
    h("label", { class: "search" }, icon("search"), searchBox), h("span", { class: "gap" }), progress, tools, who);
  drawTools();
}

export function focusSearch() {
  searchBox.focus();
  searchBox.select();
}

export function drawTools() {
  tools.replaceChildren(
    button("Filters", on.filters, { key: "F", glyph: "sliders", quiet: true, "aria-pressed": String(!picks.hidden) }),
    button(model.blind ? "Blind mode is on" : "Blind mode", on.blind, { key: "Shift+B", glyph: model.blind ? "blind" : "eye", quiet: true, "aria-pressed": String(model.blind) }),
    button("Approve in bulk", on.bulk, { key: "Shift+A", glyph: "bulk", quiet: true }),
    button("Light or dark", on.theme, { key: "T", glyph: "sun", quiet: true }),
    button("Keys", on.help, { key: "?", glyph: "help", quiet: true }),
    h("details", { class: "menu" },
      h("summary", { class: "button", "aria-label": "More", title: "More" }, icon("more")),
      h("div", { class: "sheet-menu" },
        h("a", { href: "/export/decisions.csv", download: "" }, "Decisions as CSV"),
        h("a", { href: "/export/decisions.json", download: "" }, "Decisions as JSON"),
        h("button", { type: "button", onclick: on.reload }, "Read again what runs have made"),
        h("label", {}, "Size of the pictures", h("input", { type: "range", min: "0", max: "2", step: "1", value: String(sizeIndex()), oninput: (e) => setSize(Number(e.target.value)) })))));
}

export function drawBar() {
  const found = model.overview;
  who.replaceChildren(icon("user"), h("span", {}, model.start.name || "?"));
  document.body.classList.toggle("is-blind", model.blind);
  if (!found) return;
  const status = model.filter.status || "";
  const shown = TABS.filter(([name]) => ALWAYS.includes(name) || found.counts[name] || name === status);
  tabs.replaceChildren(...shown.map(([name, label]) => h("button", {
    type: "button", class: "tab", "aria-current": name === status ? "true" : undefined, onclick: () => on.status(name),
  }, label, h("span", { class: "tally" }, (found.counts[name || "all"] || 0).toLocaleString()))));
  const { left, total, pace, seconds_left: seconds } = found.progress;
  const done = total ? 1 - left / total : 1;
  const words = [left ? `${left.toLocaleString()} left` : "All done"];
  if (left && pace) words.push(`${Math.round(pace).toLocaleString()} an hour`, about(seconds));
  const meter = h("span", { class: "meter", role: "progressbar", "aria-label": "Reviewed", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": String(Math.round(done * 100)) }, h("span", {}));
  meter.firstChild.style.width = `${done * 100}%`;
  progress.replaceChildren(meter, h("span", { class: "words" }, words.join(" · ")));
}

function about(seconds) {
  if (seconds < 90) return "a minute";
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// --- filters ---

export function toggleFilters() {
  picks.hidden = !picks.hidden;
  drawTools();
  if (!picks.hidden) picks.querySelector("select")?.focus();
}

export function buildFilters() {
  const { facets, runs, sorts } = model.start;
  const filter = model.filter;
  const set = (name) => (event) => on.filter({ [name]: event.target.value });
  const select = (label, name, options, onchange = set(name)) => h("select", { "aria-label": label, class: filter[name] && filter[name] !== "sheet" ? "set" : "", onchange },
    options.map(([value, text]) => h("option", { value, selected: value === (filter[name] || "") }, text)));
  const columns = Object.keys(facets.columns);
  const values = facets.columns[filter.column] || [];
  const pickColumn = (event) => on.filter({ column: event.target.value, value: event.target.value ? facets.columns[event.target.value][0][0] : "" });
  const people = model.overview?.reviewers || [];
  const score = (label, shown, name) => h("input", { type: "number", step: "any", "aria-label": label, placeholder: shown, value: filter[name] || "", onchange: set(name) });
  const notices = model.overview?.notices || [];
  const orders = { sheet: "Sheet order", best: "Best first", worst: "Worst first", id: "By id" };
  picks.replaceChildren(...[
    select("Run", "run", [["", "All runs"], ...runs.map((r) => [r.id, `Run of ${new Date(r.started * 1000).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" })}`])]),
    facets.templates.length > 1 ? select("Template", "template", [["", "All templates"], ...facets.templates.map(([t, n]) => [t, `${t} (${n})`])]) : null,
    columns.length ? select("Column", "column", [["", "Any column"], ...columns.map((c) => [c, c])], pickColumn) : null,
    filter.column ? select("Value of the column", "value", values.map(([v, n]) => [v, `${v} (${n})`])) : null,
    model.blind ? null : score("Best score at least", "score ≥", "low"),
    model.blind ? null : score("Best score at most", "score ≤", "high"),
    people.length ? select("Reviewer", "reviewer", [["", "Any reviewer"], ...people.map((p) => [p, p])]) : null,
    select("Order", "sort", sorts.filter((s) => !model.blind || s === "sheet" || s === "id").map((s) => [s, orders[s]])),
    Object.keys(filter).some((name) => name !== "status" && name !== "text") ? button("Clear", () => on.filter(null), { kind: "small" }) : null,
    notices.length ? h("details", { class: "notices" }, h("summary", {}, plural(notices.length, "remark")), h("ul", {}, notices.map((n) => h("li", {}, n)))) : null,
  ].filter(Boolean));
}

// The line at the foot: how many are shown, and the keys that matter most.
export function drawLine(place) {
  const keys = [["A", "approve"], ["R", "reject"], ["U", "undo"], ["↓", "next"], ["Space", "open"], ["C", "compare"], ["?", "all keys"]];
  place.replaceChildren(h("span", {}, plural(model.keys.length, "asset"), model.filter.run ? " of this run" : "", model.blind ? " · blind: no scores, shuffled" : ""),
    h("span", { class: "gap" }), h("span", { class: "hints" }, keys.map(([key, what]) => h("span", {}, h("kbd", {}, key), ` ${what}`))));
}
