// The answers to the sample questions while the model learns: of each question the first one and the newest.

import { make } from "./dom.js";

export class Samples {
  constructor() {
    this.list = make("div", { class: "samples" });
    this.node = make("section", { class: "card", hidden: true }, make("h3", {}, "Answers while it learns"), this.list);
    this.clear();
  }

  clear() {
    this.answers = new Map();
    this.list.replaceChildren();
    this.node.hidden = true;
  }

  add(samples) {
    for (const { step, prompt, answer } of samples) {
      const said = this.answers.get(prompt);
      if (said) said[1] = { step, answer };
      else this.answers.set(prompt, [{ step, answer }]);
    }
    this.node.hidden = !this.answers.size;
    const rows = [...this.answers].map(([prompt, said]) => {
      const lines = said.map(({ step, answer }) =>
        make("div", { class: "sample-answer" }, make("span", { class: "sample-step" }, `step ${step}`), make("span", {}, answer || "(nothing)")),
      );
      return make("div", { class: "sample" }, make("div", { class: "sample-prompt" }, prompt), ...lines);
    });
    this.list.replaceChildren(...rows);
  }
}
