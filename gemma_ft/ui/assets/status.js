// The control panel: one truth about the run's state, its progress, and what went wrong. Times that go on by themselves
// are counted here, by the server's clock. Promises texts as text.

import { DASH, duration, make, say } from "./dom.js";

const OVERDUE_SECONDS = 30;

export class Status {
  constructor(choose) {
    this.offset = 0;
    this.view = null;
    this.pill = make("span", { class: "pill" });
    this.headline = make("span", { class: "headline", role: "status", "aria-live": "polite" });
    this.name = make("span", { class: "run-name" });
    this.choice = make("select", { id: "run-choice", "aria-label": "Run" });
    this.choice.addEventListener("change", () => choose(this.choice.value));
    this.detail = make("span", { class: "detail" });
    this.published = make("a", { target: "_blank", rel: "noopener", hidden: true });
    this.fill = make("div", { class: "bar-fill" });
    this.bar = make("div", { class: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 }, this.fill);
    this.label = make("span", {});
    this.times = make("span", { class: "times" });
    this.error = make("section", { class: "card error", role: "alert", hidden: true });
    this.warnings = make("section", { class: "card warnings", hidden: true });
    this.node = make(
      "section",
      { class: "card status" },
      make("div", { class: "status-line" }, this.pill, this.headline, this.name, this.choice),
      make("div", { class: "detail-line" }, this.detail, this.published),
      this.bar,
      make("div", { class: "bar-label" }, this.label, this.times),
    );
  }

  listRuns(runs) {
    const chosen = this.choice.value;
    this.choice.replaceChildren(...runs.map((run) => make("option", { value: run.id }, `${run.id} · ${run.status}`)));
    if (chosen) this.choice.value = chosen;
  }

  // Shows which run is on the screen, also one that is too old for the list.
  choose(run) {
    if (this.choice.value === run) return;
    if (![...this.choice.options].some((option) => option.value === run)) this.choice.append(make("option", { value: run }, run));
    this.choice.value = run;
  }

  show(view, now) {
    this.offset = now - Date.now() / 1000;
    this.view = view;
    say(this.pill, view.status);
    this.pill.dataset.status = view.status;
    say(this.headline, view.headline);
    say(this.name, view.model ? `${view.name} · ${view.model}` : view.name);
    this.published.hidden = !view.published;
    if (view.published) {
      say(this.published, view.published);
      if (/^https?:/.test(view.published)) this.published.href = view.published;
    }
    const { share, label } = view.progress;
    this.fill.style.width = share === null ? "100%" : `${(100 * share).toFixed(1)}%`;
    this.bar.classList.toggle("busy", share === null);
    if (share === null) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
    this.bar.dataset.status = view.status;
    this.bar.hidden = !view.active && !share;
    say(this.label, label);
    this.#showError(view);
    this.warnings.hidden = !view.warnings.length;
    const said = view.warnings.join("\n");
    if (this.warned !== said) this.warnings.replaceChildren(...view.warnings.map((words) => make("p", {}, words)));
    this.warned = said;
    this.tick();
  }

  now() {
    return Date.now() / 1000 + this.offset;
  }

  // What the view's clock says now: seconds of all attempts, seconds that are left, dollars spent.
  counted() {
    const { clock } = this.view;
    const now = this.now();
    const elapsed = clock.spent === null ? null : clock.spent + (clock.since === null ? 0 : Math.max(0, now - clock.since));
    // A run that is long overdue is stuck, and when it will end is not known.
    const late = clock.ends_at === null || now - clock.ends_at > OVERDUE_SECONDS;
    const left = late ? null : Math.max(0, clock.ends_at - now);
    const price = clock.dollars_per_hour === null || elapsed === null ? null : (elapsed / 3600) * clock.dollars_per_hour;
    return { elapsed: duration(elapsed), left: duration(left), price: price === null ? DASH : `$${price.toFixed(2)}` };
  }

  // Called once a second: counts on without asking anybody.
  tick() {
    if (!this.view) return;
    const { clock, detail } = this.view;
    const due = clock.due_at === null ? null : Math.max(0, clock.due_at - this.now());
    say(this.detail, detail.replace("{left}", duration(due)));
    const { elapsed, left } = this.counted();
    const parts = [elapsed === DASH ? "" : `${elapsed} elapsed`, left === DASH ? "" : `${left} left`];
    say(this.times, parts.filter(Boolean).join(" · "));
  }

  #showError({ error, last_line }) {
    this.error.hidden = !error;
    const said = JSON.stringify([error, last_line]);
    if (!error || this.told === said) return;
    this.told = said;
    const parts = [make("h3", {}, error.title), make("p", {}, error.what_happened)];
    if (error.what_to_do) parts.push(make("p", { class: "remedy" }, make("strong", {}, "What to do: "), error.what_to_do));
    const details = error.details || last_line;
    if (details) parts.push(make("details", {}, make("summary", {}, "Details"), make("pre", { tabindex: 0 }, details)));
    const jump = make("button", { type: "button", class: "plain-button" }, "Show it in the log");
    jump.addEventListener("click", () => this.onShowError?.());
    this.error.replaceChildren(...parts, jump);
  }
}
