// Files for the visitor, made in the browser and only when asked for.
import { make } from "./dom.js";
import { t } from "./i18n.js";
import { toast } from "./messages.js";
import { drawFaces } from "./overlay.js";

export function saveText(text, stem, suffix, type) {
  saveBlob(new Blob([text], { type: `${type};charset=utf-8` }), `${stem}-${stamp()}.${suffix}`);
}

export function saveBlob(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  toast(t("save.done", { name }));
}

/**
 * Save a picture with its faces drawn in, and a line that says what it is.
 *
 * @param source an image or video, `size` its width and height, in which the boxes of `faces` count.
 */
export async function savePicture(source, size, faces, { labels, mirror = false, stem = "ferkit" }) {
  const canvas = make("canvas", size);
  const context = canvas.getContext("2d");
  if (mirror) context.setTransform(-1, 0, 0, 1, size.width, 0);
  context.drawImage(source, 0, 0, size.width, size.height);
  context.setTransform(1, 0, 0, 1, 0, 0);
  const text = Math.max(13, Math.min(size.width, size.height) / 34);
  drawFaces(context, faces, { place: { scale: 1, x: 0, y: 0 }, size, mirror, labels, text });
  stampLine(context, size, text * 0.8);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  saveBlob(blob, `${stem}-${stamp()}.png`);
}

function stampLine(context, size, text) {
  const words = t("save.stamp");
  context.font = `500 ${text}px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  const width = Math.min(size.width, context.measureText(words).width + text * 1.4);
  context.fillStyle = "rgb(12 14 17 / 72%)";
  context.fillRect(0, size.height - text * 2, width, text * 2);
  context.fillStyle = "#fff";
  context.fillText(words, text * 0.7, size.height - text * 0.65, width - text * 1.4);
}

function stamp() {
  const two = (n) => String(n).padStart(2, "0");
  const now = new Date();
  return `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
}
