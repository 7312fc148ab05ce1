// Small helpers for building elements; all text goes in as text, never as markup.

export const find = (selector, root = document) => root.querySelector(selector);

/** An element with properties, attributes (`attrs`), data, listeners (`on`) and children. */
export function make(tag, { attrs = {}, data = {}, on = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attrs)) element.setAttribute(name, value);
  Object.assign(element.dataset, data);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name, className = "icon") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  setIcon(svg, name);
  return svg;
}

export function setIcon(svg, name) {
  svg.firstElementChild.setAttribute("href", `static/icons/sprite.svg#${name}`);
}

/** A canvas as sharp as the screen; gives its context and size in CSS pixels. */
export function fitCanvas(canvas, width = canvas.clientWidth, height = canvas.clientHeight) {
  const ratio = Math.min(window.devicePixelRatio || 1, 3);
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}

/** The value of a colour of the style sheet. */
export const styleColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
