// Zoom and pan over one or several pictures at once: what one does to one of them happens to all, so that the same
// place is compared. The transform is kept in fractions of a pane, since panes may differ in size.

import { h } from "./dom.js";

const MOST = 32;

export class Zoom {
  constructor(onChange = () => {}) {
    this.panes = [];
    this.onChange = onChange;
    this.reset();
  }

  reset() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.apply();
  }

  // A pane that shows an image; gives its element.
  add(img) {
    const pane = h("div", { class: "pane-stage" }, img);
    this.panes.push({ pane, img });
    const fit = () => this.apply();
    img.addEventListener("load", fit);
    new ResizeObserver(fit).observe(pane);
    this.listen(pane);
    return pane;
  }

  apply() {
    for (const { pane, img } of this.panes || []) {
      const width = pane.clientWidth, height = pane.clientHeight;
      if (!width || !img.naturalWidth) continue;
      const fit = Math.min(width / img.naturalWidth, height / img.naturalHeight);
      img.style.width = `${img.naturalWidth * fit}px`;
      img.style.height = `${img.naturalHeight * fit}px`;
      img.style.transform = `translate(-50%, -50%) translate(${this.x * width}px, ${this.y * height}px) scale(${this.scale})`;
      // Whole pixels are shown as such once they are large enough to be told apart.
      img.classList.toggle("pixels", fit * this.scale * (window.devicePixelRatio || 1) >= 3);
    }
    this.onChange(this.scale);
  }

  // Zooms by a factor around a point of a pane, given from its middle in fractions of its size.
  by(factor, px = 0, py = 0) {
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST);
    const real = scale / this.scale;
    this.x = px + (this.x - px) * real;
    this.y = py + (this.y - py) * real;
    this.scale = scale;
    this.clamp();
    this.apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.clamp();
    this.apply();
  }

  clamp() {
    const room = Math.max((this.scale - 1) / 2, 0);
    this.x = Math.min(Math.max(this.x, -room), room);
    this.y = Math.min(Math.max(this.y, -room), room);
  }

  // One pixel of the first picture to one of the screen, and back.
  toggle(px = 0, py = 0) {
    const first = this.panes[0];
    if (!first) return;
    if (this.scale > 1.01) { this.reset(); return; }
    const fit = Math.min(first.pane.clientWidth / first.img.naturalWidth, first.pane.clientHeight / first.img.naturalHeight);
    const full = 1 / fit;
    this.by(full > 1.2 ? full : 3, px, py);
  }

  listen(pane) {
    const at = (event) => {
      const box = pane.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
    };
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), ...at(event));
    }, { passive: false });
    pane.addEventListener("dblclick", (event) => this.toggle(...at(event)));
    const points = new Map();
    let apart = 0;
    pane.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      points.set(event.pointerId, event);
      pane.setPointerCapture(event.pointerId);
      apart = 0;
    });
    pane.addEventListener("pointermove", (event) => {
      const last = points.get(event.pointerId);
      if (!last) return;
      const box = pane.getBoundingClientRect();
      points.set(event.pointerId, event);
      if (points.size === 1) {
        this.pan((event.clientX - last.clientX) / box.width, (event.clientY - last.clientY) / box.height);
      } else if (points.size === 2) {
        const [a, b] = [...points.values()];
        const now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
        const middle = { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
        if (apart) this.by(now / apart, ...at(middle));
        apart = now;
      }
    });
    const drop = (event) => { points.delete(event.pointerId); apart = 0; };
    pane.addEventListener("pointerup", drop);
    pane.addEventListener("pointercancel", drop);
  }
}
