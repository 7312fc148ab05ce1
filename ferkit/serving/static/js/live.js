// The camera's view: frames to the server, readings over the picture and beside it.
import { Camera } from "./camera.js";
import { askToken, ensurePurpose } from "./dialogs.js";
import { find, make } from "./dom.js";
import { FrameEncoder } from "./encoder.js";
import { decimals, say, t } from "./i18n.js";
import { announce, clearProblem, inWords, isReady, showProblem, toast } from "./messages.js";
import { Problem } from "./api.js";
import { LiveOverlay } from "./live-overlay.js";
import { People } from "./people.js";
import { Readings } from "./readings.js";
import { savePicture, saveText } from "./save.js";
import { chosenModel, events, session } from "./session.js";
import { ExpressionStream } from "./stream.js";

const REST_S = 5;
const SPEED_MS = 500;
const BETWEEN_MS = 45;
const LONG_MS = 3000;

export class Live {
  #stage = find("#stage");
  #video = find("#video");
  #overlay = new LiveOverlay(find("#overlay"));
  #camera = new Camera(this.#video);
  #encoder = new FrameEncoder(this.#video);
  #stream = new ExpressionStream();
  #people = new People();
  #readings = new Readings();
  #labels = [];
  #answer = null;
  #answeredAt = 0;
  #capturedAt = 0;
  #mirror = true;
  #resting = false;
  #wasGone = false;
  #wanted = false;
  #gap_ms = null;
  #delay = null;
  #streamModel = null;
  #declared = null;
  #spokeOfSpeed = 0;

  constructor() {
    const on = (id, act) => find(id).addEventListener("click", act);
    on("#start", () => this.start());
    on("#stop", () => this.stop());
    on("#mirror", () => this.#setMirror(!this.#mirror));
    on("#rest", () => this.#stream.command({ type: "neutral", seconds: REST_S }));
    on("#forget", () => this.#forget());
    on("#save-csv", () => saveText(this.#readings.asCsv(), "ferkit-camera", "csv", "text/csv"));
    on("#save-json", () => saveText(this.#readings.asJson(this.#about()), "ferkit-camera", "json", "application/json"));
    on("#save-png", () => this.#savePicture());
    find("#camera-choice").addEventListener("change", (event) => this.#useCamera(event.target.value));
    this.#camera.addEventListener("lost", () => { this.stop(); showProblem(() => t("problem.camera.lost"), () => this.start()); });
    this.#stream.addEventListener("ready", ({ detail }) => this.#ready(detail));
    this.#stream.addEventListener("result", ({ detail }) => this.#result(detail));
    this.#stream.addEventListener("problem", ({ detail }) => this.#complain(detail));
    this.#stream.addEventListener("waiting", () => this.#waiting());
    this.#stream.addEventListener("ended", ({ detail }) => this.#ended(detail));
    events.addEventListener("change", () => this.#sessionChanged());
    document.addEventListener("visibilitychange", () => this.#visibility());
    this.#video.addEventListener("resize", () => this.#shape());
    say(find("#speed"), () => this.#speedText());
  }

  async start() {
    if (this.#wanted || !isReady() || !(await ensurePurpose())) return;
    this.#wanted = true;
    clearProblem();
    this.#setState("starting");
    if (!(await this.#useCamera(null))) return;
    this.#readings.clear([]);
    this.#setState("waiting");
    find("#stop").focus({ preventScroll: true });
    this.#openStream();
    announce(t("camera.started"));
  }

  stop() {
    if (!this.#wanted) return;
    this.#wanted = false;
    const hadFocus = find("#camera-tools").contains(document.activeElement);
    this.#stream.close();
    this.#camera.stop();
    this.#answer = null;
    this.#overlay.stop();
    this.#setResting(0);
    this.#people.clear();
    this.#setState("idle");
    if (hadFocus) find("#start").focus({ preventScroll: true });
    announce(t("camera.stopped"));
  }

  get isRunning() {
    return this.#camera.isOn;
  }

  async #useCamera(deviceId) {
    try {
      if (!(await this.#camera.start(deviceId))) return false;
    } catch (problem) {
      this.stop();
      const values = { detail: problem.detail ?? problem.message };
      showProblem(() => t(`problem.camera.${problem.kind ?? "other"}`, values), () => this.start());
      return false;
    }
    this.#setMirror(this.#camera.facesUser);
    this.#shape();
    this.#camera.eachFrame((captured_ms) => this.#frame(captured_ms));
    this.#overlay.start();
    await this.#listCameras();
    return true;
  }

  async #listCameras() {
    const cameras = await this.#camera.others();
    find("#camera-field").hidden = cameras.length < 2;
    find("#camera-choice").replaceChildren(...cameras.map(({ id, name, current }, i) =>
      make("option", { value: id, textContent: name || t("camera.nth", { n: i + 1 }), selected: current })));
  }

  #openStream() {
    [this.#streamModel, this.#declared] = [session.model, session.purpose];
    this.#stream.open();
  }

  async #frame(captured_ms) {
    if (document.hidden || captured_ms - this.#capturedAt < BETWEEN_MS || !this.#stream.isFree) return;
    this.#capturedAt = captured_ms;
    const number = this.#stream.reserve();
    const blob = await this.#encoder.encode();
    if (blob) await this.#stream.send(number, captured_ms, blob);
    else this.#stream.release(number);
  }

  #ready({ labels }) {
    clearProblem();
    if (this.#wasGone) toast(t("camera.back"));
    this.#wasGone = false;
    this.#labels = labels.map((label) => label.name ? label : chosenModel().labels.find((l) => l.name === label));
    if (this.#readings.labels.map((l) => l.name).join() !== this.#labels.map((l) => l.name).join()) {
      this.#readings.clear(this.#labels);
    }
    this.#people.clear();
    this.#gap_ms = this.#delay = this.#answer = null;
    this.#setState("running");
  }

  #result(answer) {
    const now = performance.now();
    const gap = now - this.#answeredAt;
    if (this.#answer && gap < LONG_MS) this.#gap_ms = steadied(this.#gap_ms, gap);
    this.#delay = steadied(this.#delay, answer.delay_ms);
    answer.faces.sort((a, b) => a.id - b.id); // the server's order, by size, changes all the time
    this.#answer = answer;
    this.#answeredAt = now;
    this.#overlay.show(answer, this.#labels);
    this.#encoder.learn(answer.delay_ms, answer.age_ms);
    this.#readings.add(answer);
    this.#people.show(answer.faces, this.#labels, answer.captured_ms / 1000);
    this.#setResting(answer.neutral_left_s);
    this.#showSpeed(now);
    for (const id of ["#save-csv", "#save-json"]) find(id).disabled = this.#readings.isEmpty;
  }

  #complain(problem) {
    if (problem.code === "damaged") return; // one frame is lost, the next one comes
    if (!problem.fatal) showProblem(() => inWords(new Problem(problem.code, problem.message)));
  }

  #waiting() {
    this.#setState("waiting");
    if (document.hidden) return;
    this.#wasGone = true;
    showProblem(() => t("problem.gone"));
  }

  async #ended(refused) {
    if (refused.code === "no_token" && (await askToken())) {
      this.#stream.open();
      return;
    }
    this.stop();
    const problem = new Problem(refused.code, refused.message);
    showProblem(() => inWords(problem), () => this.start());
  }

  #sessionChanged() {
    const hasNeutral = chosenModel()?.labels.some((label) => label.en === "neutral") ?? false;
    find("#rest").dataset.possible = hasNeutral;
    find("#rest").title = hasNeutral ? "" : t("camera.rest.none");
    this.#enable();
    if (!this.isRunning) return;
    if (session.purpose !== this.#declared) {
      this.#openStream(); // a purpose is declared at a stream's beginning
    } else if (session.model !== this.#streamModel) {
      this.#streamModel = session.model;
      this.#stream.command({ type: "model", name: session.model });
    }
  }

  #visibility() {
    if (!this.isRunning) return;
    // Nobody looks: no frame leaves the browser, and the server need not wait.
    if (document.hidden) this.#stream.close();
    else this.#openStream();
    if (document.hidden) this.#setState("waiting");
  }

  #forget() {
    this.#stream.command({ type: "reset" });
    this.#people.clear();
    this.#readings.clear(this.#labels);
    toast(t("camera.forgotten"));
  }

  #setState(state) {
    this.#stage.dataset.state = state;
    const idle = state === "idle";
    for (const id of ["#stop", "#mirror", "#rest", "#forget"]) find(id).hidden = idle;
    find("#camera-tools").hidden = idle && this.#readings.isEmpty; // what was read may still be saved
    if (state === "waiting") this.#gap_ms = null;
    find("#speed").hidden = idle;
    find("#speed").textContent = this.#speedText();
    this.#enable();
  }

  #enable() {
    const running = this.#stage.dataset.state === "running";
    find("#forget").disabled = !running;
    find("#rest").disabled = !running || find("#rest").dataset.possible === "false";
    find("#save-png").disabled = !running;
  }

  #setMirror(mirror) {
    this.#mirror = this.#overlay.mirror = mirror;
    this.#video.classList.toggle("mirrored", mirror);
    find("#mirror").setAttribute("aria-pressed", String(mirror));
  }

  #setResting(left_s) {
    const resting = left_s > 0;
    find("#resting").hidden = !resting;
    find("#resting-count").textContent = Math.ceil(left_s);
    if (resting && !this.#resting) announce(t("camera.rest.look"));
    if (!resting && this.#resting && this.isRunning) toast(t("camera.rest.done"));
    this.#resting = resting;
  }

  #shape() {
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth) this.#stage.style.setProperty("--shape", `${videoWidth} / ${videoHeight}`);
  }

  #speedText() {
    if (this.#stage.dataset.state === "starting") return t("camera.asking");
    if (this.#gap_ms === null) return t("camera.connecting");
    return t("camera.speed", { fps: decimals(1000 / this.#gap_ms), delay: Math.round(this.#delay) });
  }

  #showSpeed(now) {
    if (now - this.#spokeOfSpeed < SPEED_MS) return;
    this.#spokeOfSpeed = now;
    find("#speed").textContent = this.#speedText();
  }

  #savePicture() {
    const size = { width: this.#video.videoWidth, height: this.#video.videoHeight };
    const scale = this.#answer ? size.width / this.#answer.width : 1;
    const faces = (this.#answer?.faces ?? []).map((face) => ({ ...face, n: face.id, box: face.box.map((v) => v * scale) }));
    savePicture(this.#video, size, faces, { labels: this.#labels, mirror: this.#mirror, stem: "ferkit-camera" });
  }

  #about() {
    return { model: session.model, purpose: session.purpose, saved: new Date().toISOString() };
  }
}

const steadied = (mean, value) => (mean === null ? value : mean + 0.12 * (value - mean));
