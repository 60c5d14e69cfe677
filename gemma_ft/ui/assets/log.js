// The log: its last 2,000 lines, in sections that can be closed, with a filter by level, a search, and the whole file to
// download. Promises that every line is text and never markup, and that it follows the newest line until the person
// scrolls away from it.

import { make, say } from "./dom.js";

const MOST_LINES = 2000;
const NEAR_END = 24;
const LEVELS = { i: "info", w: "warning", e: "error" };

export class Log {
  constructor() {
    this.lines = 0;
    this.body = make("div", { class: "log", role: "log", tabindex: 0, "aria-label": "Log" });
    this.body.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.body;
      this.follow.checked = scrollHeight - scrollTop - clientHeight < NEAR_END;
    });
    this.open = make("div", { class: "line open" });
    this.errors = make("button", { type: "button", class: "count error", title: "Show only errors" });
    this.warnings = make("button", { type: "button", class: "count warning", title: "Show warnings and errors" });
    this.total = make("span", { class: "count" });
    this.hits = make("span", { class: "hits", "aria-live": "polite" });
    this.level = make("select", { "aria-label": "Level" });
    for (const [value, words] of [["info", "All lines"], ["warning", "Warnings and errors"], ["error", "Errors"]]) {
      this.level.append(make("option", { value }, words));
    }
    this.level.addEventListener("change", () => this.#filter());
    for (const [button, level] of [[this.errors, "error"], [this.warnings, "warning"]]) {
      button.addEventListener("click", () => {
        this.level.value = this.level.value === level ? "info" : level;
        this.#filter();
      });
    }
    this.search = make("input", { type: "search", placeholder: "Search", "aria-label": "Search in the log" });
    this.search.addEventListener("input", () => this.#search());
    this.follow = make("input", { type: "checkbox", id: "follow-log", checked: true });
    this.follow.checked = true;
    this.follow.addEventListener("change", () => this.#toEnd());
    this.download = make("a", { class: "plain-button", download: true }, "Download");
    this.node = make(
      "section",
      { class: "card" },
      make(
        "div",
        { class: "card-head" },
        make("h3", {}, "Log"),
        make(
          "div",
          { class: "tools" },
          this.total,
          this.warnings,
          this.errors,
          this.level,
          this.search,
          this.hits,
          make("label", { for: "follow-log" }, this.follow, " Follow"),
          this.download,
        ),
      ),
      this.body,
    );
    this.clear("");
  }

  clear(run) {
    this.lines = 0;
    this.section = null;
    this.body.replaceChildren();
    this.#counts([0, 0, 0]);
    this.download.href = new URL(`gemma_ft/log/${encodeURIComponent(run)}`, document.baseURI);
  }

  add(news) {
    if (news.reset) {
      this.lines = 0;
      this.section = null;
      this.body.replaceChildren();
    }
    const starts = new Map(news.sections);
    // The section that the first line stands in began before it.
    const before = news.sections.filter(([number]) => number < news.first);
    if (before.length) this.#begin(before[before.length - 1][1]);
    if (news.levels.length) {
      let lines = document.createDocumentFragment();
      news.text.split("\n").forEach((text, i) => {
        if (starts.has(news.first + i)) {
          this.#current().append(lines);
          lines = document.createDocumentFragment();
          this.#begin(starts.get(news.first + i));
        }
        lines.append(this.#line(text, LEVELS[news.levels[i]] ?? "info"));
      });
      this.#current().append(lines);
      this.lines += news.levels.length;
      this.#trim();
    }
    say(this.open, news.open);
    this.open.hidden = !news.open;
    this.#current().append(this.open);
    this.#counts(news.counts);
    this.#toEnd();
  }

  // Opens the log where the last error is told.
  showError() {
    this.level.value = "info";
    this.search.value = "";
    this.#search();
    this.#filter();
    const errors = this.body.querySelectorAll(".line.error");
    let first = errors[errors.length - 1];
    while (first?.previousElementSibling?.matches(".line.error")) first = first.previousElementSibling;
    if (!first) return;
    first.closest("details").open = true;
    this.follow.checked = false;
    this.body.scrollTop = first.offsetTop - 40;
  }

  #counts([lines, errors, warnings]) {
    say(this.total, `${lines.toLocaleString("en")} lines`);
    this.total.title = lines > MOST_LINES ? `The last ${MOST_LINES} are shown; the whole file can be downloaded.` : "";
    say(this.errors, `${errors.toLocaleString("en")} ${errors === 1 ? "error" : "errors"}`);
    say(this.warnings, `${warnings.toLocaleString("en")} ${warnings === 1 ? "warning" : "warnings"}`);
    this.errors.classList.toggle("none", !errors);
    this.warnings.classList.toggle("none", !warnings);
  }

  #begin(title) {
    this.section = make("details", { open: true }, make("summary", {}, title));
    this.body.append(this.section);
  }

  #current() {
    if (!this.section) this.#begin("Beginning");
    return this.section;
  }

  #line(text, level) {
    const line = make("div", { class: `line ${level}` }, text || " ");
    if (this.search.value) this.#mark(line);
    return line;
  }

  #trim() {
    while (this.lines > MOST_LINES) {
      const section = this.body.firstElementChild;
      const line = section.querySelector(".line:not(.open)");
      if (line) {
        line.remove();
        this.lines -= 1;
      } else if (section !== this.section) section.remove();
      else break;
    }
  }

  #filter() {
    this.body.dataset.level = this.level.value;
    this.#toEnd();
  }

  #search() {
    const lines = this.body.querySelectorAll(".line:not(.open)");
    let hits = 0;
    for (const line of lines) hits += this.#mark(line);
    say(this.hits, this.search.value ? `${hits.toLocaleString("en")} found` : "");
    this.#toEnd();
  }

  // Shows where the line has what is searched, or hides it; returns whether it has.
  #mark(line) {
    const wanted = this.search.value.toLowerCase();
    const text = line.textContent;
    const at = wanted ? text.toLowerCase().indexOf(wanted) : -1;
    line.classList.toggle("miss", Boolean(wanted) && at < 0);
    if (at < 0) {
      if (line.firstElementChild) line.textContent = text;
      return false;
    }
    line.replaceChildren(text.slice(0, at), make("mark", {}, text.slice(at, at + wanted.length)), text.slice(at + wanted.length));
    return true;
  }

  #toEnd() {
    if (this.follow.checked) this.body.scrollTop = this.body.scrollHeight;
  }
}
