// The two questions that come before anything is read: what for, and by which right.
import { find, icon, make } from "./dom.js";
import { currentLanguage, say, t } from "./i18n.js";
import { change, chosenPurpose, events, session } from "./session.js";

const name = (purpose) => purpose[currentLanguage()];
const reason = (purpose) => (currentLanguage() === "ko" ? purpose.reason_ko : purpose.reason_en) ?? "";

/** Whether a purpose is declared; asks for one if not. */
export async function ensurePurpose() {
  return session.purpose !== null || askPurpose();
}

/** Ask for the purpose; gives whether an allowed one was stated. */
export async function askPurpose() {
  const dialog = find("#purpose-dialog");
  if (dialog.open || !session.info) return false;
  const options = find("#purpose-options");
  const before = session.purpose ?? session.info.default_purpose;
  options.replaceChildren(...session.info.purposes.map((purpose) => option(purpose, purpose.id === before)));
  options.onchange = () => showChoice(session.info.purposes.find((p) => p.id === checked()));
  showChoice(session.info.purposes.find((p) => p.id === before));
  if ((await answer(dialog)) !== "ok") return false;
  change({ purpose: checked() });
  return true;
}

/** Ask for the token; gives whether one was entered. */
export async function askToken() {
  const dialog = find("#token-dialog");
  if (dialog.open) return false;
  find("#token-wrong").hidden = session.token === null;
  const input = find("#token-input");
  input.value = "";
  if ((await answer(dialog)) !== "ok" || !input.value.trim()) return false;
  change({ token: input.value.trim() });
  input.value = "";
  return true;
}

export function watchPurposeChip() {
  const chip = find("#purpose-chip");
  const text = () => {
    const purpose = chosenPurpose();
    return purpose ? name(purpose) : t("purpose.none");
  };
  const show = () => {
    chip.classList.toggle("unset", session.purpose === null);
    find("#purpose-chip-prefix").hidden = session.purpose === null;
    say(find("#purpose-chip-text"), text);
  };
  chip.addEventListener("click", askPurpose);
  events.addEventListener("change", show);
  show();
}

function option(purpose, isChecked) {
  const radio = make("input", { type: "radio", name: "purpose", value: purpose.id, checked: isChecked });
  const label = make("label", { className: purpose.allowed ? "option" : "option refused" }, radio);
  label.append(say(make("span"), () => name(purpose)));
  if (!purpose.allowed) {
    label.append(make("small", {}, icon("forbidden"), say(make("span"), () => t("purpose.refused"))));
  }
  return label;
}

function showChoice(purpose) {
  const box = find("#purpose-reason");
  find("#purpose-ok").disabled = !purpose?.allowed;
  box.hidden = !purpose || purpose.allowed;
  say(box, () => (box.hidden ? "" : reason(purpose)));
  if (!box.hidden) find("#purpose-ok").scrollIntoView({ block: "nearest" }); // on a phone both are below the fold
}

const checked = () => find("#purpose-options input:checked")?.value ?? null;

function answer(dialog) {
  dialog.returnValue = "";
  find(".cancel", dialog).onclick = () => dialog.close(); // no submit button, or the Enter key would press it
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}
