// The canvas over the camera's picture: boxes glide to where the last answer saw the faces, and fade when answers
// stay away.
import { calm, fitCanvas } from "./dom.js";
import { t } from "./i18n.js";
import { drawFaces, fitInside } from "./overlay.js";
import { countText } from "./people.js";

const FADE_MS = 1500;
const FOLLOW_MS = 70;
const BETWEEN_MS = 28;

export class LiveOverlay {
  mirror = true;
  #canvas;
  #answer = null;
  #labels = [];
  #answeredAt = 0;
  #boxes = new Map();
  #drawnAt = 0;
  #turn = 0;
  #keepFree = [];

  constructor(canvas) {
    this.#canvas = canvas;
    document.addEventListener("languagechange", () => this.#describe());
  }

  start() {
    this.stop();
    this.#turn = requestAnimationFrame((now) => this.#draw(now));
  }

  stop() {
    cancelAnimationFrame(this.#turn);
    this.#answer = null;
    this.#boxes.clear();
    this.#describe();
  }

  /** Take in an answer of the server. */
  show(answer, labels) {
    if (this.#answer?.width !== answer.width) this.#boxes.clear(); // they count in pixels of the frame that was sent
    this.#answer = answer;
    this.#labels = labels;
    this.#answeredAt = performance.now();
    this.#keepFree = [...document.querySelectorAll(".stage .pill")].map((pill) => (
      { x: pill.offsetLeft, y: pill.offsetTop, width: pill.offsetWidth, height: pill.offsetHeight }));
    this.#describe();
  }

  #draw(now) {
    this.#turn = requestAnimationFrame((then) => this.#draw(then));
    if (now - this.#drawnAt < BETWEEN_MS) return; // boxes that glide need no more, and small machines are spared
    const { context, width, height } = fitCanvas(this.#canvas);
    context.clearRect(0, 0, width, height);
    const age = now - this.#answeredAt;
    if (this.#answer && age < FADE_MS * 2) {
      context.globalAlpha = Math.min(1, Math.max(0, 2 - age / FADE_MS));
      const follow = calm() ? 1 : 1 - Math.exp(-(now - this.#drawnAt) / FOLLOW_MS);
      const place = fitInside(this.#answer, { width, height });
      const text = width < 480 ? 13 : 15;
      drawFaces(context, this.#glide(follow), {
        place, size: { width, height }, mirror: this.mirror, labels: this.#labels, text, keepFree: this.#keepFree,
      });
      context.globalAlpha = 1;
    }
    this.#drawnAt = now;
  }

  #glide(follow) {
    const boxes = new Map();
    const faces = this.#answer.faces.map((face) => {
      const before = this.#boxes.get(face.id);
      const box = before ? face.box.map((v, i) => before[i] + follow * (v - before[i])) : face.box;
      boxes.set(face.id, box);
      return { ...face, n: face.id, box };
    });
    this.#boxes = boxes;
    return faces;
  }

  #describe() {
    const name = t("camera.view", { faces: countText(this.#answer?.faces.length ?? 0) });
    if (this.#canvas.getAttribute("aria-label") !== name) this.#canvas.setAttribute("aria-label", name);
  }
}
