// How well the taught classes are told apart, or what is missing before that can be said.
import { find, make } from "./dom.js";
import { percent, say, t } from "./i18n.js";

const AS_PERSON = { person: "teach.by.person", take: "teach.by.take" };

const rounded = (value) => percent(Math.round(value * 100) / 100);

/** Show a session's report; `cards` has the pictures, `change` makes a change of the examples. */
export function showReport(state, cards, change) {
  const box = find("#teach-report");
  const report = state.report;
  const parts = [make("div", { className: "side-head" }, say(make("h2"), () => t("teach.report")), pending(state))];
  if (state.problem) parts.push(line("warn", () => state.problem));
  if (state.conflicts.length) parts.push(line("warn", () => t("teach.conflict", { n: state.conflicts.length })));
  if (!report) parts.push(line("empty", () => t("teach.missing.class")));
  else {
    parts.push(...(report.accuracy ? accuracy(report) : report.missing.map(missing)));
    for (const [first, second, share] of report.confused) {
      parts.push(line("", () => t("teach.confused", { first, second, share: rounded(share) })));
    }
    if (report.growth.length > 1) parts.push(growth(report.growth));
    if (report.disagreements.length) parts.push(...disagreements(report.disagreements, cards, change));
  }
  box.replaceChildren(...parts);
  box.classList.toggle("pending", state.pending);
}

const line = (className, text) => say(make("p", { className }), text);

function pending(state) {
  return say(make("span", { className: "count", attrs: { role: "status" } }), () => (state.pending && state.takes.length ? t("teach.pending") : ""));
}

function missing({ code, label, count }) {
  const kind = code === "take" && count === 1 ? "second" : code;
  return line("ask", () => t(`teach.missing.${kind}`, { label }));
}

function accuracy(report) {
  const { value, low, high } = report.accuracy;
  const total = Object.values(report.counts).reduce((a, b) => a + b, 0);
  const chance = Math.max(...Object.values(report.counts)) / total;
  const values = () => ({ value: rounded(value), low: rounded(low), high: rounded(high), n: report.n_units, chance: rounded(chance) });
  return [
    say(make("p", { className: "figure" }), () => rounded(value)),
    line("", () => t("teach.accuracy", { ...values(), unit: t(AS_PERSON[report.unit]) })),
  ];
}

function growth(points) {
  const list = make("ul", { className: "growth" });
  for (const [n, value] of points) {
    const fill = make("span", { className: "fill" });
    fill.style.transform = `scaleX(${value})`;
    list.append(make("li", {}, say(make("span", { className: "name" }), () => t("teach.growth.n", { n: Math.round(n) })),
      make("span", { className: "track", attrs: { "aria-hidden": "true" } }, fill), say(make("span", { className: "value" }), () => rounded(value))));
  }
  return make("div", {}, say(make("h3"), () => t("teach.growth")), list);
}

function disagreements(found, cards, change) {
  const list = make("ul", { className: "odd-list" });
  for (const { id, label } of found.slice(0, 8)) {
    const source = cards.image(id);
    const move = make("button", { type: "button", on: { click: () => change({ do: "move", ids: [id], to: label }) } });
    const remove = make("button", { type: "button", on: { click: () => change({ do: "remove", ids: [id] }) } });
    list.append(make("li", {}, source ? make("img", { src: source, alt: "", width: 56, height: 56 }) : make("span", { className: "thumb" }),
      say(move, () => t("teach.odd.move", { label })), say(remove, () => t("teach.odd.remove"))));
  }
  return [line("warn", () => t("teach.odd", { n: found.length })), list];
}
