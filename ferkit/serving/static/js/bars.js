// A reading of one face as bars: name, bar, figure; in the model's order, so that nothing jumps about.
import { make } from "./dom.js";
import { percent, say } from "./i18n.js";
import { labelText } from "./session.js";

export class Bars {
  #rows;

  constructor(labels) {
    this.element = make("ul", { className: "bars" });
    this.#rows = labels.map((label) => {
      const fill = make("span", { className: "fill" });
      const value = make("span", { className: "value" });
      const row = make("li", {}, say(make("span", { className: "name" }), () => labelText(label)),
        make("span", { className: "track", attrs: { "aria-hidden": "true" } }, fill), value);
      row.style.setProperty("--label", label.color);
      this.element.append(row);
      return { name: label.name, row, fill, value };
    });
  }

  /** Show probabilities, in the order of the labels; the label that is shown stands out. */
  show(values, shown) {
    this.#rows.forEach(({ name, row, fill, value }, i) => {
      fill.style.transform = `scaleX(${values[i].toFixed(3)})`;
      const text = percent(values[i]);
      if (value.textContent !== text) value.textContent = text;
      row.classList.toggle("shown", name === shown);
    });
  }
}
