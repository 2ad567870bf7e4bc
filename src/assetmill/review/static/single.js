// One asset: its picture large, the others under it, and beside it all there is to know.

import { get } from "./api.js";
import { button, h, icon, number, plural, when } from "./dom.js";
import { focusAt, focused, model, setSpot, spotted } from "./model.js";
import { captionOf, describe, framed, image, pictureClass } from "./sheet.js";
import { Zoom } from "./zoom.js";

const KINDS = {
  approve: "approved", reject: "rejected", reopen: "reopened", note: "noted", reroll: "asked for more",
  vary: "asked for a variation", adopt: "brought in a picture", undo: "took back",
};

let root, stage, strip, panel, acts, zoom, shownBlob, details = new Map(), handlers;

export function singleView(given) {
  handlers = given;
  shownBlob = null;
  stage = h("div", { class: "stage ground" });
  strip = h("div", { class: "film", role: "listbox", "aria-label": "Pictures of this asset" });
  panel = h("aside", { class: "panel", "aria-label": "About this picture" });
  acts = h("div", { class: "acts" });
  root = h("div", { class: "single" }, h("div", { class: "left" }, stage, strip, acts), panel);
  return root;
}

export const singleZoom = () => zoom;
export function forgetDetails(key) { if (key) details.delete(key); else details.clear(); }

export async function detailOf(key) {
  const name = `${key} ${model.blind}`;
  if (!details.has(name)) {
    if (details.size > 60) details.delete(details.keys().next().value);
    details.set(name, get(`/api/assets/${key}`, { blind: model.blind }).catch((error) => { details.delete(name); throw error; }));
  }
  return details.get(name);
}

export function drawSingle() {
  const card = focused();
  if (!card) { root.replaceChildren(h("p", { class: "empty" }, "Nothing to show here.")); return; }
  const picture = spotted();
  drawStage(card, picture);
  strip.replaceChildren(...card.pictures.map((p, n) => h("button", {
    type: "button", role: "option", class: pictureClass(p, true), dataset: { blob: p.blob }, "aria-selected": String(p.blob === model.spot),
    "aria-label": describe(card, p, n), tabindex: p.blob === model.spot ? "0" : "-1", onclick: () => setSpot(p.blob),
  }, framed(p, true), h("span", { class: "caption" }, captionOf(p, n)))));
  strip.querySelector(".spot")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  drawActs(card, picture);
  drawPanel(card, picture, null);
  detailOf(card.key).then((found) => {
    if (focused()?.key === card.key && root.isConnected) drawPanel(card, spotted(), found);
  }, () => {});
  preload();
}

function drawStage(card, picture) {
  if (!picture) {
    shownBlob = null;
    stage.replaceChildren(h("p", { class: "empty" }, card.reason || "No pictures yet: the next run makes them."));
    return;
  }
  if (shownBlob === picture.blob) return;
  shownBlob = picture.blob;
  const kept = zoom && zoom.scale > 1.01 ? { scale: zoom.scale, x: zoom.x, y: zoom.y } : null;
  zoom = new Zoom((scale) => { const place = stage.querySelector(".zoom"); if (place) place.textContent = scale > 1.01 ? `${scale.toFixed(1)}×` : ""; });
  if (kept) Object.assign(zoom, kept);
  const n = card.pictures.indexOf(picture);
  // The small copy stands there until the large one has come: a key press answers at once.
  const img = image(picture, { large: true, alt: describe(card, picture, n) });
  img.style.backgroundSize = "";
  const pane = zoom.add(img);
  const quick = image(picture, {});
  quick.className = "quick";
  quick.alt = "";
  img.addEventListener("load", () => quick.remove(), { once: true });
  if (img.complete && img.naturalWidth) quick.remove();
  pane.prepend(quick);
  stage.replaceChildren(pane, h("span", { class: "zoom", "aria-hidden": "true" }),
    h("button", { type: "button", class: "step prev", "aria-label": "Asset before (K)", onclick: () => focusAt(model.focus - 1) }, icon("left")),
    h("button", { type: "button", class: "step next", "aria-label": "Asset after (J)", onclick: () => focusAt(model.focus + 1) }, icon("right")));
}

function preload() {
  for (const step of [1, 2]) {
    const next = model.cards.get(model.keys[model.focus + step]);
    const first = next?.pictures.find((p) => !p.refused && p.rejected === null);
    if (first) new Image().src = `/pictures/${first.blob}.webp`;
  }
}

function drawActs(card, picture) {
  const on = handlers;
  const decided = picture?.approved;
  acts.replaceChildren(
    decided ? button("Reopen", on.reopen, { key: "O", glyph: "undo" }) : button("Approve", on.approve, { key: "A", glyph: "check", kind: "good", disabled: !picture }),
    button("Reject", on.reject, { key: "R", glyph: "cross", kind: "bad", disabled: !picture }),
    button("Undo", on.undo, { key: "U", glyph: "undo" }),
    h("span", { class: "gap" }),
    button("Compare", on.compare, { key: "C", glyph: "compare", disabled: card.pictures.length < 2 && !card.statuses.includes("published") }),
    button("Again", on.reroll, { key: "G", glyph: "reroll" }),
    button("Vary", on.vary, { key: "V", glyph: "vary", disabled: !picture }),
    button("Note", on.note, { key: "N", glyph: "note" }),
    button("Bring in a picture", on.adopt, { glyph: "upload", quiet: true }),
  );
}

const row = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
const section = (title, ...content) => h("section", {}, h("h3", {}, title), ...content);

function drawPanel(card, picture, detail) {
  const made = picture && detail?.made[picture.blob];
  const at = picture ? card.pictures.indexOf(picture) + 1 : 0;
  const parts = [
    h("div", { class: "head" },
      h("h2", {}, card.id),
      card.title ? h("p", { class: "title" }, card.title) : null,
      h("p", { class: "muted" }, `Asset ${model.focus + 1} of ${model.keys.length.toLocaleString()}${at ? ` · picture ${at} of ${card.pictures.length}` : ""}`)),
  ];
  if (card.queued.length) parts.push(h("p", { class: "queue" }, icon("reroll"), `Queued for the next run: ${card.queued.join(", ")}`));
  if (card.status === "approved") parts.push(h("p", { class: "pinned" }, icon("pin"), "Approved: it stays as it is until someone reopens it."));
  if (picture?.refused) parts.push(h("p", { class: "refusal" }, icon("cross"), `Refused by a gate: ${picture.refused}`));
  if (picture?.rejected !== null && picture) parts.push(h("p", { class: "refusal" }, icon("cross"), `Rejected${picture.rejected ? `: ${picture.rejected}` : ""}`));
  if (card.reason && !card.pictures.some((p) => p.approved)) parts.push(h("p", { class: "muted" }, card.reason));
  if (detail) {
    if (made?.scores.length) {
      parts.push(section("Scores", h("dl", {}, made.scores.map((s) => row(s.judge, h("span", { class: "figure", title: s.text }, s.value === null ? "no number" : number(s.value, 4)))))));
    } else if (model.blind) parts.push(section("Scores", h("p", { class: "muted" }, "Hidden in blind mode.")));
    parts.push(section("Asked for", h("p", { class: "quote" }, made?.positive || card.text),
      made?.negative ? h("p", { class: "quote negative" }, made.negative) : null,
      made && made.positive !== card.text && card.text ? h("p", { class: "muted" }, `Judged against: ${card.text}`) : null));
    if (detail.row.columns.length) {
      const where = detail.row.lines.length ? `Sheet, row ${detail.row.lines.join(", ")}` : "Sheet";
      parts.push(section(where, h("dl", {}, detail.row.columns.map(([name, text]) => row(name, text)))));
    }
    const published = detail.published.filter((p) => p.master);
    if (published.length) {
      parts.push(section("Published now", h("div", { class: "published" }, published.map((p) => h("figure", {},
        h("button", { type: "button", class: "plain", "aria-label": `Compare with published picture ${p.rank}`, onclick: () => handlers.compareWith(p) },
          h("img", { src: `/thumbnails/${p.master}.webp`, alt: `published picture ${p.rank} of ${card.id}`, loading: "lazy" })),
        h("figcaption", {}, p.blob === picture?.blob ? "this picture" : `rank ${p.rank}`, h("span", { class: "muted" }, ` ${when(p.created)}`)))))));
    }
    if (made) {
      const failed = made.gates.filter((g) => !g.passed);
      const passed = made.gates.filter((g) => g.passed);
      parts.push(section("Gates", failed.length ? h("ul", { class: "gates" }, failed.map((g) => h("li", { class: "bad" }, icon("cross"), `${g.gate}${g.reason ? `: ${g.reason}` : ""}`))) : null,
        h("p", { class: "muted" }, passed.length ? `Passed: ${passed.map((g) => (g.stage === "candidate" ? g.gate : `${g.gate} (${g.stage})`)).join(", ")}` : "None on record.")));
      parts.push(section("Settings", h("dl", { class: "compact" }, Object.entries(made.settings).map(([name, value]) => row(name, String(value))))));
    }
    const turned = card.pictures.filter((p) => p.refused || p.rejected !== null);
    if (turned.length || detail.failures.length || detail.cuts) {
      parts.push(section("Turned down", h("ul", { class: "turned" },
        turned.map((p) => h("li", {}, h("button", { type: "button", class: "plain", onclick: () => setSpot(p.blob), "aria-label": `Show picture ${card.pictures.indexOf(p) + 1}` }, image(p)),
          h("span", {}, p.refused ? `gate: ${p.refused}` : p.rejected || "rejected"))),
        detail.failures.map((f) => h("li", {}, h("span", {}, `not made: ${f.reason}`))),
        detail.cuts ? h("li", {}, h("span", {}, `${plural(detail.cuts, "candidate")} cut mid-way`)) : null)));
    }
    if (detail.decisions.length) {
      parts.push(section("Decisions", h("ol", { class: "history" }, detail.decisions.map((d) => h("li", { class: d.undone ? "undone" : "" },
        h("span", {}, h("b", {}, d.by), ` ${d.kind === "undo" ? `took back no. ${d.undoes}` : KINDS[d.kind]}${d.reason ? `: ${d.reason}` : ""}`),
        h("span", { class: "muted" }, when(d.at)),
        d.note ? h("p", { class: "quote" }, d.note) : null)))));
    }
  } else parts.push(h("p", { class: "muted" }, "Reading…"));
  const top = panel.dataset.key === card.key ? panel.scrollTop : 0;
  panel.dataset.key = card.key;
  panel.replaceChildren(...parts.filter(Boolean));
  panel.scrollTop = top;
}

