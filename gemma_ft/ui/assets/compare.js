// The choice of other runs whose curves are laid over this one's. Promises that runs that are still going are asked for
// anew every few seconds while they can be seen, ended ones once.

import { make, onScreen } from "./dom.js";

const MOST = 6;
const AGAIN_MS = 5000;
const READING_MS = 100;

export class Compare {
  constructor(element, ask, show) {
    Object.assign(this, { element, ask, show, run: "" });
    this.chosen = new Set();
    this.list = make("div", { class: "compare-list" });
    this.summary = make("summary", {}, "Compare");
    this.node = make("details", { class: "compare" }, this.summary, this.list);
    document.addEventListener("click", (event) => {
      if (this.node.open && !this.node.contains(event.target)) this.node.open = false;
    });
  }

  listRuns(runs) {
    this.runs = runs;
    this.#arrange();
  }

  // The run on the screen cannot be laid over itself.
  setRun(run) {
    this.run = run;
    this.chosen.delete(run);
    this.#arrange();
    this.#fetch();
  }

  #arrange() {
    const rows = (this.runs ?? []).filter((run) => run.id !== this.run).map((run) => {
      const input = make("input", { type: "checkbox", value: run.id });
      input.checked = this.chosen.has(run.id);
      input.disabled = !input.checked && this.chosen.size >= MOST;
      input.addEventListener("change", () => {
        if (input.checked) this.chosen.add(run.id);
        else this.chosen.delete(run.id);
        this.#arrange();
        this.#fetch();
      });
      return make("label", {}, input, ` ${run.id}`);
    });
    this.list.replaceChildren(...(rows.length ? rows : [make("p", {}, "There is no other run.")]));
    this.summary.textContent = this.chosen.size ? `Compare (${this.chosen.size})` : "Compare";
  }

  async #fetch() {
    clearTimeout(this.timer);
    const runs = [...this.chosen];
    if (!runs.length) return this.show({});
    let pause = AGAIN_MS;
    if (onScreen(this.element)) {
      try {
        const { overlays } = await this.ask({ ask: "overlay", runs });
        if (runs.join() !== [...this.chosen].join()) return undefined;
        this.show(overlays);
        const found = Object.values(overlays);
        if (found.some((other) => other.reading !== null)) pause = READING_MS;
        else if (!found.some((other) => other.active)) return undefined;
      } catch {
        // Asked again later.
      }
    }
    this.timer = setTimeout(() => this.#fetch(), pause);
    return undefined;
  }
}
