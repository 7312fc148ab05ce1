// Tabs as the ARIA Authoring Practices have them: arrows move, one tab is in the tab order.
import { find } from "./dom.js";

export class Tabs extends EventTarget {
  #tabs = [...document.querySelectorAll('[role="tab"]')];

  constructor() {
    super();
    for (const tab of this.#tabs) tab.addEventListener("click", () => this.show(tab.id.replace("tab-", "")));
    find('[role="tablist"]').addEventListener("keydown", (event) => this.#key(event));
  }

  show(name) {
    for (const tab of this.#tabs) {
      const chosen = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      find(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
    }
    this.dispatchEvent(new CustomEvent("show", { detail: name }));
  }

  #key(event) {
    const at = this.#tabs.indexOf(document.activeElement);
    const last = this.#tabs.length - 1;
    const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    this.#tabs[to].focus();
    this.#tabs[to].click();
  }
}
