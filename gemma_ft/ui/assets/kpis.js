// The figures above the curves, in groups, each with a hint for the pointer. Promises to touch only what has changed.

import { DASH, make, say } from "./dom.js";

export class Kpis {
  constructor() {
    this.node = make("section", { class: "kpis", "aria-label": "Figures" });
    this.values = new Map();
  }

  arrange(layout) {
    this.values.clear();
    this.node.replaceChildren(
      ...Object.entries(layout).map(([title, figures]) => {
        const list = make("dl");
        for (const [key, label, hint] of figures) {
          const value = make("dd", { "data-key": key }, DASH);
          this.values.set(key, value);
          list.append(make("div", { class: "kpi", title: hint }, make("dt", {}, label), value));
        }
        return make("section", { class: "card kpi-group" }, make("h3", {}, title), list);
      }),
    );
  }

  show(figures) {
    for (const [key, text] of Object.entries(figures)) {
      const node = this.values.get(key);
      if (!node) continue;
      say(node, text);
      if (node.title !== text) node.title = text;
    }
  }
}
