// Two to four pictures side by side, zoomed and moved together, and what differs in how they were made.

import { button, h, icon, number } from "./dom.js";
import { focused, model, setSpot } from "./model.js";
import { detailOf } from "./single.js";
import { badges, describe, image } from "./sheet.js";
import { Zoom } from "./zoom.js";

let root, grid, table, zoom, chosen = [], differences = false, handlers, drawnKey = "";

// `pictures` are blobs of the asset in focus; an entry may also be { master, label } for a published picture.
export function compareView(pictures, given) {
  handlers = given;
  chosen = pictures.slice(0, 4);
  drawnKey = "";
  grid = h("div", { class: `compare-grid n${chosen.length}` });
  table = h("div", { class: "differences", hidden: true });
  root = h("div", { class: "compare" }, grid, table);
  return root;
}

export const compareZoom = () => zoom;
export const comparedBlobs = () => chosen.filter((c) => typeof c === "string");

export function pickPane(n) {
  const blob = chosen[n];
  if (typeof blob === "string") setSpot(blob);
}

export function toggleDifferences() {
  differences = !differences;
  drawDifferences();
}

export function drawCompare() {
  const card = focused();
  if (!card) return;
  const key = `${card.key} ${chosen.map((c) => c.master || c).join()}`;
  if (key !== drawnKey) {
    drawnKey = key;
    const kept = zoom;
    zoom = new Zoom();
    if (kept) Object.assign(zoom, { scale: kept.scale, x: kept.x, y: kept.y });
    grid.replaceChildren(...chosen.map((entry, n) => pane(card, entry, n)));
  }
  for (const element of grid.children) {
    const entry = chosen[Number(element.dataset.at)];
    const picture = card.pictures.find((p) => p.blob === entry);
    element.classList.toggle("spot", entry === model.spot);
    element.classList.toggle("approved", Boolean(picture?.approved));
    element.classList.toggle("rejected", Boolean(picture && picture.rejected !== null));
    element.querySelector(".pane-bar").replaceChildren(...bar(card, entry, picture, Number(element.dataset.at)));
  }
  drawDifferences();
}

function pane(card, entry, n) {
  const picture = card.pictures.find((p) => p.blob === entry);
  const img = picture
    ? image(picture, { large: true, alt: describe(card, picture, card.pictures.indexOf(picture)) })
    : h("img", { src: `/pictures/${entry.master}.webp`, alt: `${entry.label} of ${card.id}`, draggable: false });
  const element = h("div", { class: "pane ground", dataset: { at: n }, onpointerdown: () => pickPane(n) }, zoom.add(img), h("div", { class: "pane-bar" }));
  return element;
}

function bar(card, entry, picture, n) {
  if (!picture) return [h("b", {}, String(n + 1)), h("span", { class: "chip" }, entry.label)];
  return [
    h("b", {}, String(n + 1)),
    picture.score === null ? null : h("span", { class: "figure" }, number(picture.score)),
    ...badges(picture),
    picture.rejected ? h("span", { class: "muted" }, picture.rejected) : null,
    h("span", { class: "gap" }),
    button("Approve", () => { setSpot(picture.blob); handlers.approve(); }, { glyph: "check", kind: "good small" }),
    button("Reject", () => { setSpot(picture.blob); handlers.reject(); }, { glyph: "cross", kind: "bad small", quiet: true }),
  ].filter(Boolean);
}

async function drawDifferences() {
  table.hidden = !differences;
  if (!differences) return;
  const card = focused();
  const detail = await detailOf(card.key);
  const columns = chosen.map((c) => {
    const blob = typeof c === "string" ? c : c.blob;
    const made = detail.made[blob];
    return made ? { prompt: made.positive, negative: made.negative, ...made.settings } : {};
  });
  const names = [...new Set(columns.flatMap((c) => Object.keys(c)))].filter((name) => new Set(columns.map((c) => String(c[name] ?? ""))).size > 1);
  table.replaceChildren(names.length
    ? h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, ""), chosen.map((_, n) => h("th", { scope: "col" }, String(n + 1))))),
      h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), columns.map((c) => h("td", {}, String(c[name] ?? "—")))))))
    : h("p", { class: "muted" }, icon("check"), "Made with the same settings."));
}
