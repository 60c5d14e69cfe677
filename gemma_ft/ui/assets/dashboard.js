// The live view of one run. It asks the page's server for news once a second and hands them to the parts of the screen.
// Promises: nothing is asked while the tab cannot be seen, and nothing is missed by that; one question at a time, with
// longer pauses when there is no answer; what did not change is not drawn again.

import { Alerts } from "./alerts.js";
import { Charts } from "./charts.js";
import { Compare } from "./compare.js";
import { make, onScreen, say } from "./dom.js";
import { Kpis } from "./kpis.js";
import { Log } from "./log.js";
import { drawTimes, setLibrary } from "./plotting.js";
import { Samples } from "./samples.js";
import { Status } from "./status.js";
import { System } from "./system.js";

const ACTIVE_MS = 1000;
const IDLE_MS = 3000;
const READING_MS = 30;
const HIDDEN_MS = 300;
const LONGEST_PAUSE_MS = 15000;
const NO_RUN = "No run yet. Press Try it on the Create tab to start the first one.";

class Screen {
  constructor(element, poll, tellPage) {
    Object.assign(this, { element, poll, tellPage, told: "", failures: 0, view: null, drawTimes, polls: 0 });
    this.cursor = { run: new URLSearchParams(location.search).get("run") };
    this.#layOut(element.querySelector(".dash"));
    this.status.onShowError = () => {
      this.log.showError();
      this.log.node.scrollIntoView({ behavior: "smooth", block: "nearest" });
    };
    setInterval(() => onScreen(element) && this.#count(), 1000);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#soon());
    this.tick();
  }

  get curves() {
    return this.charts.curves;
  }

  // Shows another run; with null the newest one, whichever that is.
  show(run) {
    this.cursor = { run, runs: this.cursor.runs };
    this.#soon();
  }

  async tick() {
    clearTimeout(this.timer);
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    let pause = HIDDEN_MS;
    try {
      if (onScreen(this.element)) pause = await this.#ask();
    } finally {
      this.asking = false;
      this.timer = setTimeout(() => this.tick(), this.again ? 0 : pause);
      this.again = false;
    }
  }

  // Asks once, shows what is new, and returns the pause before the next question.
  async #ask() {
    const asked = this.cursor;
    let news = null;
    try {
      news = await this.poll({ ...asked, want: this.system.wants(this.view?.active) });
    } catch {
      // No answer, as below: a server that is gone is told by an exception, or by nothing at all.
    }
    this.failures = news ? 0 : this.failures + 1;
    this.element.classList.toggle("offline", this.failures > 1);
    if (!news) return Math.min(ACTIVE_MS * 2 ** this.failures, LONGEST_PAUSE_MS);
    this.polls += 1;
    if (asked !== this.cursor) return 0; // Another run was chosen meanwhile.
    const soon = news.same ? undefined : this.take(news);
    return soon ?? (this.view?.active ? ACTIVE_MS : IDLE_MS);
  }

  // Takes the news; returns the pause before the next question if it is not the usual one.
  take(news) {
    this.cursor = news.cursor;
    if (news.runs) {
      this.status.listRuns(news.runs);
      this.compare.listRuns(news.runs);
    }
    if ("notice" in news) {
      this.notice.hidden = !news.notice;
      say(this.notice, news.notice ?? "");
    }
    if (!news.run) {
      this.#noRun(news.missing ? `There is no run ${news.missing}.` : NO_RUN);
      this.system.show(news.machine, false);
      return undefined;
    }
    this.empty.hidden = true;
    this.content.hidden = false;
    this.status.choose(news.run);
    this.reading.hidden = !("reading" in news);
    if ("reading" in news) {
      say(this.reading, `Reading what this run has written: ${Math.round(100 * news.reading)} %`);
      return READING_MS;
    }
    if (news.reset) this.#reset(news);
    if (news.view) this.#showState(news.view, news.now);
    if (news.figures) this.kpis.show(news.figures);
    this.charts.add(news);
    if (news.alerts) this.alerts.add(news.alerts);
    if (news.samples) this.samples.add(news.samples);
    if (news.log) this.log.add(news.log);
    const machineReading = news.system && "reading" in news.system;
    if (news.system && !machineReading) this.system.add(news.system);
    if (news.system || news.machine) this.system.show(news.machine, this.view?.active);
    this.#count();
    if (this.failed) this.log.showError();
    this.failed = false;
    return machineReading ? READING_MS : undefined;
  }

  #reset(news) {
    setLibrary(news.plotly);
    this.kpis.arrange(news.layout);
    const same = this.charts.run === news.run;
    this.charts.clear(news.run);
    this.system.clear(news.run);
    this.log.clear(news.run);
    this.samples.clear();
    this.alerts.clear();
    if (!same) {
      this.view = null;
      this.compare.setRun(news.run);
    }
  }

  #showState(view, now) {
    this.failed = view.status === "failed" && this.view?.status !== "failed";
    this.view = view;
    this.status.show(view, now);
    this.#tell({ run: this.charts.run, status: view.status, can: view.can });
  }

  #noRun(words) {
    this.empty.hidden = false;
    this.content.hidden = true;
    say(this.empty, words);
    this.view = null;
    this.#tell({ run: "" });
  }

  // Times go on without an answer.
  #count() {
    if (!this.view) return;
    this.status.tick();
    this.kpis.show(this.status.counted());
  }

  #tell(state) {
    const words = JSON.stringify(state);
    if (words !== this.told) this.tellPage(state);
    this.told = words;
  }

  #soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tick(), 0);
  }

  #choose(run) {
    const address = new URL(location.href);
    address.searchParams.set("run", run);
    history.replaceState(history.state, "", address);
    this.show(run);
  }

  #layOut(root) {
    this.status = new Status((run) => this.#choose(run));
    this.kpis = new Kpis();
    this.charts = new Charts((question) => this.poll(question));
    this.compare = new Compare(this.element, (question) => this.poll(question), (others) => this.charts.setOthers(others));
    this.charts.compare.append(this.compare.node);
    this.samples = new Samples();
    this.alerts = new Alerts();
    this.system = new System();
    this.log = new Log();
    this.notice = make("div", { class: "dash-notice", role: "status", hidden: true });
    this.empty = make("div", { class: "dash-empty", hidden: true }, NO_RUN);
    this.reading = make("div", { class: "reading", role: "status", hidden: true });
    this.content = make(
      "div",
      { class: "dash-content", hidden: true },
      this.status.node,
      this.reading,
      this.status.error,
      this.alerts.banners,
      this.status.warnings,
      this.kpis.node,
      this.charts.node,
      this.samples.node,
      this.alerts.node,
      this.log.node,
    );
    root.append(this.notice, this.empty, this.content, this.system.node);
  }
}

export function mount(element, poll, tellPage) {
  const screen = new Screen(element, poll, tellPage);
  window.gemmaDashboard = screen;
  // A run may have been started before this tab was opened for the first time.
  if (window.gemmaWantedRun) screen.show(window.gemmaWantedRun);
}
