// A film: sent to the server, read there as a job, looked at here, removed again.
import { getBlob, getJson, removeJob, sendFilm } from "./api.js";
import { ensurePurpose } from "./dialogs.js";
import { find, icon, make } from "./dom.js";
import { currentLanguage, decimals, percent, say, t } from "./i18n.js";
import { announce, inWords, megabytes, showProblem, toast } from "./messages.js";
import { FilmResult } from "./film-result.js";
import { saveBlob } from "./save.js";
import { chosenModel, events, limit } from "./session.js";

const EVERY_S = [0.1, 0.2, 0.5, 1, 2];
const USUAL_S = 0.5;
const POLL_MS = [400, 700, 1000, 1500];

export class Film {
  #work = find("#film-work");
  #job = null;
  #stopper = null;
  #result = null;

  constructor() {
    const every = find("#film-every");
    every.append(...EVERY_S.map((s) => make("option", { value: s, selected: s === USUAL_S })));
    for (const option of every.options) say(option, () => t("film.every.n", { n: decimals(Number(option.value)) }));
    this.#sayLimit();
    events.addEventListener("change", () => this.#sayLimit());
    window.addEventListener("pagehide", () => this.#discard());
  }

  /** Read a film, once a purpose is stated; one that is being read makes place. */
  async take(file) {
    if (!(await ensurePurpose())) return;
    this.#discard();
    if (file.size > limit("max_film_bytes", Infinity)) {
      showProblem(() => t("problem.too_large", { mb: megabytes("max_film_bytes", 500) }));
      return;
    }
    const stopper = new AbortController();
    this.#stopper = stopper;
    const labels = chosenModel().labels;
    this.#showProgress(file.name);
    try {
      await this.#read(file, labels, stopper.signal);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.#discard();
      showProblem(() => inWords(problem), () => this.take(file));
    }
  }

  async #read(file, labels, signal) {
    const options = { every: find("#film-every").value, annotated: find("#film-annotated").checked, language: currentLanguage() };
    const sent = await sendFilm(file, options, (share) => this.#progress("uploading", share), signal);
    this.#job = sent.id;
    if (signal.aborted) { this.#discard(); return; }
    const job = await this.#wait(sent, signal);
    if (signal.aborted) return;
    if (job.status !== "done") {
      this.#discard();
      showProblem(() => t("film.failed", { reason: job.reason ?? "" }), () => this.take(file));
      return;
    }
    await this.#show(file, job, labels, signal);
  }

  async #wait(sent, signal) {
    let job = sent;
    for (let turn = 0; ["queued", "running"].includes(job.status); turn += 1) {
      this.#progress(job.status, job.progress);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS[Math.min(turn, POLL_MS.length - 1)]));
      if (signal.aborted) return job;
      job = await getJson(`jobs/${job.id}`);
    }
    return job;
  }

  async #show(file, job, labels, signal) {
    const result = await getJson(`jobs/${job.id}/result.json`);
    const copy = "annotated.mp4" in job.links ? await getBlob(`jobs/${job.id}/annotated.mp4`) : null;
    if (signal.aborted) return;
    this.#result = new FilmResult(result, labels, copy ? [copy, file] : [file]);
    const save = make("div", { className: "save", attrs: { role: "group" } }, icon("save"),
      ...this.#files(job).map(({ name, text, label }) => this.#saveButton(job.id, file.name, name, text, label)));
    save.dataset.tLabel = "save.name";
    const remove = make("button", { type: "button", on: { click: () => { this.#discard(); toast(t("film.deleted")); find("#pick-film").focus(); } } },
      icon("trash"), say(make("span"), () => t("film.delete")));
    const head = make("div", { className: "film-head" }, make("h3", { textContent: file.name }), make("div", { className: "toolbar" }, remove, save));
    this.#work.replaceChildren(head, this.#result.element);
    save.setAttribute("aria-label", t("save.name"));
    this.#result.draw();
    announce(t("film.done"));
  }

  #files(job) {
    const all = [
      { name: "faces.csv", text: "CSV", label: "save.csv" },
      { name: "result.json", text: "JSON", label: "save.json" },
      { name: "timeline.png", text: "PNG", label: "save.png" },
      { name: "annotated.mp4", text: t("film.copy"), label: "film.copy.label" },
    ];
    return all.filter(({ name }) => name in job.links);
  }

  #saveButton(id, film, name, text, label) {
    const act = async () => {
      try {
        saveBlob(await getBlob(`jobs/${id}/${name}`), `${film.replace(/\.\w+$/, "")}-${name}`);
      } catch (problem) {
        showProblem(() => inWords(problem));
      }
    };
    const button = make("button", { type: "button", textContent: text, title: t(label), data: { tLabel: label }, on: { click: act } });
    button.setAttribute("aria-label", t(label));
    return button;
  }

  #showProgress(name) {
    const text = make("p", { className: "status" });
    const bar = make("progress", { max: 1, value: 0 });
    bar.setAttribute("aria-label", name);
    const cancel = make("button", { type: "button", on: { click: () => this.#discard() } }, icon("close"), say(make("span"), () => t("film.cancel")));
    this.#work.replaceChildren(make("div", { className: "card" },
      make("div", { className: "film-head" }, make("h3", { textContent: name }), cancel), bar, text));
    this.#work.hidden = false;
    find("#drop-film").classList.add("small");
    this.#progress("uploading", 0);
  }

  #progress(stage, share) {
    const bar = find("progress", this.#work);
    if (!bar) return;
    bar.value = share;
    say(find(".status", this.#work), () => `${t(`film.${stage}`)} · ${percent(share)}`);
  }

  /** Stop what is going on, and leave nothing on the server. */
  #discard() {
    this.#stopper?.abort();
    this.#stopper = null;
    if (this.#job) removeJob(this.#job).catch(() => {}); // gone already, or the server is
    this.#job = null;
    this.#result?.close();
    this.#result = null;
    this.#work.replaceChildren();
    this.#work.hidden = true;
    find("#drop-film").classList.remove("small");
  }

  #sayLimit() {
    say(find("#film-limit"), () => t("film.limit", {
      mb: megabytes("max_film_bytes", 500), minutes: Math.round(limit("max_duration_s", 1800) / 60),
    }));
  }
}
