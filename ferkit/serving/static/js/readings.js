// Readings of the camera as a table, in memory until the visitor saves or closes them.

const MOST = 100_000;
const FIXED = ["frame", "time_s", "face", "left", "top", "right", "bottom", "quality", "label", "raw_label"];

const round = (value, digits) => Number(value.toFixed(digits));

export class Readings {
  #rows = [];
  #began_ms = null;
  labels = [];

  get isEmpty() {
    return this.#rows.length === 0;
  }

  clear(labels) {
    this.#rows = [];
    this.#began_ms = null;
    this.labels = labels;
  }

  /** Take in an answer; of a very long session the oldest readings go. */
  add(answer) {
    this.#began_ms ??= answer.captured_ms;
    const time_s = (answer.captured_ms - this.#began_ms) / 1000;
    for (const face of answer.faces) this.#rows.push({ frame: answer.frame, time_s, face });
    if (this.#rows.length > MOST * 1.1) this.#rows.splice(0, this.#rows.length - MOST);
  }

  asCsv() {
    const head = [...FIXED, ...this.labels.map((label) => `p_${label.name}`)];
    return csv([head, ...this.#rows.map((row) => this.#line(row))]);
  }

  asJson(about) {
    const names = this.labels.map((label) => label.name);
    const faces = this.#rows.map(({ frame, time_s, face }) => ({
      frame, time_s: round(time_s, 3), face: face.id, box: face.box, confidence: face.confidence, quality: face.quality,
      label: face.label, probabilities: Object.fromEntries(names.map((name, i) => [name, face.probabilities[i]])),
      raw: Object.fromEntries(names.map((name, i) => [name, face.raw[i]])),
    }));
    return JSON.stringify({ ...about, labels: names, faces }, null, 1);
  }

  #line({ frame, time_s, face }) {
    const raw = this.labels[face.raw.indexOf(Math.max(...face.raw))]?.name ?? "";
    return [frame, round(time_s, 3), face.id, ...face.box, face.quality, face.label, raw, ...face.probabilities];
  }
}

/** Faces of pictures as a table: a row for each face, and one without numbers for a picture that has none. */
export function picturesCsv(pictures, labels) {
  const names = labels.map((label) => label.name);
  const rows = pictures.flatMap(({ name, faces, error }) =>
    faces.length
      ? faces.map((face, i) => [name, i + 1, ...face.box, face.quality, face.label, ...names.map((n) => face.probabilities[n] ?? ""), ""])
      : [[name, "", "", "", "", "", "", "", ...names.map(() => ""), error ?? "no face"]]);
  return csv([["picture", "face", "left", "top", "right", "bottom", "quality", "label", ...names.map((n) => `p_${n}`), "error"], ...rows]);
}

function csv(rows) {
  // The mark at the start lets spreadsheets read Hangul; a text that begins like a formula gets an apostrophe.
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}
