// The live view of one run. It asks the page's server for news once a second and draws only what is new.
// Promises: texts from runs are set as text, never as markup; zoom and scroll stay where the person put them;
// nothing is asked while the tab cannot be seen; one question at a time, with longer pauses when there is no answer.

const ACTIVE_MS = 1000;
const IDLE_MS = 3000;
const LONGEST_PAUSE_MS = 15000;
const MOST_LOG_LINES = 2000;
const MOST_POINTS = 2000;
const SMOOTHING = 0.9;
const PLOTLY = "gemma_ft/plotly/plotly.min.js";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function layOut(root) {
  const parts = {
    empty: make("div", { class: "dash-empty" }, "No run yet. Press Try it on the Create tab to start the first one."),
    notice: make("div", { class: "dash-notice", role: "status", hidden: "" }),
    choice: make("select", { id: "run-choice", "aria-label": "Run" }),
    pill: make("span", { class: "pill" }),
    headline: make("span", { class: "headline", role: "status", "aria-live": "polite" }),
    name: make("span", { class: "run-name" }),
    detail: make("div", { class: "detail" }),
    bar: make("div", { class: "bar-fill" }),
    barLabel: make("div", { class: "bar-label" }),
    error: make("section", { class: "card error", role: "alert" }),
    warnings: make("section", { class: "card warnings" }),
    figures: make("dl", { class: "figures" }),
    chart: make("div", { class: "chart", id: "loss-chart" }),
    samples: make("div", { class: "samples" }),
    samplesCard: null,
    log: make("pre", { class: "log", role: "log", tabindex: "0", "aria-label": "Log" }),
    follow: make("input", { type: "checkbox", id: "follow-log" }),
  };
  parts.follow.checked = true;
  parts.bar.parentBar = make("div", { class: "bar", role: "progressbar", "aria-label": "Progress" }, parts.bar);
  parts.samplesCard = make("section", { class: "card" }, make("h3", {}, "Answers while it learns"), parts.samples);
  parts.content = make(
    "div",
    { class: "dash-content" },
    make(
      "section",
      { class: "card status" },
      make("div", { class: "status-line" }, parts.pill, parts.headline, parts.name, parts.choice),
      parts.detail,
      parts.bar.parentBar,
      parts.barLabel,
    ),
    parts.error,
    parts.warnings,
    parts.figures,
    make(
      "section",
      { class: "card" },
      make("h3", {}, "Loss"),
      make("div", { class: "chart-empty" }, "The curve begins with the first step."),
      parts.chart,
    ),
    parts.samplesCard,
    make(
      "section",
      { class: "card" },
      make(
        "div",
        { class: "log-head" },
        make("h3", {}, "Log"),
        make("label", { for: "follow-log" }, parts.follow, " Follow"),
      ),
      parts.log,
    ),
  );
  root.append(parts.notice, parts.empty, parts.content);
  return parts;
}

let plotly = null;
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = make("script", { src: new URL(PLOTLY, document.baseURI) });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("the chart library could not be loaded"));
    document.head.append(script);
  });
  return plotly;
}

// The same curve with fewer points: of each stretch the lowest and the highest, in order.
function thin(x, y) {
  if (x.length <= MOST_POINTS) return { x, y };
  const width = Math.ceil((2 * x.length) / MOST_POINTS);
  const kept = [];
  for (let begin = 0; begin < x.length; begin += width) {
    let low = begin;
    let high = begin;
    for (let i = begin; i < Math.min(begin + width, x.length); i++) {
      if (y[i] < y[low]) low = i;
      if (y[i] > y[high]) high = i;
    }
    kept.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  return { x: kept.map((i) => x[i]), y: kept.map((i) => y[i]) };
}

class Chart {
  constructor(node) {
    this.node = node;
    this.revision = 0;
    this.clear("");
    new ResizeObserver(() => window.Plotly && node.data && window.Plotly.Plots.resize(node)).observe(node);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear(run) {
    this.run = run;
    this.steps = [];
    this.loss = [];
    this.smooth = [];
    this.average = 0;
    this.weight = 0;
    this.evalSteps = [];
    this.evalLoss = [];
    this.node.hidden = true;
  }

  add(steps, evals) {
    for (let i = 0; i < steps.step.length; i++) {
      const value = steps.loss[i];
      this.steps.push(steps.step[i]);
      this.loss.push(value);
      if (value !== null) {
        // An exponential mean, corrected for its beginning, so that short runs are not drawn too high.
        this.average = SMOOTHING * this.average + (1 - SMOOTHING) * value;
        this.weight = SMOOTHING * this.weight + (1 - SMOOTHING);
      }
      this.smooth.push(value === null ? null : this.average / this.weight);
    }
    this.evalSteps.push(...evals.step);
    this.evalLoss.push(...evals.loss);
    this.node.hidden = !this.steps.length;
    if (steps.step.length || evals.step.length) this.draw();
  }

  async draw() {
    const Plotly = await loadPlotly();
    if (!this.steps.length) return;
    const style = getComputedStyle(this.node);
    const colour = (name) => style.getPropertyValue(name).trim();
    const accent = colour("--dash-accent");
    const held = colour("--dash-held-out");
    const axis = { gridcolor: colour("--dash-grid"), zeroline: false, automargin: true };
    const each = thin(this.steps, this.loss);
    const smooth = thin(this.steps, this.smooth);
    const traces = [
      { name: "each step", ...each, mode: "lines", opacity: 0.35, line: { color: accent, width: 1 } },
      { name: "training (smoothed)", ...smooth, mode: "lines", line: { color: accent, width: 2 } },
      {
        name: "held-out rows",
        x: this.evalSteps,
        y: this.evalLoss,
        mode: "lines+markers",
        line: { color: held, width: 2 },
        marker: { size: 7 },
      },
    ];
    const layout = {
      margin: { t: 24, r: 12, b: 36, l: 48 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--dash-text"), family: style.fontFamily, size: 12 },
      xaxis: { ...axis, title: { text: "step" } },
      yaxis: { ...axis, rangemode: "tozero" },
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--dash-card"), font: { color: colour("--dash-text") } },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--dash-subdued"), activecolor: accent },
      uirevision: this.run,
      datarevision: this.revision++,
    };
    await Plotly.react(this.node, traces, layout, {
      displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d"],
    });
  }
}

class Screen {
  constructor(element, poll, tellPage) {
    this.element = element;
    this.poll = poll;
    this.tellPage = tellPage;
    this.parts = layOut(element.querySelector(".dash"));
    this.chart = new Chart(this.parts.chart);
    this.cursor = { run: new URLSearchParams(location.search).get("run") };
    this.told = "";
    this.failures = 0;
    this.logLines = 0;
    this.answers = new Map();
    this.parts.choice.addEventListener("change", () => this.show(this.parts.choice.value));
    this.parts.log.addEventListener("scroll", () => this.onScroll());
    this.tick();
  }

  show(run) {
    this.cursor = { run, runs: this.cursor.runs };
    clearTimeout(this.timer);
    this.tick();
  }

  async tick() {
    let pause = IDLE_MS;
    if (document.visibilityState === "visible" && this.element.offsetParent !== null) {
      const asked = this.cursor;
      try {
        const news = await this.poll(asked);
        if (asked === this.cursor) {
          this.take(news);
          pause = news.view?.active ? ACTIVE_MS : IDLE_MS;
        }
        this.failures = 0;
      } catch {
        this.failures += 1;
        pause = Math.min(ACTIVE_MS * 2 ** this.failures, LONGEST_PAUSE_MS);
      }
      this.element.classList.toggle("offline", this.failures > 1);
    } else {
      pause = 300;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tick(), pause);
  }

  take(news) {
    const { parts } = this;
    this.cursor = news.cursor;
    if (news.runs) this.listRuns(news.runs);
    parts.notice.hidden = !news.notice;
    parts.notice.textContent = news.notice ?? "";
    parts.empty.hidden = Boolean(news.run);
    parts.content.hidden = !news.run;
    if (news.missing) parts.empty.textContent = `There is no run ${news.missing}.`;
    if (!news.run) return this.tell({ run: "" });
    if (parts.choice.value !== news.run) parts.choice.value = news.run;
    if (news.reset) this.reset(news.run);
    this.showState(news.view);
    this.chart.add(news.steps, news.evals);
    this.addSamples(news.samples);
    this.addLog(news.log);
    this.tell({ run: news.run, status: news.view.status, can: news.can });
  }

  tell(state) {
    const words = JSON.stringify(state);
    if (words !== this.told) this.tellPage(state);
    this.told = words;
  }

  reset(run) {
    this.chart.clear(run);
    this.parts.log.replaceChildren();
    this.logLines = 0;
    this.answers.clear();
    this.parts.samples.replaceChildren();
  }

  listRuns(runs) {
    this.parts.choice.replaceChildren(...runs.map((run) => make("option", { value: run.id }, `${run.id} · ${run.status}`)));
  }

  showState(view) {
    const { parts } = this;
    parts.pill.textContent = view.status;
    parts.pill.dataset.status = view.status;
    parts.headline.textContent = view.headline;
    parts.name.textContent = view.name;
    parts.detail.textContent = view.detail;
    parts.barLabel.textContent = view.progress.label;
    const { share } = view.progress;
    parts.bar.style.width = share === null ? "100%" : `${(100 * share).toFixed(1)}%`;
    parts.bar.parentBar.classList.toggle("busy", share === null);
    parts.bar.parentBar.setAttribute("aria-valuenow", share === null ? "" : Math.round(100 * share));
    parts.bar.parentBar.hidden = !view.active && !share;
    this.showError(view.error);
    parts.warnings.hidden = !view.warnings.length;
    parts.warnings.replaceChildren(...view.warnings.map((words) => make("p", {}, words)));
    if (view.published) {
      parts.detail.append(" Published: ", make("a", { href: view.published, target: "_blank", rel: "noopener" }, view.published));
    }
    parts.figures.replaceChildren(
      ...view.figures.map((f) => make("div", { title: f.hint, class: "figure" }, make("dt", {}, f.label), make("dd", {}, f.value))),
    );
  }

  /** Draw the error anew only when it is another one: what was unfolded stays unfolded. */
  showError(error) {
    const { parts } = this;
    const told = JSON.stringify(error);
    parts.error.hidden = !error;
    if (!error || told === parts.error.told) return;
    parts.error.told = told;
    const again = make("p", { class: "remedy" }, make("strong", {}, "What to do: "));
    again.append(error.what_to_do);
    const words = make("p");
    words.textContent = error.what_happened;
    parts.error.replaceChildren(make("h3", {}, error.title), words, again);
    if (error.details) {
      const text = make("pre", { tabindex: "0" });
      text.textContent = error.details;
      parts.error.append(make("details", {}, make("summary", {}, "Details"), text));
    }
  }

  addSamples(samples) {
    for (const { step, prompt, answer } of samples) {
      if (!this.answers.has(prompt)) this.answers.set(prompt, []);
      this.answers.get(prompt).push({ step, answer });
    }
    this.parts.samplesCard.hidden = !this.answers.size;
    if (!samples.length) return;
    const rows = [...this.answers].map(([prompt, said]) => {
      const shown = said.length > 1 ? [said[0], said[said.length - 1]] : said;
      const lines = shown.map(({ step, answer }) =>
        make("div", { class: "sample-answer" }, make("span", { class: "sample-step" }, `step ${step}`), answer || "(nothing)"),
      );
      return make("div", { class: "sample" }, make("div", { class: "sample-prompt" }, prompt), ...lines);
    });
    this.parts.samples.replaceChildren(...rows);
  }

  addLog(text) {
    if (!text) return;
    const { log, follow } = this.parts;
    for (const line of text.replace(/\n$/, "").split("\n")) {
      const level = / ERROR |^Traceback|^\w*Error:/.test(line) ? "error" : / WARNING /.test(line) ? "warning" : "info";
      log.append(make("span", { class: `line ${level}` }, `${line}\n`));
      this.logLines += 1;
    }
    while (this.logLines > MOST_LOG_LINES) {
      log.firstChild.remove();
      this.logLines -= 1;
    }
    if (follow.checked) log.scrollTop = log.scrollHeight;
  }

  onScroll() {
    const { log, follow } = this.parts;
    follow.checked = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  }
}

export function mount(element, poll, tellPage) {
  const screen = new Screen(element, poll, tellPage);
  window.gemmaDashboard = screen;
  // A run may have been started before this tab was opened for the first time.
  if (window.gemmaWantedRun) screen.show(window.gemmaWantedRun);
}
