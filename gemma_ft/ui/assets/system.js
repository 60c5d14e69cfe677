// The machine: what it does now as bars, and what it did over the whole run as curves over the time of day. Promises to
// ask only while it can be seen, and to show this machine also when nothing trains on it.

import { DASH, make, say, size, watchVisibility } from "./dom.js";
import { axisOf, Plot } from "./plotting.js";

const MOST_POINTS = 1500;
const CHARTS = [
  { id: "cpu", title: "Processor", unit: "%", lines: [["cpu", "whole machine"], ["own_cpu", "this run"]] },
  { id: "memory", title: "Memory", unit: "GB", lines: [["memory", "whole machine"], ["own_memory", "this run"]] },
  { id: "gpu_use", title: "GPU use", unit: "%", each: "use" },
  { id: "gpu_memory", title: "GPU memory", unit: "GB", each: "memory" },
  { id: "gpu_temperature", title: "GPU temperature", unit: "°C", each: "temperature" },
  { id: "gpu_power", title: "GPU power", unit: "W", each: "power" },
  { id: "disk", title: "Disk", unit: "GB", lines: [["disk", "used"]] },
];

export class System {
  constructor() {
    this.visible = false;
    this.gauges = make("div", { class: "gauges" });
    this.note = make("span", { class: "note" });
    this.panels = CHARTS.map((chart) => {
      const canvas = make("div", { class: "chart low", id: `machine-${chart.id.replaceAll("_", "-")}-chart` });
      const node = make("figure", { class: "panel", hidden: true }, make("figcaption", {}, `${chart.title} (${chart.unit})`), canvas);
      return { chart, node, plot: new Plot(canvas, () => `${this.run}-${chart.id}`, (colours) => this.#content(chart, colours)) };
    });
    this.charts = make("div", { class: "panels small" }, ...this.panels.map((panel) => panel.node));
    this.node = make(
      "section",
      { class: "card", "aria-label": "Machine" },
      make("div", { class: "card-head" }, make("h3", {}, "Machine"), this.note),
      this.gauges,
      this.charts,
    );
    watchVisibility(this.node, (visible) => (this.visible = visible));
    this.bars = new Map();
    this.clear("");
  }

  clear(run) {
    this.run = run;
    this.t = [];
    this.curves = new Map();
    this.totals = {};
    for (const { node } of this.panels) node.hidden = true;
  }

  // What to ask for: the run's samples, and this machine as it is now unless the run's newest sample says that.
  wants(active) {
    if (!this.visible) return [];
    return active && this.t.length ? ["system"] : ["system", "machine"];
  }

  add(system) {
    if (system.totals) this.totals = system.totals;
    const before = this.t.length;
    this.t.push(...system.t);
    for (const name of Object.keys(system.curves)) {
      if (!this.curves.has(name)) this.curves.set(name, { mean: new Array(before).fill(null), high: new Array(before).fill(null) });
    }
    for (const [name, curve] of this.curves) {
      const sent = system.curves[name] ?? { mean: new Array(system.t.length).fill(null) };
      curve.mean.push(...sent.mean);
      curve.high.push(...(sent.high ?? sent.mean));
    }
    if (this.t.length > MOST_POINTS) this.#halve();
    for (const { chart, node, plot } of this.panels) {
      node.hidden = this.t.length < 2 || !this.#lines(chart).length;
      if (!node.hidden) plot.draw();
    }
  }

  // The bars: the newest sample of a run that goes on and has one, else this machine now.
  show(machine, active) {
    if (active && this.t.length) machine = undefined;
    const now = machine?.now ?? this.#newest();
    const totals = machine?.totals ?? this.totals;
    if (!now) return;
    say(this.note, machine && !active ? "Now; the curves are those of the run." : "");
    const cores = totals.cores;
    this.#bar("cpu", "Processor", now.cpu, 100, `${one(now.cpu)} %`);
    this.#bar("memory", "Memory", now.memory, totals.memory, `${size(now.memory)} of ${size(totals.memory)}`);
    this.#bar("disk", "Disk", now.disk, totals.disk, `${size(now.disk)} of ${size(totals.disk)}`);
    (totals.gpus ?? []).forEach((gpu, i) => {
      const at = (name) => now[`gpu${i}_${name}`];
      const name = totals.gpus.length > 1 ? `GPU ${i}` : "GPU";
      const heat = [at("temperature") == null ? "" : `${one(at("temperature"))} °C`, at("power") == null ? "" : `${one(at("power"))} W`];
      this.#bar(`gpu${i}`, name, at("use"), 100, [`${one(at("use"))} %`, ...heat].filter(Boolean).join(" · "), gpu.name);
      this.#bar(`gpu${i}m`, `${name} memory`, at("memory"), gpu.memory, `${size(at("memory"))} of ${size(gpu.memory)}`);
    });
    const own = active && now.own_cpu != null;
    if (own) {
      const share = cores ? now.own_cpu / cores : null;
      this.#bar("own", "This run, processor", share, 100, share === null ? `${one(now.own_cpu)} % of a core` : `${one(share)} %`);
      this.#bar("ownm", "This run, memory", now.own_memory, totals.memory, size(now.own_memory));
    }
    for (const name of ["own", "ownm"]) if (this.bars.has(name)) this.bars.get(name).node.hidden = !own;
  }

  #bar(key, title, value, most, words, hint = "") {
    if (!this.bars.has(key)) {
      const fill = make("div", { class: "bar-fill" });
      const text = make("span", {});
      const node = make("div", { class: "gauge", title: hint }, make("div", { class: "gauge-head" }, make("span", {}, title), text), make("div", { class: "bar" }, fill));
      this.bars.set(key, { node, fill, text });
      this.gauges.append(node);
    }
    const { fill, text } = this.bars.get(key);
    const share = most > 0 && Number.isFinite(value) ? Math.min(1, value / most) : 0;
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    fill.classList.toggle("high", share > 0.92);
    say(text, words);
  }

  #newest() {
    if (!this.t.length) return null;
    const now = {};
    for (const [name, curve] of this.curves) now[name] = curve.mean[curve.mean.length - 1];
    return now;
  }

  #lines(chart) {
    const found = chart.lines ?? (this.totals.gpus ?? []).map((_, i) => [`gpu${i}_${chart.each}`, `GPU ${i}`]);
    return found.filter(([name]) => this.curves.has(name));
  }

  #content(chart, colours) {
    const lines = this.#lines(chart);
    if (this.t.length < 2 || !lines.length) return null;
    const times = this.t.map((t) => new Date(1000 * t));
    const scale = (name) => (chart.unit === "GB" ? 1e-9 : name === "own_cpu" ? 1 / (this.totals.cores || 1) : 1);
    const traces = lines.map(([name, words], i) => ({
      name: words,
      x: times,
      y: this.curves.get(name)[chart.unit === "%" ? "high" : "mean"].map((value) => (value === null ? null : value * scale(name))),
      mode: "lines",
      line: { width: 1.5, color: i ? colours.lines[(i - 1) % colours.lines.length] : colours.accent },
      hovertemplate: `%{y:.3~g} ${chart.unit}`,
    }));
    const layout = {
      margin: { t: 6, r: 8, b: 26, l: 36 },
      xaxis: axisOf(colours, { type: "date", nticks: 4, tickangle: 0, tickformat: this.#timeFormat(), hoverformat: "%H:%M:%S" }),
      yaxis: axisOf(colours, { rangemode: "tozero", range: chart.unit === "%" ? [0, 102] : undefined, nticks: 5 }),
      showlegend: false,
      uirevision: `${this.run} machine`,
    };
    return { traces, layout };
  }

  #timeFormat() {
    const span = this.t[this.t.length - 1] - this.t[0];
    return span < 240 ? "%H:%M:%S" : span < 86400 ? "%H:%M" : "%d %b %H:%M";
  }

  #halve() {
    const last = this.t.length - 1;
    const rows = [];
    for (let i = 0; i < last; i += 2) rows.push(i);
    rows.push(last);
    this.t = rows.map((i) => this.t[i]);
    const pair = (values, i, join) => {
      const [one, two] = [values[i], i < last - 1 ? values[i + 1] : null];
      return one === null ? two : two === null ? one : join(one, two);
    };
    for (const curve of this.curves.values()) {
      curve.mean = rows.map((i) => pair(curve.mean, i, (one, two) => (one + two) / 2));
      curve.high = rows.map((i) => pair(curve.high, i, Math.max));
    }
  }
}

const one = (value) => (Number.isFinite(value) ? String(Math.round(value)) : DASH);
