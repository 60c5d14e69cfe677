// Small things that every part of the dashboard needs: making elements, and saying numbers and times as the page does.
// Promises that texts become text nodes, never markup.

export const DASH = "–";

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Changes the page only when there is something to change, so that nothing is laid out anew in vain.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return DASH;
  const whole = Math.max(0, Math.round(seconds));
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined || !Number.isFinite(bytes)) return DASH;
  if (bytes < 1e9) return bytes >= 1e6 ? `${Math.round(bytes / 1e6)} MB` : `${Math.round(bytes / 1e3)} kB`;
  return bytes < 1e10 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.round(bytes / 1e9)} GB`;
}

// Whether something can be seen now or soon; `changed` is called when that changes.
export function watchVisibility(node, changed) {
  new IntersectionObserver((entries) => changed(entries[entries.length - 1].isIntersecting), { rootMargin: "200px" }).observe(node);
}

// Whether the Dashboard can be seen: with its curves, or with TensorBoard below the same buttons.
export function onScreen(element) {
  const around = document.querySelector("#dashboard-tabs") ?? element;
  return document.visibilityState === "visible" && (element.offsetParent !== null || around.offsetParent !== null);
}
