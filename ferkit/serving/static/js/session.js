// What the visitor has chosen and what the server offers; kept in memory only.
import { currentLanguage } from "./i18n.js";

export const session = {
  info: null,
  models: [],
  model: null,
  purpose: null,
  token: null,
};

export const events = new EventTarget();

export function change(values) {
  Object.assign(session, values);
  events.dispatchEvent(new Event("change"));
}

export const chosenModel = () => session.models.find((model) => model.name === session.model);

export const chosenPurpose = () => session.info?.purposes.find((purpose) => purpose.id === session.purpose);

export const limit = (name, otherwise) => session.info?.limits?.[name] ?? otherwise;

const UNSURE = "unsure";

/** How an expression is called in the visitor's language, and its colour. */
export function labelOf(name, labels = chosenModel()?.labels ?? []) {
  if (name === UNSURE) return null;
  return labels.find((label) => label.name === name) ?? { name, en: name, ko: name, color: "#94acba" };
}

export const labelText = (label) => label[currentLanguage()] ?? label.name;
