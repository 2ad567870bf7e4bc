// The contact sheet: every asset with its pictures, drawn only where one looks. Rows have one height, so that ten
// thousand pictures scroll like ten.

import { h, icon, number, plural } from "./dom.js";
import { ensure, focusAt, focused, model, setSpot } from "./model.js";

const SIZES = [96, 148, 208];
const WHO = 236; // width of the column that says which asset it is
const PAD = 44; // caption, gaps and border of a row, in height
const LABELS = {
  approved: ["good", "Approved"],
  rejected: ["bad", "Rejected"],
  rerolled: ["hold", "Queued"],
  waiting: ["hold", "Held back"],
  trouble: ["bad", "No usable picture"],
};

let frame; // scrolls
let field; // as high as all rows
let drawn = new Map(); // index -> { element, card, key, mark }
let geometry = { size: 148, row: 1, columns: 1, height: 0 };
let sideways = new Map(); // asset key -> how far its pictures are scrolled
let open = () => {};

export function sheetView({ onOpen }) {
  open = onOpen;
  drawn = new Map();
  field = h("div", { class: "field" });
  frame = h("div", { class: "sheet", role: "list", "aria-label": "Assets" }, field);
  frame.addEventListener("scroll", redraw, { passive: true });
  // Scrolling does not bubble; caught on its way down it tells which rows were moved sideways.
  field.addEventListener("scroll", ({ target }) => sideways.set(target.parentElement.dataset.key, target.scrollLeft), { capture: true, passive: true });
  new ResizeObserver(() => { draw({ all: measure() }); }).observe(frame);
  return frame;
}

export function sizeIndex() {
  let at = 1;
  try { at = Number(localStorage.getItem("assetmill-size") ?? 1); } catch { /* storage is off */ }
  return SIZES[at] ? at : 1;
}

export function setSize(at) {
  try { localStorage.setItem("assetmill-size", at); } catch { /* storage is off */ }
  measure();
  draw({ all: true });
  showFocus();
}

// What fits where; says whether rows must look otherwise than before.
function measure() {
  const before = JSON.stringify({ ...geometry, height: 0 });
  const size = SIZES[sizeIndex()];
  // As wide as most assets need; a row with more pictures scrolls sideways.
  const counts = [...model.cards.values()].map((card) => card.pictures.length).sort((a, b) => a - b);
  const most = Math.min(Math.max(counts[Math.floor(counts.length * 0.8)] || 1, 1), 8);
  const width = frame.clientWidth - 24;
  const narrow = width < 620;
  const wanted = (narrow ? 0 : WHO) + most * (size + 10) + 40;
  const columns = Math.min(Math.max(Math.floor(width / wanted), 1), 3);
  const facts = !narrow && width / columns > wanted + 290;
  const fits = Math.floor((width / columns - (narrow ? 20 : WHO + 30) - (facts ? 274 : 0)) / (size + 10));
  geometry = { size, columns, narrow, facts, fits, row: size + PAD + (narrow ? 58 : 0), height: frame.clientHeight };
  field.style.setProperty("--size", `${size}px`);
  field.style.setProperty("--columns", columns);
  field.classList.toggle("narrow", narrow);
  return JSON.stringify({ ...geometry, height: 0 }) !== before;
}

export function drawSheet() {
  measure();
  draw({ all: true });
}

function range() {
  const { row, columns, height } = geometry;
  const top = Math.floor(frame.scrollTop / row) - 2;
  const bottom = Math.ceil((frame.scrollTop + height) / row) + 2;
  return [Math.max(top * columns, 0), Math.min(bottom * columns, model.keys.length)];
}

// Draws the rows in view: those that are new, those whose asset or focus changed, or all of them. Whatever is read of
// the layout is read before anything is written: each read after a write would lay out the page once more.
function draw({ all = false } = {}) {
  if (!frame?.isConnected) return;
  const { row, columns } = geometry;
  const [from, to] = range();
  const wasFocused = frame.contains(document.activeElement?.closest?.(".thumb") ?? null);
  const height = `${Math.ceil(model.keys.length / columns) * row}px`;
  if (field.style.height !== height) field.style.height = height;
  for (const [i, { element }] of drawn) {
    if (i < from || i >= to) {
      element.remove();
      drawn.delete(i);
    }
  }
  const fresh = document.createDocumentFragment();
  for (let i = from; i < to; i++) {
    const key = model.keys[i];
    const card = model.cards.get(key);
    const old = drawn.get(i);
    const mark = i === model.focus ? `${model.spot} ${model.marked.join()}` : "";
    if (old && !all && old.card === card && old.key === key && old.mark === mark) continue;
    const element = card ? rowOf(card, i, old?.key === key ? old.element : null) : h("article", { class: "row empty-row", role: "listitem" });
    element.style.transform = `translate(${(i % columns) * 100}%, ${Math.floor(i / columns) * row}px)`;
    element.style.height = `${row - 8}px`;
    if (old) old.element.replaceWith(element);
    else fresh.append(element);
    const aside = sideways.get(key);
    if (aside) requestAnimationFrame(() => { element.querySelector(".strip").scrollLeft = aside; });
    drawn.set(i, { element, card, key, mark });
  }
  if (fresh.childNodes.length) field.append(fresh);
  if (wasFocused) thumbElement()?.focus({ preventScroll: true });
  ensure(from - 10, to + 40);
}

// At most one drawing a frame, however much changes or however fast one scrolls.
let waiting = false;
export function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function thumbElement() {
  return drawn.get(model.focus)?.element.querySelector(`.thumb[data-blob="${CSS.escape(model.spot)}"]`);
}

// Brings the asset in focus into view; gives it the keyboard where the sheet has it.
export function showFocus({ take = true } = {}) {
  if (!frame?.isConnected || !model.keys.length) return;
  const { row, columns } = geometry;
  const top = Math.floor(model.focus / columns) * row;
  const room = geometry.height;
  const at = frame.scrollTop;
  if (top < at + 8) frame.scrollTop = Math.max(top - row * 0.35, 0);
  else if (top + row > at + room) frame.scrollTop = top + row * 1.35 - room;
  draw();
  const thumb = thumbElement();
  if (thumb && take) thumb.focus({ preventScroll: true });
  if (thumb && focused().pictures.length > geometry.fits) thumb.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// The row of an asset. Images of the row it takes the place of are moved over, not loaded and decoded again.
function rowOf(card, index, old) {
  const images = new Map(old ? [...old.querySelectorAll("img")].map((img) => [img.getAttribute("src"), img]) : []);
  const here = index === model.focus;
  const label = card.statuses.find((s) => LABELS[s]);
  const chips = [];
  if (label) {
    const [kind, text] = LABELS[label];
    const more = label === "rerolled" && card.queued.length ? `: ${card.queued.join(", ")}` : "";
    chips.push(h("span", { class: `chip ${kind}`, title: text + more }, text + more));
  }
  if (label !== "rerolled" && card.queued.length) chips.push(h("span", { class: "chip hold" }, `Queued: ${card.queued.join(", ")}`));
  if (card.statuses.includes("published")) chips.push(h("span", { class: "chip" }, "Published"));
  if (card.notes) chips.push(h("span", { class: "chip" }, plural(card.notes, "note")));
  if (card.cut) chips.push(h("span", { class: "chip faint" }, `${card.cut} cut mid-way`));
  const who = h("div", { class: "who" },
    h("button", { type: "button", class: "id", tabindex: "-1", title: `Open ${card.id}`, onclick: async () => { await focusAt(index); open(); } }, card.id),
    card.title ? h("span", { class: "title" }, card.title) : null,
    h("span", { class: "text", title: card.text }, card.text || card.reason),
    h("span", { class: "chips" }, chips));
  const thumbs = card.pictures.map((p, n) => thumb(card, p, n, index, here, images));
  if (!thumbs.length) thumbs.push(h("p", { class: "none" }, card.reason || "No pictures yet: the next run makes them."));
  return h("article", { class: `row${here ? " here" : ""} is-${label || "review"}`, role: "listitem", "aria-label": card.id, dataset: { key: card.key } },
    who, h("div", { class: "strip" }, thumbs),
    geometry.facts && card.facts.length ? h("dl", { class: "facts" }, card.facts.map(([name, text]) => [h("dt", {}, name), h("dd", { title: text }, text)])) : null);
}

// Words for what is known of a picture, for those who cannot see it.
export function describe(card, p, n) {
  const parts = [`picture ${n + 1} of ${card.pictures.length} of ${card.id}: ${card.text}`];
  if (p.score !== null) parts.push(`score ${number(p.score)}`);
  if (p.taste) parts.push(`the house ranker adds ${signed(p.taste)}`);
  if (p.other) parts.push("of another prompt than the chosen");
  if (p.approved) parts.push("approved");
  if (p.rejected !== null) parts.push(`rejected${p.rejected ? `: ${p.rejected}` : ""}`);
  if (p.refused) parts.push(`refused by a gate: ${p.refused}`);
  if (p.published) parts.push("published");
  if (p.adopted) parts.push("from outside");
  return parts.join(", ");
}

export function captionOf(p, n) {
  if (p.refused) return p.refused;
  if (p.rejected) return p.rejected;
  if (p.score === null) return p.adopted ? "from outside" : `${n + 1}`;
  const score = p.taste ? `${number(p.score)} ${signed(p.taste)}` : number(p.score);
  return p.other ? `${score} · other prompt` : score;
}

// What taste adds to a score, with its sign.
export const signed = (value) => `${value < 0 ? "−" : "+"}${number(Math.abs(value))}`;

export function image(p, { large = false, alt = "" } = {}) {
  const small = Math.max(p.width, p.height) < 320;
  const img = h("img", {
    src: large ? `/pictures/${p.blob}.webp` : `/thumbnails/${p.blob}.webp`, alt, decoding: "async", draggable: false,
    class: small ? "small" : "",
  });
  img.addEventListener("error", () => img.classList.add("broken"), { once: true });
  return img;
}

export function pictureClass(p, here) {
  return [
    "thumb", here && p.blob === model.spot ? "spot" : "", p.approved ? "approved" : "",
    p.rejected !== null ? "rejected" : "", p.refused ? "refused" : "", p.other ? "other" : "", here && model.marked.includes(p.blob) ? "marked" : "",
  ].join(" ");
}

export function badges(p, here = false) {
  const found = [];
  if (p.approved) found.push(h("span", { class: "badge good", title: "Approved" }, icon("check")));
  else if (p.rejected !== null) found.push(h("span", { class: "badge bad", title: "Rejected" }, icon("cross")));
  if (p.published) found.push(h("span", { class: "badge published", title: "Published" }, icon("globe")));
  if (here && model.marked.includes(p.blob)) found.push(h("span", { class: "badge mark", title: "Marked for comparing" }, String(model.marked.indexOf(p.blob) + 1)));
  return found;
}

function thumb(card, p, n, index, here, images) {
  const spot = here && p.blob === model.spot;
  const choose = async () => {
    if (model.focus !== index) await focusAt(index, { spot: p.blob });
    else setSpot(p.blob);
  };
  return h("button", {
    type: "button", class: pictureClass(p, here), dataset: { blob: p.blob }, tabindex: spot ? "0" : "-1",
    "aria-label": describe(card, p, n), "aria-pressed": String(p.approved), onclick: choose,
    ondblclick: async () => { await choose(); open(); },
  }, framed(p, here, images.get(`/thumbnails/${p.blob}.webp`)), h("span", { class: "caption" }, captionOf(p, n)));
}

// A small copy in a frame of its own shape, with what was decided on it.
export function framed(p, here, img = image(p)) {
  const frame = h("span", { class: "frame" }, img, badges(p, here));
  const ratio = p.width / p.height || 1;
  frame.style.width = `${Math.min(ratio, 1) * 100}%`;
  frame.style.aspectRatio = String(ratio);
  return h("span", { class: "hold" }, frame);
}
