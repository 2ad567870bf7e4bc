// What the page knows: the list of assets, their cards, what is being looked at, and what was done (to be undone).
//
// A decision shows at once and is sent behind it. Posts about one asset go one after the other, each with the number
// of the last decision that was seen here. When the server refuses one (409: somebody was faster), its card comes back
// as it really is.

import { get, post } from "./api.js";

export const model = {
  start: null,
  overview: null,
  filter: { status: "review" },
  keys: [],
  cards: new Map(),
  focus: 0, // index into keys
  spot: "", // blob of the picture in focus
  marked: [], // blobs marked for comparing, of the asset in focus
  view: "sheet",
  blind: false,
  undoable: [],
  done: 0,
};

const listeners = new Set();
export function watch(listener) { listeners.add(listener); }
export function changed(what) { for (const listener of listeners) listener(what); }

export const query = () => ({ ...model.filter, blind: model.blind });

export function keep(cards) {
  for (const card of cards) {
    if (!pending.has(card.key)) model.cards.set(card.key, card);
  }
}

let loads = 0;
export async function loadList({ focusKey } = {}) {
  const mine = ++loads;
  const found = await get("/api/assets", query());
  if (mine !== loads) return;
  model.cards.clear();
  model.keys = found.keys;
  keep(found.cards);
  const at = focusKey ? found.keys.indexOf(focusKey) : 0;
  model.focus = Math.max(at, 0);
  model.marked = [];
  spotFirst();
  changed("list");
}

const asked = new Set();
export async function ensure(from, to) {
  const missing = [];
  for (let i = Math.max(from, 0); i < Math.min(to, model.keys.length); i++) {
    const key = model.keys[i];
    if (!model.cards.has(key) && !asked.has(key)) missing.push(key);
  }
  for (let start = 0; start < missing.length; start += 60) {
    const part = missing.slice(start, start + 60);
    for (const key of part) asked.add(key);
    try {
      const found = await get("/api/cards", { keys: part.join(","), blind: model.blind });
      keep(found.cards);
      changed("cards");
    } finally {
      for (const key of part) asked.delete(key);
    }
  }
}

export async function refreshCards(keys) {
  if (!keys.length) return;
  const found = await get("/api/cards", { keys: keys.slice(0, 150).join(","), blind: model.blind });
  keep(found.cards);
  changed("cards");
}

export async function loadOverview() {
  const before = model.overview?.decisions;
  model.overview = await get("/api/overview", { run: model.filter.run || "" });
  changed("overview");
  return before !== undefined && before !== model.overview.decisions;
}

// --- focus ---

export const focused = () => model.cards.get(model.keys[model.focus]);
export const spotted = () => focused()?.pictures.find((p) => p.blob === model.spot);

export function pictures(card) { return card ? card.pictures : []; }

// Which picture to look at first: the approved one, else the best that nobody turned down.
function firstSpot(card) {
  const list = pictures(card);
  return (list.find((p) => p.approved) || list.find((p) => !p.refused && p.rejected === null) || list[0])?.blob || "";
}

export function spotFirst() { model.spot = firstSpot(focused()); }

export async function focusAt(index, { spot } = {}) {
  if (!model.keys.length) return;
  model.focus = Math.min(Math.max(index, 0), model.keys.length - 1);
  model.marked = [];
  if (!focused()) await ensure(model.focus - 5, model.focus + 30);
  else ensure(model.focus - 5, model.focus + 30);
  model.spot = spot || firstSpot(focused());
  changed("focus");
}

export function moveSpot(step) {
  const list = pictures(focused());
  if (!list.length) return;
  const at = list.findIndex((p) => p.blob === model.spot);
  model.spot = list[Math.min(Math.max(at + step, 0), list.length - 1)].blob;
  changed("focus");
}

export function setSpot(blob) {
  model.spot = blob;
  changed("focus");
}

const open = (card) => !card || card.statuses.includes("review");

// The next asset that is still to be reviewed, from here on and then from the top; -1 when there is none.
export function nextOpen(step = 1) {
  const count = model.keys.length;
  for (let n = 1; n < count; n++) {
    const i = (model.focus + n * step + n * count) % count;
    if (open(model.cards.get(model.keys[i]))) return i;
  }
  return -1;
}

// --- deciding ---

const pending = new Map(); // asset key -> promise of its last post

function show(card, kind, { blob, reason = "" }) {
  const next = { ...card, pictures: card.pictures.map((p) => ({ ...p })) };
  const at = next.pictures.find((p) => p.blob === blob);
  if (kind === "approve" && at) { at.approved = true; at.rejected = null; }
  if (kind === "reject" && at) { at.rejected = reason; at.approved = false; }
  if (kind === "reject-all") for (const p of next.pictures) if (!p.refused && p.rejected === null) { p.rejected = reason; p.approved = false; }
  if (kind === "reopen") for (const p of next.pictures) if (!blob || p.blob === blob) { p.approved = false; if (blob) p.rejected = null; }
  const rest = next.statuses.filter((s) => s === "published" || s === "waiting");
  const left = next.pictures.some((p) => !p.refused && p.rejected === null);
  if (next.pictures.some((p) => p.approved)) next.status = "approved";
  else if (kind === "reject" || kind === "reject-all") next.status = "rejected";
  else if (kind === "reroll" || kind === "vary") next.status = "rerolled";
  else if (kind === "reopen") next.status = "open";
  if (next.status === "approved") next.statuses = ["approved", ...rest.filter((s) => s !== "waiting")];
  else if (next.status === "rerolled") next.statuses = ["rerolled", ...rest];
  else next.statuses = [left ? "review" : next.status === "open" ? "trouble" : "rejected", ...rest];
  return next;
}

// Decides about an asset. `kind` as in the records, or "reject-all". Gives true when the server took it.
export function decide(key, kind, values = {}, { undoable = true, shown = true } = {}) {
  const before = model.cards.get(key);
  const path = kind === "reject-all" ? "reject-all" : "decide";
  const order = before.pictures.map((p) => p.blob);
  if (shown) model.cards.set(key, show(before, kind, values));
  changed("cards");
  const behind = pending.get(key) || Promise.resolve(before);
  const job = behind.then(async (known) => {
    if (!known) return null; // the one before it was refused: this one was about something else
    const body = { ...values, kind, seen: known.number, order, run: model.filter.run || "" };
    const found = await post(`/api/assets/${key}/${path}`, body, { blind: model.blind });
    if (undoable) remember({ key, id: before.id, kind, decisions: found.decisions.map((d) => [key, d.number]) });
    return found.card;
  });
  const settled = job.then(
    (card) => ({ card, error: null }),
    (error) => ({ card: error.data?.card || null, error }),
  );
  const link = settled.then(({ card, error }) => (error ? null : card));
  pending.set(key, link);
  return settled.then(({ card, error }) => {
    if (pending.get(key) === link) {
      pending.delete(key);
      if (card) model.cards.set(key, card);
      else if (error) model.cards.set(key, before);
    }
    if (error) changed({ refused: error, key, id: before.id, kind });
    else model.done += 1;
    changed("cards");
    return !error;
  });
}

// What can be undone outlives a reload of this window.
function keepUndoable() {
  try { sessionStorage.setItem("assetmill-undo", JSON.stringify(model.undoable)); } catch { /* storage is off or full */ }
}

export function recallUndoable() {
  try { model.undoable = JSON.parse(sessionStorage.getItem("assetmill-undo")) || []; } catch { model.undoable = []; }
}

export function remember(step) {
  model.undoable.push(step);
  if (model.undoable.length > 200) model.undoable.shift();
  keepUndoable();
}

// Takes back the last thing done in this window; gives what it was, or null when there is nothing.
export async function undo() {
  await Promise.all(pending.values());
  const step = model.undoable.pop();
  if (!step) return null;
  keepUndoable();
  if (step.decisions.length === 1) {
    const [key, undone] = step.decisions[0];
    if (!model.cards.has(key)) await refreshCards([key]);
    if (model.cards.has(key)) {
      const fine = await decide(key, "undo", { undoes: undone }, { undoable: false, shown: false });
      return fine ? step : null;
    }
  }
  const found = await post("/api/undo", { decisions: step.decisions }, { blind: model.blind });
  keep(found.cards);
  changed("cards");
  return { ...step, stale: found.stale };
}
