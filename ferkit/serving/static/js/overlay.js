// Boxes and labels over a picture: a person's colour and number, the expression's colour and name.
import { labelOf, labelText } from "./session.js";
import { percent, t } from "./i18n.js";

const PEOPLE = ["#5fd3c6", "#ffb454", "#a8b5ff", "#ff9bb0", "#b9dc6a", "#7cc7ff", "#e3a8f0", "#f0e07a"];
const INK = "#101316";
const FONT = 'Inter, Pretendard, system-ui, "Apple SD Gothic Neo", "Noto Sans KR", "Malgun Gothic", NanumGothic, sans-serif';

export const personColor = (n) => PEOPLE[(n - 1 + PEOPLE.length * 1000) % PEOPLE.length];

/** Where a picture of this size lies in a frame of that size when it is shown whole. */
export function fitInside(size, frame) {
  const scale = Math.min(frame.width / size.width, frame.height / size.height);
  return { scale, x: (frame.width - size.width * scale) / 2, y: (frame.height - size.height * scale) / 2 };
}

/**
 * Draw faces.
 *
 * @param context of a canvas; its units are CSS pixels.
 * @param faces `{n, box: [left, top, right, bottom], label, confidence}`, boxes in pixels of the picture.
 * @param place `{scale, x, y}` of the picture on the canvas, `size` of the canvas, `mirror`, `labels` of the model,
 *   `text` for the size of letters, `keepFree` for `{x, y, width, height}` where no label may be.
 */
export function drawFaces(context, faces, { place, size, mirror = false, labels, text = 15, keepFree = [] }) {
  const taken = [...keepFree];
  for (const face of faces) {
    let [left, top, right, bottom] = face.box.map((v, i) => v * place.scale + (i % 2 ? place.y : place.x));
    if (mirror) [left, right] = [size.width - right, size.width - left];
    const color = personColor(face.n);
    corners(context, left, top, right, bottom, color);
    chip(context, face, { left, top, bottom }, color, { size, labels, text, taken });
  }
}

/** What is written beside a face. */
export function faceText(face, labels) {
  const label = labelOf(face.label, labels);
  return label ? `${labelText(label)} ${percent(face.confidence)}` : t("people.unsure");
}

function corners(context, left, top, right, bottom, color) {
  const arm = Math.max(8, Math.min(right - left, bottom - top) * 0.24);
  const r = Math.min(12, arm / 2);
  const path = new Path2D();
  for (const [x, y, sx, sy] of [[left, top, 1, 1], [right, top, -1, 1], [right, bottom, -1, -1], [left, bottom, 1, -1]]) {
    path.moveTo(x, y + sy * arm);
    path.arcTo(x, y, x + sx * r, y, r);
    path.lineTo(x + sx * arm, y);
  }
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const [style, width] of [["rgb(10 12 15 / 55%)", 6], [color, 3]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.stroke(path);
  }
}

function chip(context, face, { left, top, bottom }, color, { size, labels, text, taken }) {
  const label = labelOf(face.label, labels);
  const words = faceText(face, labels);
  context.font = `600 ${text}px ${FONT}`;
  context.textBaseline = "middle";
  const height = text * 1.75;
  const number = String(face.n);
  const badge = Math.max(height, context.measureText(number).width + text * 0.9);
  const dot = label ? text * 0.95 : 0;
  const width = badge + dot + context.measureText(words).width + text * 1.15;
  const x = Math.max(2, Math.min(left, size.width - width - 2));
  const y = freePlace(taken, { x, width, height }, top, bottom, size);
  taken.push({ x, y, width, height });
  context.fillStyle = "rgb(12 14 17 / 84%)";
  rounded(context, x, y, width, height, height * 0.32);
  context.fillStyle = color;
  rounded(context, x, y, badge, height, height * 0.32);
  context.fillStyle = INK;
  context.textAlign = "center";
  context.fillText(number, x + badge / 2, y + height * 0.53);
  context.textAlign = "left";
  if (label) {
    context.fillStyle = label.color;
    context.beginPath();
    context.arc(x + badge + text * 0.85, y + height / 2, text * 0.3, 0, 2 * Math.PI);
    context.fill();
  }
  context.fillStyle = "#fff";
  context.fillText(words, x + badge + dot + text * 0.5, y + height * 0.53);
}

/** Above the face if there is room, below it or inside otherwise, and not over another label. */
function freePlace(taken, { x, width, height }, top, bottom, size) {
  const [above, below] = [top - height - 6, bottom + 6];
  const fits = (y) => y >= 2 && y + height <= size.height - 2
    && taken.every((o) => x + width < o.x || o.x + o.width < x || y + height < o.y || o.y + o.height < y);
  return [above, below, top + 4, bottom - height - 4, above - height - 2, below + height + 2].find(fits) ?? Math.max(2, Math.min(above, size.height - height - 2));
}

function rounded(context, x, y, width, height, r) {
  context.beginPath();
  context.roundRect(x, y, width, height, r);
  context.fill();
}
