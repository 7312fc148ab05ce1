// What the page says, in the language of its visitor. Elements remember how to say themselves again.
import en from "./texts-en.js";
import ko from "./texts-ko.js";

const TEXTS = { en, ko };
const sayers = new WeakMap();
let language = "en";

export const currentLanguage = () => language;

/** The sentence called `key`; `{name}` in it is replaced by `values.name`. */
export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? TEXTS.en[key] ?? key;
  return withParticles(text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? ""));
}

// The final consonant of a sign's Korean name: 영, 일, 이, 삼 …, 퍼센트 (8 is ㄹ).
const FINALS = { 0: 21, 1: 8, 2: 0, 3: 16, 4: 0, 5: 0, 6: 1, 7: 8, 8: 8, 9: 0, "%": 0 };

/** `슬픔은(는)` as `슬픔은`: where the letter before tells which of the two forms is right. */
function withParticles(text) {
  return text.replace(/([가-힣0-9%])(?:(은|이|을|과)\((는|가|를|와)\)|\(으\)로)/g, (_, before, closed, open) => {
    const final = FINALS[before] ?? (before.charCodeAt(0) - 0xac00) % 28;
    if (closed) return before + (final ? closed : open);
    return before + ([0, 8].includes(final) ? "로" : "으로");
  });
}

export const hasText = (key) => key in TEXTS.en;

/** Let `element` show what `text` gives, now and whenever the language changes. */
export function say(element, text) {
  sayers.set(element, text);
  element.dataset.said = "";
  put(element, text());
  return element;
}

/** Take over another language and say everything again. */
export function setLanguage(name) {
  language = name in TEXTS ? name : "en";
  document.documentElement.lang = language;
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-t]")) put(element, t(element.dataset.t));
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.tagName === "BUTTON") element.title = t(element.dataset.tLabel);
    if (element.type === "text") element.placeholder = t(element.dataset.tLabel);
  }
  for (const element of document.querySelectorAll("[data-said]")) put(element, sayers.get(element)?.() ?? "");
  document.dispatchEvent(new CustomEvent("languagechange"));
}

export function preferredLanguage(languages = navigator.languages) {
  for (const wanted of languages ?? []) {
    const short = wanted.slice(0, 2).toLowerCase();
    if (short in TEXTS) return short;
  }
  return "en";
}

export const percent = (value) => value.toLocaleString(language, { style: "percent" });

export const decimals = (value, digits = 1) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function put(element, text) {
  // Live regions speak on every write, even of the same words.
  if (element.textContent !== text) element.textContent = text;
}
