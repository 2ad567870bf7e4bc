// The page put together: views, keys, and what each of them does.

import { Refusal, get, post, upload } from "./api.js";
import { buildBar, buildFilters, drawBar, drawLine, drawTools, focusSearch, toggleFilters } from "./bar.js";
import { compareView, compareZoom, comparedBlobs, drawCompare, pickPane, toggleDifferences } from "./compare.js";
import { askAgain, askBulk, askFile, askName, askNote, askReason, askVary, busy, confirmFile, showHelp } from "./dialogs.js";
import { h, plural, toast, when } from "./dom.js";
import {
  changed, decide, focusAt, focused, keep, loadList, loadOverview, model, moveSpot, nextOpen, refreshCards, remember, recallUndoable,
  setSpot, spotted, undo, watch,
} from "./model.js";
import { drawSheet, redraw, setSize, sheetView, showFocus, sizeIndex } from "./sheet.js";
import { detailOf, drawSingle, forgetDetails, singleView, singleZoom } from "./single.js";

const GROUNDS = ["checker", "black", "white"];
const view = document.getElementById("view");
const line = document.getElementById("line");
let lastReason = "";
let ground = 0;

// --- views ---

function setView(name) {
  model.view = name;
  document.body.dataset.view = name;
  writeAddress();
}

function showSheet() {
  setView("sheet");
  view.replaceChildren(sheetView({ onOpen: showSingle }));
  drawSheet();
  showFocus();
  showEmpty();
}

function showEmpty() {
  const old = view.querySelector(".empty");
  if (model.view !== "sheet" || model.keys.length) { old?.remove(); return; }
  if (old) return;
  const status = model.filter.status;
  const text = status === "review" ? "Nothing left to review here." : "No asset passes this filter.";
  view.append(h("div", { class: "empty" }, h("p", {}, text), status ? h("button", { type: "button", class: "button", onclick: () => setFilter({ status: "" }) }, "Show all assets") : null));
}

function showSingle() {
  if (!focused()) return;
  setView("single");
  view.replaceChildren(singleView(handlers));
  drawSingle();
  view.focus({ preventScroll: true });
}

function showCompare(pictures) {
  if (pictures.length < 2) { toast("There is only one picture to look at."); return; }
  setView("compare");
  view.replaceChildren(compareView(pictures, handlers));
  const first = pictures.find((p) => typeof p === "string");
  if (first && !pictures.includes(model.spot)) model.spot = first;
  drawCompare();
  view.focus({ preventScroll: true });
}

function back() {
  if (model.view === "compare") showSingle();
  else if (model.view === "single") showSheet();
  else showFocus();
}

function draw(what) {
  if (what?.refused) { tellRefusal(what); return; }
  if (what === "overview") { drawBar(); return; }
  if (what === "list") { drawLine(line); if (model.view === "sheet") { drawSheet(); showFocus({ take: !inField() }); showEmpty(); } else if (focused()) drawSingleOrCompare(); else showSheet(); return; }
  if (model.view === "sheet") { if (what === "focus") showFocus(); else redraw(); } else drawSingleOrCompare(what);
}

let comparedKey = "";
function drawSingleOrCompare(what) {
  if (model.view === "compare" && what === "focus" && focused()?.key !== comparedKey) { showSingle(); return; }
  if (model.view === "compare") drawCompare();
  else drawSingle();
}

function tellRefusal({ refused, id, kind }) {
  const taken = refused.data?.taken;
  if (refused.status === 409) {
    const who = taken ? `${taken.by} ${{ approve: "approved", reject: "rejected", reopen: "reopened" }[taken.kind] || "decided on"} it at ${when(taken.at)}` : "somebody decided on it meanwhile";
    toast(`${id}: ${who}. Yours was not kept; look again.`, { kind: "bad", action: ["Show", () => goTo(id)] });
    return;
  }
  if (refused.data?.reload) { toast(refused.message, { kind: "bad", action: ["Reload", () => location.reload()] }); return; }
  if (refused.status === 428) { rename(); return; }
  toast(`${id}: ${kind} was not kept: ${refused.message}`, { kind: "bad" });
}

async function goTo(id) {
  let at = model.keys.findIndex((key) => model.cards.get(key)?.id === id);
  if (at < 0) { await setFilter({ status: "" }); at = model.keys.findIndex((key) => model.cards.get(key)?.id === id); }
  if (at >= 0) await focusAt(at);
}

// --- what keys and buttons do ---

function moveOn() {
  const next = nextOpen();
  if (next >= 0) { focusAt(next); return; }
  changed("focus");
  toast("Nothing is left to review here.", { kind: "good" });
}

function approve() {
  const card = focused(), picture = spotted();
  if (!card || !picture) return;
  if (!picture.approved) {
    decide(card.key, "approve", { blob: picture.blob }).then((fine) => { forgetDetails(`${card.key} ${model.blind}`); if (fine) soon(); });
    tell(`Approved ${card.id}`);
  }
  if (model.view === "compare") showSingle();
  moveOn();
}

function rejectWith(reason) {
  const card = focused(), picture = spotted();
  if (!card || !picture) return;
  lastReason = reason;
  decide(card.key, "reject", { blob: picture.blob, reason }).then((fine) => { forgetDetails(`${card.key} ${model.blind}`); if (fine) soon(); });
  tell(`Rejected a picture of ${card.id}${reason ? `: ${reason}` : ""}`);
  const left = focused().pictures.filter((p) => !p.refused && p.rejected === null && (model.view !== "compare" || comparedBlobs().includes(p.blob)));
  if (left.length) setSpot(left[0].blob);
  else { if (model.view === "compare") showSingle(); moveOn(); }
}

async function reject() {
  if (!spotted()) return;
  const found = await askReason(model.start.reasons);
  if (found) rejectWith(found.reason);
}

async function rejectAll() {
  const card = focused();
  if (!card?.pictures.length) return;
  const found = await askReason(model.start.reasons, `Reject all pictures of ${card.id}: why?`);
  if (!found) return;
  lastReason = found.reason;
  decide(card.key, "reject-all", { reason: found.reason }).then((fine) => { if (fine) soon(); });
  tell(`Rejected all pictures of ${card.id}`);
  moveOn();
}

function reopen() {
  const card = focused(), picture = spotted();
  if (!card) return;
  if (card.status !== "approved" && picture?.rejected === null) { toast(`${card.id} is open.`); return; }
  decide(card.key, "reopen", { blob: picture && (picture.approved || picture.rejected !== null) ? picture.blob : "" }).then((fine) => { forgetDetails(`${card.key} ${model.blind}`); if (fine) soon(); });
  tell(`Reopened ${card.id}`);
}

async function undoLast() {
  let step;
  try { step = await undo(); } catch (error) { toast(error.message, { kind: "bad" }); return; }
  if (!step) { if (!model.undoable.length) toast("Nothing to undo in this window."); return; }
  const keys = [...new Set(step.decisions.map(([key]) => key))];
  if (keys.length === 1) {
    forgetDetails();
    const at = model.keys.indexOf(keys[0]);
    if (at >= 0) await focusAt(at);
    toast(`Undone: ${step.kind} of ${step.id}`);
  } else {
    await loadList({ focusKey: model.keys[model.focus] });
    toast(step.stale?.length ? `Undone, but for ${step.stale.join(", ")}: somebody decided on them since.` : `Undone: ${step.kind} of ${plural(keys.length, "asset")}`, { kind: step.stale?.length ? "bad" : "" });
  }
  soon();
}

async function note() {
  const card = focused();
  if (!card) return;
  const text = await askNote();
  if (text && await decide(card.key, "note", { note: text }, { shown: false })) { forgetDetails(); changed("cards"); tell(`Noted on ${card.id}`); }
}

async function again() {
  const card = focused(), picture = spotted();
  if (!card) return;
  if (card.status === "approved") { toast(`${card.id} is approved and stays as it is; reopen it first (O).`); return; }
  const detail = await detailOf(card.key);
  const found = await askAgain(card, picture ? detail.made[picture.blob] : Object.values(detail.made)[0]);
  if (found) queue(card, "reroll", found);
}

async function vary() {
  const card = focused(), picture = spotted();
  if (!card || !picture) return;
  if (card.status === "approved") { toast(`${card.id} is approved and stays as it is; reopen it first (O).`); return; }
  const found = await askVary(card, picture);
  if (found) queue(card, "vary", { ...found, blob: picture.blob });
}

async function queue(card, kind, values) {
  const job = decide(card.key, kind, values);
  const at = model.focus;
  if (await job) {
    forgetDetails();
    const now = model.cards.get(card.key);
    toast(`${card.id} is queued for the next run: ${now.queued.join(", ")}`, { kind: "good" });
    soon();
    if (model.focus === at) moveOn();
  }
}

async function bulk() {
  const wanted = { ...model.filter };
  const found = await askBulk(wanted);
  if (!found) return;
  try {
    const made = await post("/api/bulk", { ...found, run: model.filter.run || "" }, { blind: model.blind });
    const assets = new Set(made.decisions.map(([key]) => key)).size;
    if (made.decisions.length) remember({ kind: "approve", id: "", decisions: made.decisions });
    await loadList();
    soon();
    toast(`Approved ${plural(made.decisions.length, "picture")} of ${plural(assets, "asset")}.${made.stale.length ? ` Left alone: ${made.stale.join(", ")}.` : ""}`, { kind: "good", seconds: 12, action: ["Undo", undoLast] });
  } catch (error) { toast(error.message, { kind: "bad" }); }
}

async function adopt(given) {
  const card = focused();
  if (!card) return;
  const file = given instanceof File ? given : await askFile(card);
  if (!file) return;
  const found = await confirmFile(card, file, model.start.sources);
  if (!found) return;
  try {
    const made = await upload(`/api/assets/${card.key}/adopt`, file, { ...found, seen: String(card.number), name: file.name, blind: model.blind });
    keep([made.card]);
    forgetDetails();
    remember({ key: card.key, id: card.id, kind: "adopt", decisions: made.decisions.map((d) => [card.key, d.number]) });
    model.spot = made.decisions.at(-1).blob;
    changed("cards");
    toast(`Brought in a picture for ${card.id}. Approve it to use it.`, { kind: "good" });
    soon();
  } catch (error) {
    if (error instanceof Refusal && error.data?.card) keep([error.data.card]);
    tellRefusal({ refused: error, id: card.id, kind: "the picture" });
    changed("cards");
  }
}

function mark() {
  if (!model.spot) return;
  const at = model.marked.indexOf(model.spot);
  if (at >= 0) model.marked = model.marked.filter((b) => b !== model.spot);
  else if (model.marked.length < 4) model.marked = [...model.marked, model.spot];
  changed("focus");
}

function compare(count = 2) {
  const card = focused();
  if (!card) return;
  comparedKey = card.key;
  if (model.marked.length > 1) { showCompare(model.marked); return; }
  const order = card.pictures.filter((p) => p.rejected === null && !p.refused);
  const first = card.pictures.find((p) => p.blob === model.spot);
  const rest = order.filter((p) => p !== first);
  showCompare([...(first ? [first] : []), ...rest].slice(0, count).map((p) => p.blob));
}

function compareWith(published) {
  const card = focused();
  if (!card || !model.spot) return;
  comparedKey = card.key;
  showCompare([model.spot, { master: published.master, blob: published.blob, label: `published, rank ${published.rank}` }]);
}

function tell(text) {
  line.querySelector(".told")?.remove();
  line.prepend(h("span", { class: "told" }, text));
}

// --- the page's own ---

let waiting;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(() => loadOverview().catch(() => {}), 250);
}

async function rename() {
  await askName(model.start.name, async (name) => {
    try {
      model.start.name = (await post("/api/name", { name })).name;
      drawBar();
      return true;
    } catch (error) {
      toast(error.message, { kind: "bad" });
      return false;
    }
  });
}

async function setFilter(change) {
  model.filter = change === null ? { status: model.filter.status } : { ...model.filter, ...change };
  for (const [name, value] of Object.entries(model.filter)) if (value === "" && name !== "status") delete model.filter[name];
  if (change && "column" in change && !change.column) delete model.filter.value;
  writeAddress();
  try {
    await Promise.all([loadList(), loadOverview()]);
  } catch (error) { toast(error.message, { kind: "bad" }); }
  if (model.view !== "sheet") showSheet();
  if (!change || !("text" in change)) buildFilters();
}

async function toggleBlind() {
  model.blind = !model.blind;
  if (model.blind) { delete model.filter.low; delete model.filter.high; delete model.filter.sort; }
  forgetDetails();
  writeAddress();
  await loadList({ focusKey: model.keys[model.focus] });
  drawBar();
  drawTools();
  buildFilters();
  toast(model.blind ? "Blind: scores and ranks are hidden, pictures shuffled." : "Scores are shown again.");
}

function toggleTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("assetmill-theme", root.dataset.theme); } catch { /* storage is off: until the page goes */ }
}

function nextGround() {
  ground = (ground + 1) % GROUNDS.length;
  document.body.dataset.ground = GROUNDS[ground];
  tell(`Ground: ${{ checker: "checkerboard", black: "black", white: "white" }[GROUNDS[ground]]}`);
}

async function reload() {
  document.querySelector("details.menu")?.removeAttribute("open");
  try {
    await post("/api/reload", {});
    model.start = await get("/api/start");
    forgetDetails();
    await Promise.all([loadList({ focusKey: model.keys[model.focus] }), loadOverview()]);
    buildFilters();
    toast("Read again.");
  } catch (error) { toast(error.message, { kind: "bad" }); }
}

let searching;
function search(text) {
  clearTimeout(searching);
  searching = setTimeout(() => setFilter({ text: text.trim() }), 160);
}

// The address holds the filter and the asset in view: it can be kept, and the back button works as one expects.
function writeAddress() {
  const parts = new URLSearchParams(model.filter);
  if (!model.filter.status) parts.set("status", "all");
  if (model.blind) parts.set("blind", "1");
  history.replaceState(null, "", `#${parts}`);
}

function readAddress() {
  const parts = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  model.blind = parts.blind === "1";
  delete parts.blind;
  if (parts.status === "all") parts.status = "";
  model.filter = { status: "review", ...parts };
}

const handlers = {
  approve, reject, reopen, undo: undoLast, note, reroll: again, vary, adopt: () => adopt(), compare: () => compare(2), compareWith, bulk,
  help: showHelp, theme: toggleTheme, blind: toggleBlind, filters: toggleFilters, rename, reload, search, back,
  status: (status) => setFilter({ status }), filter: setFilter,
};

// --- keys ---

const inField = () => ["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement?.tagName);

const pageStep = () => Math.max(Math.floor(view.clientHeight / 200), 1);
const zoomOf = () => (model.view === "compare" ? compareZoom() : model.view === "single" ? singleZoom() : null);

const KEYS = {
  a: approve, r: reject, x: () => rejectWith(lastReason), u: undoLast, o: reopen, n: note, g: again, v: vary,
  "shift+x": rejectAll, "shift+a": bulk, "shift+b": toggleBlind, "shift+c": () => compare(4), "shift+r": reload,
  m: mark, c: () => (model.view === "compare" ? back() : compare(2)), b: nextGround, t: toggleTheme, f: toggleFilters, "/": focusSearch, "?": showHelp,
  d: () => { if (model.view === "compare") toggleDifferences(); else { compare(2); if (model.view === "compare") toggleDifferences(); } },
  s: () => setSize((sizeIndex() + 1) % 3),
  arrowdown: () => focusAt(model.focus + 1), j: () => focusAt(model.focus + 1), arrowup: () => focusAt(model.focus - 1), k: () => focusAt(model.focus - 1),
  arrowright: () => moveSpot(1), l: () => moveSpot(1), arrowleft: () => moveSpot(-1), h: () => moveSpot(-1),
  "]": moveOn, "[": () => { const at = nextOpen(-1); if (at >= 0) focusAt(at); },
  home: () => focusAt(0), end: () => focusAt(model.keys.length - 1),
  pagedown: () => focusAt(model.focus + pageStep()), pageup: () => focusAt(model.focus - pageStep()),
  " ": () => (model.view === "sheet" ? showSingle() : back()), escape: back,
  enter: () => { if (model.view === "sheet") showSingle(); },
  z: () => zoomOf()?.toggle(), "+": () => zoomOf()?.by(1.4), "=": () => zoomOf()?.by(1.4), "-": () => zoomOf()?.by(1 / 1.4), 0: () => zoomOf()?.reset(),
};

function onKey(event) {
  if (event.defaultPrevented || busy() || event.ctrlKey || event.metaKey || event.altKey) return;
  if (inField() || event.target.closest?.("summary, .sheet-menu")) return;
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  if (digit) {
    const n = Number(digit) - 1;
    event.preventDefault();
    if (model.view === "compare") pickPane(n);
    else { const picture = focused()?.pictures[n]; if (picture) setSpot(picture.blob); else return; }
    if (event.shiftKey) approve();
    return;
  }
  const letter = event.key.toLowerCase();
  const name = event.shiftKey && /^[a-z]$/.test(letter) ? `shift+${letter}` : letter;
  // Enter and Space press the button they are on, unless that is a picture.
  if ((name === "enter" || name === " ") && event.target.closest?.("button, a") && !event.target.closest(".thumb")) return;
  const act = KEYS[name];
  if (!act) return;
  event.preventDefault();
  act();
}

function acceptDrops() {
  document.addEventListener("dragover", (event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    if (handlers.adopt && !busy()) adopt(file);
  });
}

async function watchOthers() {
  if (document.hidden) return;
  const moved = await loadOverview().catch(() => false);
  if (moved) await refreshCards(model.keys.slice(Math.max(model.focus - 40, 0), model.focus + 110)).catch(() => {});
}

async function boot() {
  readAddress();
  recallUndoable();
  // Side by side: what is waited for is the slowest of them, not their sum.
  [model.start] = await Promise.all([get("/api/start"), loadList(), loadOverview()]);
  document.body.dataset.ground = GROUNDS[ground];
  buildBar(document.getElementById("bar"), document.getElementById("shelf"), handlers);
  watch(draw);
  drawBar();
  buildFilters();
  showSheet();
  drawLine(line);
  document.addEventListener("keydown", onKey);
  acceptDrops();
  setInterval(watchOthers, 10000);
  document.addEventListener("visibilitychange", watchOthers);
  document.body.dataset.ready = "true";
  while (!model.start.name) await rename();
}

boot().catch((error) => {
  view.replaceChildren(h("div", { class: "empty" }, h("p", {}, `The page could not start: ${error.message}`)));
});
