// The charts of a run: loss and what else was measured at its steps, over steps, time or tokens, with other runs laid
// over. Promises a few lines and at most about 1,500 points each, marks for epochs, checkpoints, seams, alerts and the
// best evaluation, and that zooming in asks for that stretch in detail.

import { make } from "./dom.js";
import { Curves } from "./curves.js";
import { axisOf, Plot } from "./plotting.js";

const CHARTS = [
  { id: "loss", title: "Loss", lines: ["loss"], held: "loss", logs: true, wide: true, zero: true },
  { id: "reward_accuracy", title: "Reward accuracy", lines: ["reward_accuracy"], held: "reward_accuracy", percent: true },
  { id: "rewards", title: "Rewards", lines: ["chosen_reward", "rejected_reward"] },
  { id: "reward_margin", title: "Reward margin", lines: ["reward_margin"], held: "reward_margin" },
  { id: "learning_rate", title: "Learning rate", lines: ["learning_rate"], exact: true },
  { id: "grad_norm", title: "Gradient norm", lines: ["grad_norm"], logs: true },
  { id: "tokens_per_second", title: "Tokens per second", lines: ["tokens_per_second"], big: true },
  { id: "token_accuracy", title: "Token accuracy", lines: ["token_accuracy"], held: "token_accuracy", percent: true },
  { id: "entropy", title: "Entropy", lines: ["entropy"] },
];
const NAMES = { loss: "training", chosen_reward: "chosen", rejected_reward: "rejected" };
const AXES = { step: "Steps", clock: "Time", tokens: "Tokens" };
const MOST_LINES = 40;
const MOST_TICKS = 120;
const REFINE_MS = 250;

export class Charts {
  constructor(ask) {
    this.ask = ask;
    this.curves = new Curves();
    this.marks = [];
    this.alerts = [];
    this.others = new Map();
    this.run = "";
    this.kind = "step";
    this.smoothing = 0.8;
    this.logarithmic = false;
    this.node = make("section", { class: "card curves", "aria-label": "Curves" }, this.#tools(), this.#grid());
    this.clear("");
  }

  clear(run) {
    this.run = run;
    this.curves.clear();
    this.marks = [];
    this.alerts = [];
    this.#arrange();
  }

  add({ steps, evals, marks, alerts }) {
    if (steps) this.curves.add(steps);
    if (evals) this.curves.addEvals(evals);
    if (marks) this.marks.push(...marks.map(([kind, step, text]) => ({ kind, step, text })));
    if (alerts) this.alerts.push(...alerts.filter((alert) => alert.active !== false && Number.isFinite(alert.step)));
    if (steps || evals || marks || alerts) this.redraw();
  }

  // The losses of other runs, by their ids.
  setOthers(others) {
    this.others.clear();
    for (const [id, { name, steps, evals }] of Object.entries(others)) {
      const curves = new Curves();
      curves.add(steps);
      curves.addEvals(evals);
      this.others.set(id, { name, curves });
    }
    this.redraw();
  }

  redraw() {
    this.#arrange();
    for (const panel of this.panels) if (!panel.node.hidden) panel.plot.draw();
  }

  #tools() {
    const axis = make("div", { class: "segments", role: "radiogroup", "aria-label": "X axis" });
    for (const [kind, label] of Object.entries(AXES)) {
      const input = make("input", { type: "radio", name: "curve-axis", value: kind, checked: kind === "step" });
      input.addEventListener("change", () => {
        this.kind = kind;
        this.curves.dropDetail();
        this.redraw();
      });
      axis.append(make("label", {}, input, make("span", {}, label)));
    }
    const logs = make("input", { type: "checkbox", id: "curve-log" });
    logs.addEventListener("change", () => {
      this.logarithmic = logs.checked;
      this.redraw();
    });
    const smoothing = make("input", { type: "range", id: "curve-smoothing", min: 0, max: 0.99, step: 0.01, value: 0.8 });
    smoothing.addEventListener("input", () => {
      this.smoothing = Number(smoothing.value);
      this.redraw();
    });
    this.compare = make("div", { class: "compare-slot" });
    return make(
      "div",
      { class: "card-head" },
      make("h3", {}, "Curves"),
      make(
        "div",
        { class: "tools" },
        axis,
        make("label", {}, logs, " Log scale"),
        make("label", { class: "slider" }, "Smoothing ", smoothing),
        this.compare,
      ),
    );
  }

  #grid() {
    this.waiting = make("div", { class: "chart-empty" }, "The curves begin with the first step.");
    this.panels = CHARTS.map((chart) => {
      const canvas = make("div", { class: "chart", id: `${chart.id.replaceAll("_", "-")}-chart` });
      const node = make("figure", { class: chart.wide ? "panel wide" : "panel" }, make("figcaption", {}, chart.title), canvas);
      const plot = new Plot(canvas, () => `${this.run}-${chart.id}`, (colours) => this.#content(chart, colours));
      plot.zoomed = (range) => this.#zoomed(range);
      return { chart, node, plot };
    });
    return make("div", { class: "panels" }, this.waiting, ...this.panels.map((panel) => panel.node));
  }

  #arrange() {
    const begun = this.curves.axis.step.length > 0;
    this.waiting.hidden = begun;
    for (const { chart, node } of this.panels) {
      node.hidden = !begun || !(chart.lines.some((name) => this.curves.has(name)) || (chart.held && chart.held in this.curves.evals));
    }
  }

  #zoomed(range) {
    clearTimeout(this.refining);
    if (!range) {
      this.curves.dropDetail();
      return this.redraw();
    }
    this.refining = setTimeout(async () => {
      const [from, to] = range.map((value) => this.curves.stepAt(this.kind, value * this.#unit().seconds));
      const run = this.run;
      try {
        const { steps } = await this.ask({ ask: "refine", run, from, to });
        if (steps && run === this.run) {
          this.curves.addDetail(steps);
          this.redraw();
        }
      } catch {
        // The curve stays as it is; the next poll says whether the server is there.
      }
    }, REFINE_MS);
  }

  // How the x axis counts: time in the unit that suits the run.
  #unit() {
    if (this.kind !== "clock") return { seconds: 1, name: this.kind === "step" ? "step" : "tokens" };
    const { clock } = this.curves.axis;
    const last = clock[clock.length - 1] ?? 0;
    return last > 2 * 3600 ? { seconds: 3600, name: "hours" } : last > 180 ? { seconds: 60, name: "minutes" } : { seconds: 1, name: "seconds" };
  }

  #x(steps, curves = this.curves) {
    const { seconds } = this.#unit();
    const along = curves.along(this.kind, steps);
    return seconds === 1 ? along : along.map((value) => value / seconds);
  }

  #line(name, [steps, y], more, curves = this.curves) {
    return { name, x: this.#x(steps, curves), y, mode: "lines", ...more };
  }

  #content(chart, colours) {
    const { curves } = this;
    if (!curves.axis.step.length) return null;
    const format = chart.percent ? ".1%" : ".4~g";
    const hovertemplate = `%{y:${format}}`;
    const traces = [];
    const two = chart.lines.length > 1;
    const line = (name, i) => ({ color: two && i ? colours.heldOut : colours.accent, width: 2 });
    chart.lines.forEach((name, i) => {
      if (!curves.has(name)) return;
      const label = NAMES[name] ?? chart.title.toLowerCase();
      if (!chart.exact) {
        const pale = { opacity: 0.35, line: { ...line(name, i), width: 1 }, showlegend: chart.wide, hovertemplate };
        traces.push(this.#line(chart.wide ? "each step" : "measured", curves.outline(name), pale));
      }
      const found = chart.exact ? curves.means(name) : curves.smooth(name, this.smoothing);
      const words = chart.exact ? label : two ? label : `${label} (smoothed)`;
      traces.push(this.#line(words, found, { line: line(name, i), hovertemplate }));
    });
    if (chart.held && curves.evals[chart.held]) traces.push(this.#held(chart, colours, hovertemplate));
    this.#addOthers(chart, colours, traces, hovertemplate);
    if (chart.id === "loss") traces.push(...this.#best(colours), this.#ticks(colours));
    return { traces, layout: this.#layout(chart, colours, traces) };
  }

  #held(chart, colours, hovertemplate) {
    const { step } = this.curves.evals;
    return this.#line("held-out rows", [step, this.curves.evals[chart.held]], {
      mode: step.length > 200 ? "lines" : "lines+markers",
      line: { color: colours.heldOut, width: 2 },
      marker: { size: 6 },
      hovertemplate,
    });
  }

  #addOthers(chart, colours, traces, hovertemplate) {
    let number = 0;
    for (const { name, curves } of this.others.values()) {
      const line = { color: colours.lines[number++ % colours.lines.length], width: 1.5 };
      for (const of of chart.lines) {
        if (curves.curves.has(of)) traces.push(this.#line(name, curves.smooth(of, this.smoothing), { line, hovertemplate }, curves));
      }
      if (chart.held && curves.evals[chart.held] && chart.wide) {
        const held = [curves.evals.step, curves.evals[chart.held]];
        traces.push(this.#line(`${name}, held-out`, held, { line: { ...line, dash: "dot" }, hovertemplate, showlegend: false }, curves));
      }
    }
  }

  #best(colours) {
    const best = this.curves.best();
    if (!best) return [];
    return [
      this.#line("best held-out", [[best.step], [best.loss]], {
        mode: "markers",
        marker: { symbol: "star", size: 13, color: colours.good, line: { width: 1, color: colours.card } },
        hovertemplate: `%{y:.4~g} at step ${best.step.toLocaleString("en")}`,
      }),
    ];
  }

  // Checkpoints along the bottom, alerts and warnings along the top.
  #ticks(colours) {
    const checkpoints = this.marks.filter((mark) => mark.kind === "checkpoint").slice(-MOST_TICKS);
    const warnings = this.marks.filter((mark) => mark.kind === "warning" && mark.step > 0).slice(-MOST_TICKS);
    const points = [
      ...checkpoints.map(({ step }) => ({ step, y: 0.02, symbol: "line-ns-open", colour: colours.subdued, text: "checkpoint" })),
      ...warnings.map(({ step, text }) => ({ step, y: 0.97, symbol: "circle", colour: colours.heldOut, text })),
      ...this.alerts.map(({ step, title, severity }) => ({
        step,
        y: 0.97,
        symbol: "triangle-down",
        colour: severity === "error" || severity === "critical" ? colours.bad : colours.heldOut,
        text: String(title),
      })),
    ];
    return {
      name: "marks",
      x: this.#x(points.map((point) => point.step)),
      y: points.map((point) => point.y),
      yaxis: "y2",
      mode: "markers",
      marker: {
        symbol: points.map((point) => point.symbol),
        color: points.map((point) => point.colour),
        size: 9,
      },
      text: points.map(({ text }) => plain(text)),
      hovertemplate: "%{text}<extra></extra>",
      showlegend: false,
    };
  }

  #layout(chart, colours, traces) {
    const unit = this.#unit();
    const vertical = (steps, line) =>
      this.#x(steps).map((x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", layer: "below", line }));
    const epochs = this.curves.epochs();
    const seams = this.marks.filter((mark) => mark.kind === "seam").slice(-MOST_LINES);
    const shapes = [
      ...(epochs.length <= MOST_LINES ? vertical(epochs.map((mark) => mark.step), { color: colours.grid, width: 1, dash: "dot" }) : []),
      ...vertical(seams.map((mark) => mark.step), { color: colours.heldOut, width: 1, dash: "dash" }),
    ];
    const named = (steps, text, colour) =>
      this.#x(steps).map((x, i) => ({ x, y: 1, yref: "paper", text: text(i), showarrow: false, xanchor: "left", yanchor: "top", font: { size: 10, color: colour } }));
    const annotations = !chart.wide
      ? []
      : [
          ...(epochs.length <= 12 ? named(epochs.map((mark) => mark.step), (i) => `epoch ${epochs[i].epoch}`, colours.subdued) : []),
          ...(seams.length <= 6 ? named(seams.map((mark) => mark.step), () => "resumed", colours.heldOut) : []),
        ];
    const logarithmic = this.logarithmic && chart.logs;
    return {
      margin: { t: chart.wide ? 30 : 6, r: 10, b: 34, l: 46 },
      showlegend: chart.wide || traces.length > 3,
      shapes,
      annotations,
      xaxis: axisOf(colours, { title: chart.wide ? { text: unit.name, standoff: 4 } : undefined, tickformat: this.kind === "clock" ? "" : "~s", hoverformat: this.kind === "clock" ? ".2~f" : ",d" }),
      yaxis: axisOf(colours, {
        type: logarithmic ? "log" : "linear",
        tickformat: chart.percent ? ".0%" : chart.id === "learning_rate" ? ".1e" : chart.big ? "~s" : "",
        dtick: logarithmic ? "D2" : undefined,
        rangemode: chart.zero && !logarithmic ? "tozero" : "normal",
      }),
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      uirevision: `${this.run} ${this.kind} ${logarithmic}`,
    };
  }
}

// Plotly reads some tags in texts; what came from a run stays text.
function plain(text) {
  return String(text).slice(0, 200).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

