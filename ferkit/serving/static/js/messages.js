// What the page tells its visitor: a problem with its remedy, a short word, a summary for screen readers.
import { Problem } from "./api.js";
import { find, icon, make } from "./dom.js";
import { currentLanguage, hasText, say, t } from "./i18n.js";
import { chosenPurpose, limit, session } from "./session.js";

const TOAST_MS = 3200;
const BETWEEN_MS = 5000;

/** Show a problem above everything else, with a button if something can be done about it. */
export function showProblem(text, action) {
  const box = find("#problem");
  if (!box.hidden && find("p", box).textContent === text()) return; // said already
  const words = say(make("p"), text);
  const actions = make("div", { className: "actions" });
  if (action) {
    const button = make("button", { type: "button", on: { click: () => { clearProblem(); action(); } } });
    actions.append(say(button, () => t("retry")));
  }
  const close = make("button", { type: "button", className: "quiet round", on: { click: clearProblem } }, icon("close"));
  close.dataset.tLabel = "close";
  close.setAttribute("aria-label", t("close"));
  actions.append(close);
  box.replaceChildren(icon("warning"), words, actions);
  box.hidden = false;
}

export function clearProblem() {
  const box = find("#problem");
  box.hidden = true;
  box.replaceChildren();
}

/** A problem of the API in plain words. */
export function inWords(problem) {
  if (!(problem instanceof Problem)) return problem.message || String(problem);
  const key = { large_frame: "too_large", large_part: "too_large" }[problem.code] ?? problem.code;
  const refused = chosenPurpose();
  const reason = (currentLanguage() === "ko" ? refused?.reason_ko : refused?.reason_en) ?? problem.message;
  const values = { message: problem.message, reason, mb: megabytes("max_bytes", 10) };
  return t(hasText(`problem.${key}`) ? `problem.${key}` : "problem.other", values);
}

export const megabytes = (name, otherwise) => Math.round(limit(name, otherwise * 1e6) / 1e6);

export function toast(text) {
  const box = make("p", { className: "toast", textContent: text });
  find("#toasts").append(box);
  announce(text);
  setTimeout(() => box.remove(), TOAST_MS);
}

let waiting = null;
let spokenAt = -Infinity;
let timer = 0;

/** Let a screen reader say something: the newest words only, and not more often than every five seconds. */
export function announce(text) {
  waiting = text;
  if (timer) return;
  timer = setTimeout(() => {
    timer = 0;
    spokenAt = performance.now();
    find("#announcer").textContent = waiting;
  }, Math.max(0, spokenAt + BETWEEN_MS - performance.now()));
}

export const isReady = () => session.info !== null && session.model !== null;
