// The tab in which a visitor teaches classes of their own: a session of the server, fed by camera, images and videos.
import { addExamples, beginTeaching, changeTaught, endTeaching, getBlob, getJson, saveTaught, Problem } from "./api.js";
import { ensurePurpose } from "./dialogs.js";
import { find, make } from "./dom.js";
import { say, t } from "./i18n.js";
import { clearProblem, inWords, isReady, showProblem, toast } from "./messages.js";
import { saveBlob } from "./save.js";
import { limit, session } from "./session.js";
import { ClassCards } from "./teach-classes.js";
import { showReport } from "./teach-report.js";
import { TeachStage } from "./teach-stage.js";

const ASK_MS = 700;

export class Teach {
  #stage = new TeachStage();
  #cards = new ClassCards();
  #state = null;
  #asking = 0;
  #picked = null;
  #reload;

  /** `reload` lets the page list the server's models again. */
  constructor(reload) {
    this.#reload = reload;
    const on = (id, act) => find(id).addEventListener("click", act);
    on("#teach-start", async () => { if (await this.#open()) this.#stage.start(this.#state.id); });
    on("#teach-stop", () => this.stop());
    on("#teach-undo", () => this.#change({ do: "undo" }));
    on("#teach-again", () => this.#forget());
    on("#teach-zip", () => this.#zip());
    on("#teach-neutral", () => this.#addLabel(t("teach.neutral")));
    on("#teach-nobody", () => this.#addLabel(t("teach.nobody")));
    on("#teach-files", () => this.#pick(null, "#file-teach"));
    on("#teach-folder", () => this.#pick(null, "#file-teach-folder"));
    find("#teach-form").addEventListener("submit", (event) => { event.preventDefault(); this.#addLabel(find("#teach-new").value); });
    find("#teach-save").addEventListener("submit", (event) => { event.preventDefault(); this.#save(); });
    find("#teach-from").addEventListener("change", (event) => this.#from(event.target));
    for (const id of ["#file-teach", "#file-teach-folder"]) {
      find(id).addEventListener("change", ({ target }) => { this.take([...target.files], this.#picked); target.value = ""; });
    }
    this.#cards.addEventListener("hold", ({ detail }) => this.#stage.hold(detail.label));
    this.#cards.addEventListener("release", () => this.#stage.release());
    this.#cards.addEventListener("change", ({ detail }) => this.#change(detail));
    this.#cards.addEventListener("pick", ({ detail }) => this.#pick(detail.label, "#file-teach"));
    this.#stage.addEventListener("taught", ({ detail }) => this.#taught(detail));
    this.#stage.addEventListener("hold", ({ detail }) => { this.#cards.mark(detail); if (detail === null) this.#ask(); });
    this.#stage.addEventListener("ended", ({ detail }) => { this.stop(); this.#failed(detail); });
    window.addEventListener("pagehide", () => this.#state && endTeaching(this.#state.id));
  }

  get isShown() {
    return !find("#panel-teach").hidden;
  }

  /** The tab is shown: offer the classes to begin with. */
  async show() {
    const models = find("#teach-from");
    models.replaceChildren(say(make("option", { value: "" }), () => t("teach.from.none")),
      ...session.models.map(({ name }) => make("option", { value: name, textContent: name })));
    if (!this.#state) this.#showEmpty();
  }

  stop() {
    this.#stage.stop();
  }

  /** Take files in: into the class `label`, or without one those of folders into the class that is called like the folder. */
  async take(files, label) {
    if (!(await this.#open())) return;
    const sorted = new Map();
    for (const file of files) {
      const folder = file.folder ?? file.webkitRelativePath?.split("/").at(-2);
      const name = label || folder || this.#state.labels[0];
      if (!sorted.has(name)) sorted.set(name, []);
      sorted.get(name).push(file);
    }
    for (const [name, mine] of sorted) {
      await this.#send(name, mine.filter((file) => !file.type.startsWith("video/")));
      for (const film of mine.filter((file) => file.type.startsWith("video/"))) {
        if (!this.#state) return;
        await this.#stage.play(this.#state.id, name, film);
      }
    }
    await this.#ask();
  }

  async #open(labels = [t("teach.first"), t("teach.second")], model = null) {
    if (!isReady() || !(await ensurePurpose())) return false;
    if (this.#state) return true;
    try {
      this.#show(await beginTeaching({ labels, model }));
    } catch (problem) {
      this.#failed(problem);
      return false;
    }
    clearProblem();
    return true;
  }

  async #send(label, files) {
    const step = limit("max_pictures", 16);
    const refused = [];
    for (let i = 0; i < files.length; i += step) {
      try {
        const answer = await addExamples(this.#state.id, label, files.slice(i, i + step));
        this.#cards.learn(answer.added);
        refused.push(...answer.refused);
      } catch (problem) {
        this.#failed(problem);
        return;
      }
    }
    if (refused.length) {
      const [{ name, code, message }] = refused;
      showProblem(() => t("teach.refused", { n: refused.length, name, reason: inWords(new Problem(code, message)) }));
    }
  }

  #taught({ status, added, message, version }) {
    this.#cards.learn(added);
    if (status === "refused") showProblem(() => message);
    if (this.#state && (this.#state.version !== version || this.#state.pending)) this.#askSoon();
  }

  #askSoon() {
    if (this.#asking) return;
    this.#asking = setTimeout(() => { this.#asking = 0; this.#ask(); }, ASK_MS);
  }

  async #ask() {
    if (!this.#state) return;
    try {
      this.#show(await getJson(`teach/${this.#state.id}`));
    } catch (problem) {
      this.#failed(problem);
    }
  }

  async #change(change) {
    if (!(await this.#open())) return;
    try {
      this.#show(await changeTaught(this.#state.id, change));
    } catch (problem) {
      this.#failed(problem);
      if (this.#state) this.#ask();
    }
  }

  async #addLabel(label) {
    if (!label.trim() || !(await this.#open())) return;
    find("#teach-new").value = "";
    await this.#change({ do: "add_label", label });
  }

  #show(state) {
    this.#state = state;
    this.#cards.show(state);
    showReport(state, this.#cards, (change) => this.#change(change));
    find("#teach-undo").disabled = !state.can_undo;
    const ready = Object.values(state.counts).filter((n) => n > 0).length > 1;
    for (const id of ["#teach-keep", "#teach-zip"]) find(id).disabled = !ready;
    if (state.pending && state.takes.length && !this.#stage.isRecording) this.#askSoon();
  }

  #showEmpty() {
    const labels = [t("teach.first"), t("teach.second")];
    const counts = Object.fromEntries(labels.map((label) => [label, 0]));
    const empty = { labels, counts, takes: [], conflicts: [], problem: null, report: null, pending: false };
    this.#cards.show(empty);
    showReport(empty, this.#cards, () => {});
  }

  async #from(choice) {
    const model = choice.value;
    choice.value = "";
    if (!model) return;
    this.#forget();
    await this.#open([], model);
  }

  async #save() {
    const name = find("#teach-name").value.trim();
    if (!this.#state || !name) return;
    try {
      const { model } = await saveTaught(this.#state.id, { name, overwrite: find("#teach-overwrite").checked });
      toast(t("teach.saved", { name: model }));
      await this.#reload();
    } catch (problem) {
      this.#failed(problem);
    }
  }

  async #zip() {
    try {
      saveBlob(await getBlob(`teach/${this.#state.id}/zip`), "taught.zip");
    } catch (problem) {
      this.#failed(problem);
    }
  }

  #forget() {
    this.stop();
    if (this.#state) endTeaching(this.#state.id).catch(() => {});
    this.#state = null;
    this.#cards.clear();
    this.#showEmpty();
  }

  #failed(problem) {
    if (problem.code === "no_teacher") {
      this.#state = null;
      this.#cards.clear();
      this.stop();
      this.#showEmpty();
    }
    showProblem(() => inWords(problem));
  }

  #pick(label, input) {
    this.#picked = label;
    find(input).click();
  }
}
