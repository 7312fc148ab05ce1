// Language and colours: the only things that are remembered between visits.
import { find, setIcon } from "./dom.js";
import { currentLanguage, preferredLanguage, say, setLanguage, t } from "./i18n.js";

const THEMES = ["auto", "light", "dark"];
const ICONS = { auto: "auto", light: "sun", dark: "moon" };
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

export function startPreferences() {
  startLanguage();
  startTheme();
}

function startLanguage() {
  const button = find("#language");
  const other = () => (currentLanguage() === "en" ? "ko" : "en");
  const show = () => {
    button.lang = other();
    button.setAttribute("aria-label", t("language.switch"));
  };
  say(button, () => t("language.other"));
  button.addEventListener("click", () => {
    remember("language", other());
    setLanguage(other());
  });
  document.addEventListener("languagechange", show);
  setLanguage(recall("language") ?? preferredLanguage());
}

function startTheme() {
  const button = find("#theme");
  let theme = THEMES.includes(recall("theme")) ? recall("theme") : "auto";
  const show = () => {
    const dark = theme === "dark" || (theme === "auto" && systemIsDark.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    setIcon(find("svg", button), ICONS[theme]);
    button.title = t(`theme.${theme}`);
    button.setAttribute("aria-label", t(`theme.${theme}`));
    document.dispatchEvent(new CustomEvent("themechange"));
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme);
    show();
  });
  systemIsDark.addEventListener("change", show);
  document.addEventListener("languagechange", show);
  show();
}

function recall(name) {
  try {
    return localStorage.getItem(`ferkit.${name}`);
  } catch {
    return null; // storage is switched off
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`ferkit.${name}`, value);
  } catch { /* then it holds for this visit */ }
}
