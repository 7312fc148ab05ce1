// The stage of the tab in which classes are taught: camera or video, its stream, and what is recorded from it.
import { Problem } from "./api.js";
import { Bars } from "./bars.js";
import { Camera } from "./camera.js";
import { find } from "./dom.js";
import { FrameEncoder } from "./encoder.js";
import { percent, t } from "./i18n.js";
import { LiveOverlay } from "./live-overlay.js";
import { announce, showProblem, toast } from "./messages.js";
import { labelText } from "./session.js";
import { ExpressionStream } from "./stream.js";

const BETWEEN_MS = 90;
const VIDEO_FPS = 5;
const READY_MS = 20_000;
const LAST_MS = 4_000;

/** Wait until something holds, at most so long. */
async function until(holds, most_ms) {
  const end = performance.now() + most_ms;
  while (!holds() && performance.now() < end) await new Promise((resolve) => { setTimeout(resolve, 50); });
}

/** Events (`detail`): taught (what the server says of the session with each frame), hold (label or null), ended (Problem). */
export class TeachStage extends EventTarget {
  #stage = find("#teach-stage");
  #video = find("#teach-video");
  #camera = new Camera(this.#video);
  #encoder = new FrameEncoder(this.#video);
  #overlay = new LiveOverlay(find("#teach-overlay"));
  #stream = new ExpressionStream();
  #labels = [];
  #bars = null;
  #answer = null;
  #held = null;
  #face = null;
  #added = 0;
  #capturedAt = 0;

  constructor() {
    super();
    find("#teach-overlay").addEventListener("click", (event) => this.#choose(event));
    this.#stream.addEventListener("ready", ({ detail }) => this.#ready(detail.labels));
    this.#stream.addEventListener("result", ({ detail }) => this.#result(detail));
    this.#stream.addEventListener("ended", ({ detail }) => this.#tell("ended", new Problem(detail.code, detail.message)));
    this.#stream.addEventListener("waiting", () => this.#setState("waiting"));
    this.#camera.addEventListener("lost", () => { this.stop(); showProblem(() => t("problem.camera.lost")); });
  }

  get isRecording() {
    return this.#held !== null;
  }

  stop() {
    this.release();
    this.#stream.close();
    this.#camera.stop();
    this.#overlay.stop();
    this.#answer = null;
    if (this.#video.src) URL.revokeObjectURL(this.#video.src);
    this.#video.removeAttribute("src");
    this.#setState("idle");
  }

  /** Show the camera to a session. */
  async start(id) {
    this.#setState("starting");
    try {
      if (!(await this.#camera.start())) return;
    } catch (problem) {
      this.stop();
      showProblem(() => t(`problem.camera.${problem.kind ?? "other"}`, { detail: problem.detail }), () => this.start(id));
      return;
    }
    this.#overlay.mirror = this.#camera.facesUser;
    this.#video.classList.toggle("mirrored", this.#camera.facesUser);
    this.#run(id);
    this.#camera.eachFrame((captured_ms) => this.#frame(captured_ms));
    announce(t("camera.started"));
  }

  #run(id) {
    const { videoWidth, videoHeight } = this.#video;
    this.#stage.style.setProperty("--shape", `${videoWidth} / ${videoHeight}`);
    this.#setState("waiting");
    this.#overlay.start();
    this.#stream.open(id);
  }

  async #frame(captured_ms) {
    if (document.hidden || captured_ms - this.#capturedAt < BETWEEN_MS || !this.#stream.isFree) return false;
    this.#capturedAt = captured_ms;
    const number = this.#stream.reserve();
    const blob = await this.#encoder.encode();
    if (blob) await this.#stream.send(number, captured_ms, blob);
    else this.#stream.release(number);
    return true;
  }

  /** Play a video to a session, and record what it shows as one take of a class. */
  async play(id, label, film) {
    this.stop();
    this.#video.src = URL.createObjectURL(film);
    this.#video.classList.remove("mirrored");
    this.#overlay.mirror = false;
    try {
      await this.#video.play();
    } catch {
      this.stop();
      showProblem(() => t("drop.unknown", { name: film.name }));
      return;
    }
    this.#video.pause(); // until the server listens: a short video would be over before
    this.#video.currentTime = 0;
    this.#added = 0;
    this.#run(id);
    this.hold(label);
    const isOver = () => !this.#video.src || this.#stage.dataset.state === "idle";
    await until(() => isOver() || this.#stage.dataset.state === "running", READY_MS);
    if (!isOver()) await this.#video.play().catch(() => {}); // stopped meanwhile
    await new Promise((resolve) => {
      const timer = setInterval(() => {
        if (!this.#video.ended && !isOver()) this.#frame(performance.now());
        else { clearInterval(timer); resolve(); }
      }, 1000 / VIDEO_FPS);
    });
    this.release();
    await until(() => isOver() || this.#stream.isIdle, LAST_MS);
    const wasStopped = isOver();
    this.stop();
    if (!wasStopped && !this.#added) showProblem(() => t("teach.film.none", { name: film.name }));
  }

  /** Record the face in view as examples of a class, from now on. */
  hold(label) {
    if (this.#stage.dataset.state === "idle") {
      toast(t("teach.camera.first"));
      return;
    }
    this.#held = { label, take: `live-${Date.now()}`, from_ms: performance.now() };
    this.#collect();
    this.#tell("hold", label);
  }

  #collect() {
    this.#stream.command({ type: "collect", ...this.#held, face: this.#face });
  }

  /** Record no more. */
  release() {
    if (!this.#held) return;
    this.#held = null;
    this.#stream.command({ type: "collect", until_ms: performance.now() });
    this.#tell("hold", null);
  }

  #ready(labels) {
    this.#labels = labels;
    this.#bars = new Bars(labels);
    find("#teach-bars").replaceChildren(this.#bars.element);
    this.#setState("running");
    if (this.#held) this.#collect();
  }

  #result(answer) {
    this.#answer = answer;
    this.#overlay.show(answer, this.#labels);
    this.#encoder.learn(answer.delay_ms, answer.age_ms);
    const face = answer.faces.find(({ id }) => id === this.#face) ?? answer.faces[0];
    if (face) this.#bars.show(face.probabilities, face.label);
    const sure = face && this.#labels.find(({ name }) => name === face.label);
    find("#teach-now").textContent = sure ? `${labelText(sure)} ${percent(Math.round(face.confidence * 100) / 100)}` : face ? t("people.unsure") : t("teach.nobody.seen");
    this.#added += answer.taught.added.length;
    if (this.#face !== null && !answer.faces.some(({ id }) => id === this.#face)) {
      this.#face = null;
      if (this.#held) this.#collect(); // who was meant is gone: whoever is alone now, or ask again
    }
    this.#ask(answer.taught.status === "several");
    this.#tell("taught", answer.taught);
  }

  /** Ask who is meant, or no longer; a video waits for the answer. */
  #ask(asked) {
    find("#teach-ask").hidden = !asked;
    if (!this.#video.src || this.#video.ended) return;
    if (asked) this.#video.pause();
    else if (this.#video.paused) this.#video.play().catch(() => {}); // stopped meanwhile
  }

  /** Two are in view: a click says who is meant. */
  #choose(event) {
    if (!this.#answer || this.#answer.faces.length < 2) return;
    const { left, top, width, height } = find("#teach-overlay").getBoundingClientRect();
    const scale = Math.min(width / this.#answer.width, height / this.#answer.height);
    let x = (event.clientX - left - (width - this.#answer.width * scale) / 2) / scale;
    const y = (event.clientY - top - (height - this.#answer.height * scale) / 2) / scale;
    if (this.#overlay.mirror) x = this.#answer.width - x;
    const far = ({ box }) => Math.hypot((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y);
    this.#face = [...this.#answer.faces].sort((a, b) => far(a) - far(b))[0].id;
    toast(t("teach.face", { n: this.#face }));
    if (this.#held) this.#collect();
  }

  #setState(state) {
    this.#stage.dataset.state = state;
    find("#teach-stop").hidden = state === "idle";
    find("#teach-live").hidden = state === "idle";
    if (state !== "running") find("#teach-ask").hidden = true;
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
