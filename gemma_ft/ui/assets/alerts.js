// What the rules that watch a run have to say: those that hold now as banners, all of them as a list.

import { make } from "./dom.js";

const MOST_LISTED = 200;

export class Alerts {
  constructor() {
    this.banners = make("div", { class: "alert-banners", role: "status", "aria-label": "Alerts" });
    this.list = make("ol", { class: "alert-list" });
    this.summary = make("summary", {}, "Alerts");
    this.node = make("details", { class: "card alerts", hidden: true }, this.summary, this.list);
    this.clear();
  }

  clear() {
    this.known = [];
    this.#show();
  }

  add(alerts) {
    this.known.push(...alerts);
    this.#show();
  }

  #show() {
    const newest = new Map();
    for (const alert of this.known) newest.set(alert.rule, alert);
    const now = [...newest.values()].filter((alert) => alert.active === true);
    this.banners.replaceChildren(...now.map((alert) => this.#words(alert, "div")));
    const raised = this.known.filter((alert) => alert.active !== false);
    this.node.hidden = !raised.length;
    this.summary.textContent = `Alerts: ${raised.length}`;
    this.list.replaceChildren(...raised.slice(-MOST_LISTED).reverse().map((alert) => this.#words(alert, "li")));
  }

  #words(alert, tag) {
    const when = new Date(1000 * (alert.t ?? 0)).toLocaleTimeString();
    const where = Number.isFinite(alert.step) ? `${when}, step ${alert.step}` : when;
    const done = alert.action && alert.action !== "nothing" && alert.action !== "none" ? ` What was done: ${alert.action}.` : "";
    return make(
      tag,
      { class: "alert", "data-severity": String(alert.severity ?? "warning") },
      make("strong", {}, String(alert.title ?? alert.rule ?? "")),
      ` ${alert.advice ?? ""}${done} `,
      make("span", { class: "when" }, where),
    );
  }
}
