// What a film showed: the film itself, and each person's expressions over its whole length.
import { find, make } from "./dom.js";
import { clock, percent, say, t } from "./i18n.js";
import { personColor } from "./overlay.js";
import { labelOf, labelText } from "./session.js";
import { drawTimeline } from "./timeline.js";

const MOST_PEOPLE = 8;
const MOST_POINTS = 1500;

export class FilmResult {
  #address = "";
  #people;
  #video;
  #watch;
  #range = [0, 1];

  /**
   * @param result the server's `result.json`.
   * @param labels of the model.
   * @param films to show: the copy with labels, and the film itself for browsers that cannot play the copy.
   */
  constructor(result, labels, films) {
    this.labels = result.labels.map((name) => labels.find((label) => label.name === name) ?? labelOf(name, []));
    this.#video = make("video", { controls: true, playsInline: true, muted: true, preload: "auto" });
    this.#play(...films);
    this.#video.setAttribute("aria-label", t("film.title"));
    const last = Math.max(1, ...result.faces.map((face) => face.time_s));
    this.#range = [0, last];
    this.#people = result.summary.people.slice(0, MOST_PEOPLE).map((person) => this.#person(person, result.faces));
    const side = make("div", { className: "people" }, ...this.#people.map(({ element }) => element));
    const remark = (key, values) => side.append(say(make("p", { className: "status" }), () => t(key, values)));
    if (!this.#people.length) remark("film.nobody");
    if (result.broken_at_s !== null) remark("film.broken", { time: clock(result.broken_at_s) });
    if (result.n_damaged) remark("film.damaged", { n: result.n_damaged });
    this.element = make("div", { className: "film-result" }, this.#video, side);
    this.#video.addEventListener("timeupdate", () => this.draw());
    this.#video.addEventListener("loadedmetadata", () => {
      if (Number.isFinite(this.#video.duration)) this.#range = [0, Math.max(last, this.#video.duration)];
      for (const { end } of this.#people) end.textContent = clock(this.#range[1]);
      this.draw();
    });
    this.#watch = new ResizeObserver(() => this.draw());
    this.#watch.observe(this.element);
    this.redraw = () => this.draw();
    for (const event of ["themechange", "languagechange"]) document.addEventListener(event, this.redraw);
  }

  draw() {
    for (const { canvas, points, name } of this.#people) {
      drawTimeline(canvas, points, this.#range, this.labels, this.#video.currentTime);
      canvas.setAttribute("aria-label", name());
    }
  }

  close() {
    this.#watch.disconnect();
    for (const event of ["themechange", "languagechange"]) document.removeEventListener(event, this.redraw);
    this.#video.onerror = null;
    this.#video.removeAttribute("src");
    this.#video.load();
    URL.revokeObjectURL(this.#address);
  }

  #play(film, ...others) {
    URL.revokeObjectURL(this.#address);
    this.#address = URL.createObjectURL(film);
    this.#video.src = this.#address;
    this.#video.onerror = others.length ? () => this.#play(...others) : null;
  }

  #person(person, faces) {
    const points = thinned(faces.filter((face) => face.face === person.face)).map((face) => ({
      t: face.time_s, label: face.label, values: this.labels.map(({ name }) => face.probabilities[name] ?? 0),
    }));
    const shares = Object.entries(person.labels).map(([name, n]) => ({ label: labelOf(name, this.labels), share: n / person.n_readings }))
      .sort((a, b) => b.share - a.share);
    const text = ({ label, share }) => `${label ? labelText(label) : t("people.unsure")} ${percent(share)}`;
    const name = () => t("film.timeline", { n: person.face, shares: shares.map(text).join(", ") });
    const canvas = make("canvas", { className: "timeline", attrs: { role: "img" }, on: { click: (event) => this.#go(event) } });
    const end = make("span", { textContent: clock(this.#range[1]) });
    const element = make("section", { className: "person" },
      make("div", { className: "person-head" }, make("span", { className: "badge", textContent: person.face, attrs: { "aria-hidden": "true" } }),
        say(make("h3"), () => t("people.one", { n: person.face })),
        say(make("span", { className: "sure score" }), () => t("film.seen", { from: clock(person.first_s), to: clock(person.last_s) }))),
      canvas, make("div", { className: "axis", attrs: { "aria-hidden": "true" } }, make("span", { textContent: "0:00" }), end),
      make("ul", { className: "shares" }, ...shares.map((entry) => {
        const swatch = make("span", { className: "swatch", attrs: { "aria-hidden": "true" } });
        if (entry.label) swatch.style.setProperty("--label", entry.label.color);
        return make("li", {}, swatch, say(make("span"), () => text(entry)));
      })));
    element.style.setProperty("--person", personColor(person.face));
    return { element, canvas, points, name, end };
  }

  #go(event) {
    const [from, to] = this.#range;
    this.#video.currentTime = from + ((to - from) * event.offsetX) / event.currentTarget.clientWidth;
  }
}

/** At most so many readings as can be told apart, the first and last among them. */
function thinned(faces) {
  const step = Math.ceil(faces.length / MOST_POINTS);
  return step < 2 ? faces : faces.filter((_, i) => i % step === 0 || i === faces.length - 1);
}
