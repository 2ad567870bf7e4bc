// Questions: each opens a dialog and gives what was answered, or null when it was left.

import { post } from "./api.js";
import { button, h, plural } from "./dom.js";
import { image } from "./sheet.js";

export const busy = () => Boolean(document.querySelector("dialog[open]"));

// `build(close)` gives the dialog's content; `close(value)` ends it. Escape and the ground behind it give null.
function ask(title, build, { wide = false } = {}) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    let value = null;
    const dialog = h("dialog", { class: wide ? "wide" : "", "aria-label": title });
    const close = (given) => { value = given ?? null; dialog.close(); };
    dialog.append(h("h2", {}, title), ...[build(close)].flat());
    dialog.addEventListener("close", () => { dialog.remove(); before?.focus?.({ preventScroll: true }); resolve(value); });
    dialog.addEventListener("mousedown", (event) => { if (event.target === dialog) close(null); });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("[autofocus]") || dialog.querySelector("input, textarea, button"))?.focus();
  });
}

// A form whose button gives what `read(form)` makes of it, at once or later; undefined keeps it open.
function form(close, read, label, ...content) {
  return h("form", { method: "dialog", onsubmit: async (event) => { event.preventDefault(); const found = await read(event.target); if (found !== undefined) close(found); },
    onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit(); } },
  content, h("div", { class: "buttons" }, button("Cancel", () => close(null)), h("button", { type: "submit", class: "button primary" }, label)));
}

const field = (label, input, hint) => h("label", { class: "field-line" }, h("span", {}, label), input, hint ? h("small", {}, hint) : null);

// `save(name)` is done before the dialog goes: the next key may already decide something. It gives whether it was kept.
export function askName(now, save) {
  return ask("Who is reviewing?", (close) => form(close, async (f) => (await save(f.elements.who.value) ? true : undefined), "Begin",
    h("p", { class: "muted" }, "Your name stands beside every decision you make. It is asked once on this machine."),
    h("input", { name: "who", value: now, required: true, maxlength: "80", autocomplete: "name", autofocus: true, "aria-label": "Your name" })));
}

// The reasons by number; Enter rejects without one, or with what was typed.
export function askReason(reasons, title = "Reject: why?") {
  return ask(title, (close) => {
    const other = h("input", { name: "other", placeholder: "Another reason, or none", maxlength: "200", "aria-label": "Another reason" });
    const list = h("div", { class: "reasons", role: "group", "aria-label": "Reasons" }, reasons.slice(0, 9).map((reason, n) =>
      h("button", { type: "button", class: "button reason", autofocus: n === 0, onclick: () => close({ reason }) }, h("kbd", {}, String(n + 1)), h("span", {}, reason))));
    const f = form(close, () => ({ reason: other.value.trim() }), "Reject", list, other);
    f.addEventListener("keydown", (event) => {
      if (event.target === other && other.value) return;
      const n = Number(event.key);
      if (n >= 1 && n <= reasons.length) { event.preventDefault(); close({ reason: reasons[n - 1] }); }
      if (event.key === "0") { event.preventDefault(); close({ reason: "" }); }
    });
    return f;
  });
}

export function askNote() {
  return ask("Note", (close) => form(close, (f) => f.elements.note.value.trim() || undefined, "Keep",
    h("textarea", { name: "note", rows: "4", maxlength: "8000", autofocus: true, "aria-label": "Note" }),
    h("p", { class: "muted" }, "Ctrl+Enter keeps it. Notes stay with the asset and go out with the export.")));
}

const optional = (text) => (text.trim() === "" ? undefined : Number(text));

// More pictures of one asset, with its prompt and settings as they are, or changed.
export function askAgain(card, made) {
  return ask(`Again: ${card.id}`, (close) => form(close, (f) => {
    const e = f.elements, override = {};
    const seeds = optional(e.seeds.value);
    if (seeds) override.seeds = seeds;
    if (e.positive.value.trim() !== (made?.positive || "").trim()) override.positive = e.positive.value.trim();
    if (e.negative.value.trim() !== (made?.negative || "").trim()) override.negative = e.negative.value.trim();
    for (const name of ["steps", "guidance", "strength"]) {
      const value = optional(e[name].value);
      if (value !== undefined && String(value) !== String(made?.settings[name] ?? "")) override[name] = value;
    }
    if (!Object.keys(override).length) { e.seeds.setCustomValidity("Ask for pictures, or change something."); e.seeds.reportValidity(); return undefined; }
    return { override, note: e.note.value.trim() };
  }, "Queue for the next run",
  h("p", { class: "muted" }, "Kept as a record and used by every run from now on, until it is undone."),
  field("More pictures", h("input", { name: "seeds", type: "number", min: "0", max: "64", value: "4", autofocus: true, oninput: (e) => e.target.setCustomValidity("") })),
  field("Prompt", h("textarea", { name: "positive", rows: "3", maxlength: "8000" }, made?.positive || "")),
  field("Without", h("textarea", { name: "negative", rows: "2", maxlength: "8000" }, made?.negative || "")),
  h("div", { class: "trio" },
    field("Steps", h("input", { name: "steps", type: "number", min: "1", max: "1000", value: String(made?.settings.steps ?? "") })),
    field("Guidance", h("input", { name: "guidance", type: "number", min: "0", max: "100", step: "any", value: String(made?.settings.guidance ?? "") })),
    field("Strength", h("input", { name: "strength", type: "number", min: "0", max: "1", step: "any", value: String(made?.settings.strength ?? "") }), "of image to image")),
  field("Note", h("input", { name: "note", maxlength: "500" }))), { wide: true });
}

export function askVary(card, picture) {
  return ask(`Variations for ${card.id}`, (close) => form(close, (f) => {
    const e = f.elements, override = { seeds: Number(e.seeds.value) };
    const strength = optional(e.strength.value);
    if (strength !== undefined) override.strength = strength;
    return { override, note: e.note.value.trim() };
  }, "Queue for the next run",
  h("div", { class: "beside" }, image(picture, { alt: "the picture that is varied" }), h("div", {},
    field("How many", h("input", { name: "seeds", type: "number", min: "1", max: "64", value: "4", required: true, autofocus: true })),
    field("Strength", h("input", { name: "strength", type: "number", min: "0.05", max: "1", step: "0.05", value: "0.5" }), "low keeps more of the picture"),
    field("Note", h("input", { name: "note", maxlength: "500" })))),
  h("p", { class: "muted" }, "Made by the next run, where the model can work from a picture.")));
}

// Approves the best of every open asset that passes the filter; the count follows the fields.
export function askBulk(filter) {
  return ask("Approve in bulk", (close) => {
    const found = h("p", { class: "count", "aria-live": "polite" }, "…");
    const top = h("input", { name: "top", type: "number", min: "1", max: "16", value: "1", required: true });
    const threshold = h("input", { name: "threshold", type: "number", step: "any", autofocus: true });
    let latest = 0, wait;
    const body = () => ({ filter, top: Number(top.value) || 1, threshold: threshold.value === "" ? null : Number(threshold.value) });
    const count = async () => {
      const mine = ++latest;
      try {
        const dry = await post("/api/bulk", { ...body(), dry: true });
        if (mine === latest) found.textContent = dry.assets ? `${plural(dry.pictures, "picture")} of ${plural(dry.assets, "asset")} will be approved.` : "No open asset has such a picture.";
      } catch (error) { found.textContent = error.message; }
    };
    const soon = () => { clearTimeout(wait); wait = setTimeout(count, 150); };
    top.addEventListener("input", soon);
    threshold.addEventListener("input", soon);
    count();
    return form(close, body, "Approve",
      h("p", { class: "muted" }, "Of every asset in the list that is still to be reviewed. One undo takes all of it back."),
      h("div", { class: "trio two" }, field("Best pictures of each", top), field("With a score of at least", threshold, "empty: any score")), found);
  });
}

export function askFile(card) {
  return new Promise((resolve) => {
    const input = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp,image/avif", hidden: true });
    input.addEventListener("change", () => { resolve(input.files[0] || null); input.remove(); });
    input.addEventListener("cancel", () => { resolve(null); input.remove(); });
    document.body.append(input);
    input.click();
  });
}

export function confirmFile(card, file, sources) {
  const address = URL.createObjectURL(file);
  return ask(`Bring in a picture for ${card.id}`, (close) => form(close, (f) => ({ source: f.elements.source.value, licence: f.elements.licence.value.trim(), note: f.elements.note.value.trim() }), "Bring it in",
    h("img", { src: address, alt: "the picture that is brought in", class: "preview" }),
    h("p", { class: "muted" }, "It is stored anew without its metadata, marked as coming from outside, and joins the asset's pictures to be approved."),
    field("What it is", h("select", { name: "source", autofocus: true }, sources.map((s) => h("option", { value: s }, s))), "published files say so"),
    field("Licence", h("input", { name: "licence", maxlength: "200", placeholder: "what may be done with it" })),
    field("Note", h("input", { name: "note", maxlength: "500", placeholder: "who made it, where it was found" }))))
    .finally(() => URL.revokeObjectURL(address));
}

const HELP = [
  ["Decide", [["A", "approve, go to the next open one"], ["Shift 1…9", "approve that picture"], ["R", "reject, with a reason"], ["X", "reject with the last reason"], ["Shift X", "reject all pictures of the asset"], ["U", "undo"], ["O", "reopen"], ["N", "note"]]],
  ["Make more", [["G", "again: more seeds, other prompt or settings"], ["V", "vary this picture"], ["Shift A", "approve in bulk"]]],
  ["Move", [["↓ J / ↑ K", "next, previous asset"], ["→ L / ← H", "next, previous picture"], ["1…9", "that picture"], ["] / [", "next, previous open asset"], ["Home / End", "first, last asset"], ["PgDn / PgUp", "a page on, back"]]],
  ["Look", [["Space", "one asset, or back to the sheet"], ["M", "mark for comparing"], ["C", "compare: the marked ones, or the best two"], ["Shift C", "compare the best four"], ["D", "what differs in their settings"], ["Z", "one to one, or fit"], ["+ − 0", "closer, further, fit"], ["B", "ground: checkerboard, black, white"], ["Esc", "back"]]],
  ["Page", [["/", "search"], ["F", "filters"], ["Shift B", "blind mode: no scores, shuffled"], ["S", "size of the pictures"], ["T", "light or dark"], ["Shift R", "read what runs have made since"], ["?", "this list"]]],
];

export function showHelp() {
  return ask("Keys", (close) => [h("div", { class: "help" }, HELP.map(([title, keys]) => h("section", {}, h("h3", {}, title),
    h("dl", {}, keys.map(([key, what]) => [h("dt", {}, key.split(" / ").map((k, n) => [n ? " / " : "", k.split(" ").map((part, i) => [i ? " " : "", h("kbd", {}, part)])])), h("dd", {}, what)]))))),
    h("div", { class: "buttons" }, h("span", { class: "muted" }, "Every key has a button too; the wheel zooms, dragging moves, two fingers do both."), button("Close", () => close(null), { kind: "primary", autofocus: true }))], { wide: true });
}

