// A card for each person in view: what is shown, all probabilities, and the last half minute.
import { Bars } from "./bars.js";
import { find, make } from "./dom.js";
import { percent, say, t } from "./i18n.js";
import { announce } from "./messages.js";
import { personColor } from "./overlay.js";
import { labelOf, labelText } from "./session.js";
import { drawTimeline } from "./timeline.js";

const WINDOW_S = 30;
const AWAY_S = 1;
const STAYS_S = 8;
const POOR_QUALITY = 0.2;
const DRAW_MS = 100;

export const countText = (n) => t(`people.count.${n < 2 ? n : "n"}`, { n });

class PersonCard {
  constructor(id, labels) {
    this.id = id;
    this.labels = labels;
    this.points = [];
    this.seen_s = 0;
    this.face = null;
    this.gone = false;
    this.bars = new Bars(labels);
    const badge = make("span", { className: "badge", textContent: id, attrs: { "aria-hidden": "true" } });
    this.swatch = make("span", { className: "swatch", attrs: { "aria-hidden": "true" } });
    this.now = say(make("span"), () => this.labelText());
    this.sure = make("span", { className: "sure" });
    this.remark = say(make("p", { className: "remark", hidden: true }), () => this.remarkText());
    this.canvas = make("canvas", { className: "timeline", attrs: { role: "img" } });
    this.element = make("li", { className: "person", data: { person: id } },
      make("div", { className: "person-head" }, badge, say(make("span", { className: "sr-only" }), () => t("people.one", { n: id })),
        make("span", { className: "now" }, this.swatch, this.now), this.sure),
      this.remark, this.bars.element, this.canvas);
    this.element.style.setProperty("--person", personColor(id));
  }

  labelText() {
    const label = this.face && labelOf(this.face.label, this.labels);
    return label ? labelText(label) : t("people.unsure");
  }

  remarkText() {
    if (this.gone) return t("people.gone");
    return this.face && this.face.quality < POOR_QUALITY ? t("people.poor") : "";
  }

  /** Take in a reading; gives whether the person has come back into view. */
  show(face, now_s) {
    this.face = face;
    this.seen_s = now_s;
    this.points.push({ t: now_s, values: face.probabilities, label: face.label });
    this.bars.show(face.probabilities, face.label);
    this.now.textContent = this.labelText();
    const label = labelOf(face.label, this.labels);
    this.sure.textContent = label ? percent(face.confidence) : "";
    this.swatch.style.setProperty("--label", label?.color ?? "");
    return this.mark(false);
  }

  /** Say whether the person is out of view; gives whether that has changed. */
  mark(gone) {
    const changed = gone !== this.gone;
    this.gone = gone;
    this.element.classList.toggle("gone", gone);
    const text = this.remarkText();
    this.remark.hidden = !text;
    if (this.remark.textContent !== text) this.remark.textContent = text;
    return changed;
  }

  draw(now_s) {
    while (this.points.length && this.points[0].t < now_s - WINDOW_S - 1) this.points.shift();
    drawTimeline(this.canvas, this.points, [now_s - WINDOW_S, now_s], this.labels);
    const name = t("people.timeline", { n: this.id, label: this.labelText() });
    if (this.canvas.getAttribute("aria-label") !== name) this.canvas.setAttribute("aria-label", name);
  }
}

export class People {
  #cards = new Map();
  #list = find("#people");
  #drawnAt = 0;
  #summary = "";
  #n = 0;

  constructor() {
    say(find("#people-count"), () => (this.#cards.size ? countText(this.#n) : ""));
  }

  /** Take in the faces of an answer. */
  show(faces, labels, now_s) {
    this.#n = faces.length;
    for (const face of faces) {
      const isNew = !this.#cards.has(face.id);
      if (isNew) this.#cards.set(face.id, new PersonCard(face.id, labels));
      const card = this.#cards.get(face.id);
      if (card.show(face, now_s) || isNew) this.#place(card);
    }
    const ids = new Set(faces.map((face) => face.id));
    for (const [id, card] of this.#cards) {
      if (ids.has(id)) continue;
      // A face that is missed in a frame or two has not gone.
      if (card.mark(now_s - card.seen_s > AWAY_S)) this.#place(card);
      if (now_s - card.seen_s > STAYS_S) this.#remove(card);
    }
    this.#settle();
    if (performance.now() - this.#drawnAt > DRAW_MS) {
      this.#drawnAt = performance.now();
      for (const card of this.#cards.values()) card.draw(now_s);
    }
    this.#tell(faces);
  }

  clear() {
    this.#cards.clear();
    this.#list.replaceChildren();
    this.#n = 0;
    this.#summary = "";
    this.#settle();
  }

  /** Those in view first, each part in the order of the numbers. */
  #place(card) {
    const order = (a, b) => a.gone - b.gone || a.id - b.id;
    const after = [...this.#cards.values()].filter((other) => order(card, other) < 0).sort(order)[0];
    this.#list.insertBefore(card.element, after?.element ?? null);
  }

  #remove(card) {
    this.#cards.delete(card.id);
    card.element.remove();
  }

  #settle() {
    const empty = this.#cards.size === 0;
    find("#people-empty").hidden = !empty;
    find("#people-hint").hidden = empty;
    const text = empty ? "" : countText(this.#n);
    if (find("#people-count").textContent !== text) find("#people-count").textContent = text;
  }

  /** A sentence for screen readers, when somebody's label has changed. */
  #tell(faces) {
    const summary = faces.map((face) => {
      const label = labelOf(face.label, this.#cards.get(face.id).labels);
      return t("people.says", { n: face.id, label: label ? labelText(label) : t("people.unsure") });
    }).join(" ");
    if (summary !== this.#summary) announce(summary || countText(0));
    this.#summary = summary;
  }
}
