// Pictures: each is shown at once, read in turn, and stays in the browser's memory until it is removed.
import { predict } from "./api.js";
import { Bars } from "./bars.js";
import { ensurePurpose } from "./dialogs.js";
import { find, fitCanvas, icon, make } from "./dom.js";
import { percent, say, t } from "./i18n.js";
import { announce, inWords, megabytes, showProblem } from "./messages.js";
import { drawFaces, faceText, personColor } from "./overlay.js";
import { countText } from "./people.js";
import { picturesCsv } from "./readings.js";
import { savePicture, saveText } from "./save.js";
import { chosenModel, events, labelOf, labelText, limit, session } from "./session.js";

const LARGEST_SHOWN = 1600;

class PictureCard {
  constructor(file, remove) {
    this.file = file;
    this.name = file.name || "image";
    this.labels = chosenModel().labels;
    this.result = null;
    this.error = null;
    this.image = null;
    this.canvas = make("canvas", { attrs: { role: "img" }, hidden: true });
    this.wait = say(make("p", { className: "waiting" }), () => (this.error || this.result ? t("pictures.unshown") : t("pictures.waiting")));
    this.status = say(make("p", { className: "status" }), () => this.statusText());
    this.faces = make("ul", { className: "faces", tabIndex: 0 });
    this.faces.setAttribute("aria-label", this.name);
    this.png = make("button", { type: "button", disabled: true, on: { click: () => this.#save() } }, icon("save"), "PNG");
    const close = make("button", { type: "button", className: "quiet round", on: { click: () => remove(this) } }, icon("close"));
    this.relabel = () => {
      close.setAttribute("aria-label", t("pictures.remove", { name: this.name }));
      this.png.setAttribute("aria-label", `${t("save.png")}: ${this.name}`);
      this.draw();
    };
    document.addEventListener("languagechange", this.relabel);
    this.relabel();
    this.element = make("li", { className: "picture card" }, make("figure", {}, this.canvas, this.wait),
      make("div", { className: "picture-text" },
        make("div", { className: "picture-title" }, make("h3", { textContent: this.name }), close), this.status, this.faces,
        make("div", { className: "toolbar" }, this.png)));
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.element);
    this.#open();
  }

  /** Give its memory back. */
  close() {
    document.removeEventListener("languagechange", this.relabel);
    this.watch.disconnect();
    this.image?.close();
    this.image = null;
    this.element.remove();
  }

  statusText() {
    if (this.error) return inWords(this.error);
    if (!this.result) return t("pictures.waiting");
    return this.result.faces.length ? countText(this.result.faces.length) : t("pictures.none");
  }

  show(result, error = null) {
    this.result = result;
    this.error = error;
    say(this.status, () => this.statusText());
    say(this.wait, () => t("pictures.unshown"));
    this.faces.replaceChildren(...(result?.faces ?? []).map((face, i) => this.#face(face, i + 1)));
    this.faces.hidden = !result?.faces.length;
    this.png.disabled = !this.image || !result;
    this.draw();
  }

  draw() {
    if (!this.image || !this.canvas) return;
    const { width, height } = this.image;
    const shown = this.canvas.parentElement?.clientWidth || width;
    const scale = shown / width;
    const size = { width: shown, height: height * scale };
    const { context } = fitCanvas(this.canvas, size.width, size.height);
    context.drawImage(this.image, 0, 0, size.width, size.height);
    drawFaces(context, this.#numbered(), { place: { scale: this.#scale * scale, x: 0, y: 0 }, size, labels: this.labels, text: shown < 480 ? 12 : 14 });
    this.canvas.setAttribute("aria-label", t("pictures.alt", { name: this.name, faces: this.#numbered().map((f) => `${f.n}: ${faceText(f, this.labels)}`).join(", ") || this.statusText() }));
  }

  /** From pixels of the server's picture to those of the browser's. */
  get #scale() {
    return this.result?.width ? this.image.width / this.result.width : 1;
  }

  #numbered() {
    return (this.result?.faces ?? []).map((face, i) => ({ ...face, n: i + 1 }));
  }

  #face(face, n) {
    const label = labelOf(face.label, this.labels);
    const swatch = make("span", { className: "swatch", attrs: { "aria-hidden": "true" } });
    swatch.style.setProperty("--label", label.color);
    const bars = new Bars(this.labels);
    bars.show(this.labels.map(({ name }) => face.probabilities[name] ?? 0), face.label);
    const item = make("li", { className: "face" },
      make("div", { className: "person-head" }, make("span", { className: "badge", textContent: n, attrs: { "aria-hidden": "true" } }),
        say(make("span", { className: "sr-only" }), () => t("pictures.face", { n })),
        make("span", { className: "now" }, swatch, say(make("span"), () => labelText(label))),
        make("span", { className: "sure", textContent: percent(face.confidence) })),
      bars.element);
    item.style.setProperty("--person", personColor(n));
    return item;
  }

  async #open() {
    try {
      this.image = await decode(this.file, LARGEST_SHOWN);
    } catch {
      say(this.wait, () => t("pictures.unshown"));
      return;
    }
    this.wait.hidden = true;
    this.canvas.hidden = false;
    this.png.disabled = !this.result;
    this.draw();
  }

  async #save() {
    const image = await decode(this.file);
    const { width, height } = image;
    const scale = width / this.result.width;
    const faces = this.#numbered().map((face) => ({ ...face, box: face.box.map((v) => v * scale) }));
    await savePicture(image, { width, height }, faces, { labels: this.labels, stem: this.name.replace(/\.\w+$/, "") });
    image.close();
  }
}

/** The picture in a file, upright; not larger than `side` pixels if given, so that many can be shown at once. */
async function decode(file, side = Infinity) {
  const image = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = side / Math.max(image.width, image.height);
  if (scale >= 1) return image;
  const smaller = await createImageBitmap(image, { resizeWidth: Math.round(image.width * scale), resizeHeight: Math.round(image.height * scale), resizeQuality: "medium" });
  image.close();
  return smaller;
}

export class Pictures {
  #cards = [];
  #queue = Promise.resolve();

  constructor() {
    find("#pictures-clear").addEventListener("click", () => this.#clear());
    find("#pictures-csv").addEventListener("click", () => saveText(picturesCsv(this.#results(), this.#labels()), "ferkit-pictures", "csv", "text/csv"));
    find("#pictures-json").addEventListener("click", () => saveText(
      JSON.stringify({ model: session.model, purpose: session.purpose, images: this.#results() }, null, 1), "ferkit-pictures", "json", "application/json"));
    say(find("#pictures-status"), () => this.#statusText());
    say(find("#pictures-limit"), () => t("pictures.limit", { mb: megabytes("max_bytes", 10) }));
    events.addEventListener("change", () => say(find("#pictures-limit"), () => t("pictures.limit", { mb: megabytes("max_bytes", 10) })));
  }

  /** Show and read pictures, once a purpose is stated. */
  async take(files) {
    if (!(await ensurePurpose())) return;
    const cards = files.map((file) => new PictureCard(file, (card) => this.#remove(card)));
    this.#cards.unshift(...cards);
    find("#picture-list").prepend(...cards.map((card) => card.element));
    this.#settle();
    for (const card of cards) this.#queue = this.#queue.then(() => this.#read(card));
    await this.#queue;
    announce(this.#statusText());
  }

  async #read(card) {
    if (!this.#cards.includes(card)) return;
    try {
      if (card.file.size > limit("max_bytes", Infinity)) throw new Error(t("problem.too_large", { mb: megabytes("max_bytes", 10) }));
      const [result] = (await predict([card.file])).images;
      card.show(result);
    } catch (problem) {
      card.show(null, problem);
      if (["offline", "prohibited_purpose", "no_token"].includes(problem.code)) showProblem(() => inWords(problem), () => this.#again());
    }
    this.#settle();
  }

  /** Read those that could not be read before. */
  #again() {
    for (const card of this.#cards.filter((c) => c.error)) {
      card.error = null;
      this.#queue = this.#queue.then(() => this.#read(card));
    }
  }

  #remove(card) {
    this.#cards = this.#cards.filter((other) => other !== card);
    card.close();
    this.#settle();
    (this.#cards.length ? find("#pictures-clear") : find("#pick-pictures")).focus();
  }

  #clear() {
    for (const card of this.#cards) card.close();
    this.#cards = [];
    this.#settle();
    find("#pick-pictures").focus();
  }

  #settle() {
    const some = this.#cards.length > 0;
    find("#pictures-tools").hidden = !some;
    find("#drop-pictures").classList.toggle("small", some);
    find("#pictures-status").textContent = this.#statusText();
  }

  #statusText() {
    const bad = this.#cards.filter((card) => card.error).length;
    const done = this.#cards.filter((card) => card.result).length;
    const n = this.#cards.reduce((sum, card) => sum + (card.result?.faces.length ?? 0), 0);
    const read = t("pictures.status", { done, all: this.#cards.length, faces: countText(n) });
    return bad ? `${read} · ${t("pictures.bad", { n: bad })}` : read;
  }

  #labels() {
    const names = new Map(this.#cards.flatMap((card) => card.labels.map((label) => [label.name, label])));
    return [...names.values()];
  }

  #results() {
    return this.#cards.map((card) => ({
      name: card.name, width: card.result?.width ?? null, height: card.result?.height ?? null,
      faces: card.result?.faces ?? [], error: card.error ? inWords(card.error) : card.result?.error ?? null,
    }));
  }
}
