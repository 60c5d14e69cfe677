// Drawing with Plotly: the library is loaded when the first chart is drawn, and a chart is drawn only when it has changed
// and can be seen, one in each frame of the screen. Promises that zoom and hover stay through all of it.

import { make, watchVisibility } from "./dom.js";

let library = null;
let address = "";

export function setLibrary(path) {
  address = path;
}

export function plotly() {
  library ??= new Promise((resolve, reject) => {
    const script = make("script", { src: new URL(address, document.baseURI) });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      library = null;
      script.remove();
      reject(new Error("the chart library could not be loaded"));
    };
    document.head.append(script);
  });
  return library;
}

const waiting = new Set();
let scheduled = false;
export const drawTimes = [];

function drawNext() {
  scheduled = false;
  for (const plot of waiting) {
    if (!plot.visible) continue;
    waiting.delete(plot);
    plot.drawNow();
    break;
  }
  if ([...waiting].some((plot) => plot.visible)) schedule();
}

function schedule() {
  if (!scheduled) requestAnimationFrame(drawNext);
  scheduled = true;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => everyPlot.forEach((plot) => plot.draw()));
const everyPlot = new Set();

export class Plot {
  // `content()` returns `{traces, layout, revision}`, or null when there is nothing to draw.
  constructor(node, name, content) {
    Object.assign(this, { node, name, content, visible: false, drawing: false, times: 0 });
    this.zoomed = null;
    everyPlot.add(this);
    watchVisibility(node, (visible) => {
      this.visible = visible;
      if (visible && waiting.has(this)) schedule();
    });
    new ResizeObserver(() => node.data && node.offsetParent && window.Plotly.Plots.resize(node)).observe(node);
  }

  draw() {
    waiting.add(this);
    if (this.visible) schedule();
  }

  async drawNow() {
    if (this.drawing) return this.draw();
    this.drawing = true;
    try {
      const Plotly = await plotly();
      if (!this.node.offsetParent) return waiting.add(this);
      const found = this.content(palette(this.node));
      if (!found) return;
      const begin = performance.now();
      await Plotly.react(this.node, found.traces, { ...frame(this.node), ...found.layout, datarevision: this.times }, this.#options());
      drawTimes.push(performance.now() - begin);
      if (drawTimes.length > 500) drawTimes.shift();
      if (!this.times) this.node.on("plotly_relayout", (event) => this.#relayout(event));
      this.times += 1;
    } finally {
      this.drawing = false;
    }
  }

  #options() {
    const named = { format: "png", filename: this.name(), scale: 2 };
    return {
      displaylogo: false,
      responsive: false,
      toImageButtonOptions: named,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d"],
    };
  }

  #relayout(event) {
    if (!this.zoomed) return;
    if ("xaxis.range[0]" in event) this.zoomed([event["xaxis.range[0]"], event["xaxis.range[1]"]]);
    else if (Array.isArray(event["xaxis.range"])) this.zoomed(event["xaxis.range"]);
    else if (event["xaxis.autorange"]) this.zoomed(null);
  }
}

export function palette(node) {
  const style = getComputedStyle(node);
  const colour = (name) => style.getPropertyValue(`--dash-${name}`).trim();
  return {
    accent: colour("accent"),
    heldOut: colour("held-out"),
    good: colour("good"),
    bad: colour("bad"),
    grid: colour("grid"),
    text: colour("text"),
    subdued: colour("subdued"),
    card: colour("card"),
    family: style.fontFamily,
    lines: ["1", "2", "3", "4", "5", "6"].map((number) => colour(`line-${number}`)),
  };
}

export function axisOf(colours, more = {}) {
  return { gridcolor: colours.grid, linecolor: colours.grid, zeroline: false, automargin: true, ...more };
}

function frame(node) {
  const colours = palette(node);
  return {
    margin: { t: 8, r: 10, b: 30, l: 44 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colours.subdued, family: colours.family, size: 11 },
    hovermode: "x unified",
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.grid, font: { color: colours.text } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colours.text } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.subdued, activecolor: colours.accent },
    dragmode: "zoom",
    showlegend: false,
  };
}
