// Probabilities over time as stacked bands, and below them what was shown, in words where there is room.
import { fitCanvas, styleColor } from "./dom.js";
import { labelOf, labelText } from "./session.js";

const RIBBON = 18;
const GAP_S = 1.5;

/**
 * Draw a timeline.
 *
 * @param canvas as large as the style sheet makes it.
 * @param points `{t, values: [probability of each label], label}` in order of time.
 * @param range `[from, to]` in seconds.
 * @param labels of the model, in the order of the values.
 * @param mark a time to mark, or null.
 */
export function drawTimeline(canvas, points, [from, to], labels, mark = null) {
  const { context, width, height } = fitCanvas(canvas);
  context.clearRect(0, 0, width, height);
  const x = (time) => ((time - from) / Math.max(to - from, 1e-6)) * width;
  const floor = height - RIBBON;
  for (const run of runs(points)) {
    bands(context, run, x, floor, labels);
    ribbon(context, run, x, floor, height, labels);
  }
  if (mark !== null) {
    context.fillStyle = styleColor("--ink");
    context.fillRect(Math.min(width - 2, Math.max(0, x(mark) - 1)), 0, 2, height);
  }
}

/** Pieces in which the person was in view without a break. */
function runs(points) {
  const pieces = [];
  const usual = points.length > 1 ? (points.at(-1).t - points[0].t) / (points.length - 1) : 0;
  for (const point of points) {
    const last = pieces.at(-1)?.at(-1);
    if (last && point.t - last.t < Math.max(GAP_S, 3 * usual)) pieces.at(-1).push(point);
    else pieces.push([point]);
  }
  return pieces;
}

function bands(context, run, x, floor, labels) {
  const n = labels.length;
  const base = run.map(() => 0);
  for (let k = 0; k < n; k += 1) {
    context.beginPath();
    run.forEach((point, i) => context.lineTo(x(point.t), floor * (1 - base[i])));
    for (let i = run.length - 1; i >= 0; i -= 1) {
      base[i] += run[i].values[k];
      context.lineTo(x(run[i].t), floor * (1 - base[i]));
    }
    context.closePath();
    context.globalAlpha = 0.82;
    context.fillStyle = labels[k].color;
    context.fill();
  }
  context.globalAlpha = 1;
}

function ribbon(context, run, x, floor, height, labels) {
  context.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "middle";
  const [ink, soft] = [styleColor("--ink"), styleColor("--line-strong")];
  for (let i = 0, end; i < run.length; i = end) {
    end = i + 1;
    while (end < run.length && run[end].label === run[i].label) end += 1;
    const left = x(run[i].t);
    const right = x((run[end] ?? run.at(-1)).t);
    const label = labelOf(run[i].label, labels);
    context.fillStyle = label?.color ?? soft;
    context.fillRect(left, floor + 1, Math.max(1, right - left - 1), 3);
    const text = label ? labelText(label) : "?";
    if (context.measureText(text).width + 4 < right - left) {
      context.fillStyle = ink;
      context.fillText(text, Math.max(left + 2, 2), floor + 12, right - left - 3);
    }
  }
}
