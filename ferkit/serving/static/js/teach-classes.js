// The classes that are taught: a card for each, with a button to hold, and the examples by take.
import { find, icon, make } from "./dom.js";
import { say, t } from "./i18n.js";

const SHOWN = 60;
const KEYS = 9;

/**
 * Events (`detail`): hold ({label}), release, change (what POST …/changes takes), pick ({label}).
 */
export class ClassCards extends EventTarget {
  element = find("#teach-classes");
  #images = new Map();
  #cards = new Map();
  #held = null;

  constructor() {
    super();
    document.addEventListener("keydown", (event) => this.#key(event, true));
    document.addEventListener("keyup", (event) => this.#key(event, false));
    window.addEventListener("blur", () => this.#release());
    window.addEventListener("pointerup", () => this.#release());
    window.addEventListener("pointercancel", () => this.#release());
  }

  get labels() {
    return [...this.#cards.keys()];
  }

  /** Keep the pictures of new examples: `added` as the server gives them. */
  learn(added) {
    for (const { id, jpeg } of added) if (jpeg) this.#images.set(id, `data:image/jpeg;base64,${jpeg}`);
  }

  image(id) {
    return this.#images.get(id) ?? null;
  }

  clear() {
    this.#images.clear();
    this.#cards.clear();
    this.element.replaceChildren();
  }

  /** Show what the server says of the session. */
  show(state) {
    const odd = new Set([...state.conflicts.flat(), ...(state.report?.disagreements ?? []).map(({ id }) => id)]);
    if (state.labels.join("\n") !== this.labels.join("\n")) this.#build(state.labels);
    for (const [label, card] of this.#cards) {
      const takes = state.takes.filter((take) => take.label === label);
      say(card.count, () => t("teach.count", { n: state.counts[label], takes: takes.length }));
      this.#showTakes(card, takes, odd);
    }
  }

  /** Show which class is being recorded; null for none. */
  mark(label) {
    for (const [name, { card }] of this.#cards) card.classList.toggle("recording", name === label);
  }

  #build(labels) {
    const typing = this.element.contains(document.activeElement) && document.activeElement.matches("input");
    this.#cards = new Map(labels.map((label, i) => [label, this.#card(label, i)]));
    this.element.replaceChildren(...[...this.#cards.values()].map(({ card }) => card));
    if (typing) find("#teach-new").focus();
  }

  #card(label, i) {
    const name = make("input", { type: "text", value: label, maxLength: 40, className: "class-name", on: {
      change: () => this.#tell("change", { do: "rename", label, to: name.value }),
      keydown: (event) => event.key === "Enter" && name.blur(),
    } });
    name.setAttribute("aria-label", t("teach.rename"));
    const count = make("span", { className: "count" });
    const hold = make("button", { type: "button", className: "primary hold", on: {
      pointerdown: (event) => { event.preventDefault(); hold.focus(); this.#hold(label); },
      contextmenu: (event) => event.preventDefault(),
      keydown: (event) => { if ([" ", "Enter"].includes(event.key)) { event.preventDefault(); this.#hold(label); } },
      keyup: (event) => { if ([" ", "Enter"].includes(event.key)) this.#release(); },
    } }, icon("camera"), say(make("span"), () => t("teach.hold")));
    if (i < KEYS) hold.append(make("kbd", { textContent: i + 1, attrs: { "aria-hidden": "true" } }));
    const pick = this.#small("upload", () => t("teach.files", { label }), () => this.#tell("pick", { label }));
    const remove = this.#small("trash", () => t("teach.remove", { label }), () => this.#tell("change", { do: "remove_label", label }));
    const takes = make("div", { className: "takes" });
    const card = make("li", { className: "card class", data: { label } }, make("div", { className: "class-head" }, name, count, pick, remove), hold, takes);
    return { card, count, takes };
  }

  #showTakes(card, takes, odd) {
    const known = takes.map(({ take, ids }) => `${take}:${ids.length}:${ids.filter((id) => odd.has(id))}`).join();
    if (card.known === known) return;
    card.known = known;
    card.takes.replaceChildren(...takes.map(({ take, ids }, i) => {
      const shown = ids.slice(-Math.max(4, Math.floor(SHOWN / takes.length)));
      const remove = this.#small("close", () => t("teach.take.remove", { n: i + 1 }), () => this.#tell("change", { do: "remove_take", take }));
      const head = make("div", { className: "take-head" }, say(make("span"), () => t("teach.take", { n: i + 1, count: ids.length })), remove);
      return make("div", { className: "take" }, head, make("div", { className: "thumbs" }, ...shown.map((id) => this.#thumb(id, odd.has(id)))));
    }));
  }

  #thumb(id, isOdd) {
    const source = this.image(id);
    const face = source ? make("img", { src: source, alt: "", width: 44, height: 44 }) : icon("rest");
    const button = make("button", { type: "button", className: isOdd ? "thumb odd" : "thumb", on: { click: () => this.#tell("change", { do: "remove", ids: [id] }) } }, face);
    const text = () => t(isOdd ? "teach.thumb.odd" : "teach.thumb");
    button.title = text();
    button.setAttribute("aria-label", text());
    return button;
  }

  #small(name, text, act) {
    const button = make("button", { type: "button", className: "quiet round small", on: { click: act } }, icon(name));
    button.append(say(make("span", { className: "sr-only" }), text));
    button.title = text();
    return button;
  }

  #key(event, isDown) {
    const i = "123456789".indexOf(event.key);
    if (i < 0 || event.target.matches?.("input, select, textarea") || find("#panel-teach").hidden) return;
    const label = this.labels[i];
    if (label === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isDown && !event.repeat) this.#hold(label);
    else if (!isDown && this.#held === label) this.#release();
  }

  #hold(label) {
    if (this.#held !== null) return;
    this.#held = label;
    this.#tell("hold", { label });
  }

  #release() {
    if (this.#held === null) return;
    this.#held = null;
    this.#tell("release");
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
