// The curves of one run as this browser knows them: what the server sent at first, what came since, and the stretch that
// was asked for in detail. Promises bounded memory (a long curve is thinned here as the server does it: of each stretch
// the lowest and the highest value stay) and that smoothing depends on steps, not on how many points stand for them.

const MOST_POINTS = 1500;
const KEPT_POINTS = 1000;
const SMOOTH_PARTS = 500;
const AXES = ["step", "clock", "tokens", "epoch"];

// The same curve with fewer points.
export function thin(x, y, most = KEPT_POINTS) {
  if (x.length <= most) return [x, y];
  const width = Math.ceil((2 * x.length) / most);
  const kept = [];
  for (let begin = 0; begin < x.length; begin += width) {
    let low = -1;
    let high = -1;
    for (let i = begin; i < Math.min(begin + width, x.length); i++) {
      if (y[i] === null) continue;
      if (low < 0 || y[i] < y[low]) low = i;
      if (high < 0 || y[i] > y[high]) high = i;
    }
    if (low >= 0) kept.push(...new Set([Math.min(low, high), Math.max(low, high)]));
  }
  if (kept[kept.length - 1] !== x.length - 1) kept.push(x.length - 1);
  return [kept.map((i) => x[i]), kept.map((i) => y[i])];
}

// The place of `value` in sorted `values`: the index of the first one that is not below it.
export function place(values, value) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class Curves {
  constructor() {
    this.clear();
  }

  clear() {
    this.axis = { step: [], clock: [], tokens: [], epoch: [] };
    this.curves = new Map();
    this.evals = { step: [] };
    this.detail = null;
    this.version = 0;
  }

  get lastStep() {
    return this.axis.step.length ? this.axis.step[this.axis.step.length - 1] : 0;
  }

  has(name) {
    return this.curves.has(name) || name in this.evals;
  }

  add(steps) {
    const before = this.axis.step.length;
    for (const name of AXES) this.axis[name].push(...steps[name]);
    const length = this.axis.step.length;
    for (const name of Object.keys(steps.curves)) {
      if (!this.curves.has(name)) this.curves.set(name, { mean: new Array(before).fill(null), x: [], y: [] });
    }
    for (const [name, curve] of this.curves) {
      const sent = steps.curves[name];
      if (sent) {
        curve.mean.push(...sent.mean);
        curve.x.push(...(sent.x ?? steps.step));
        curve.y.push(...(sent.y ?? sent.mean));
      }
      while (curve.mean.length < length) curve.mean.push(null);
      if (curve.x.length > MOST_POINTS) [curve.x, curve.y] = thin(curve.x, curve.y);
    }
    if (length > MOST_POINTS) this.#halve();
    this.version += 1;
  }

  addEvals(evals) {
    const before = this.evals.step.length;
    for (const name of new Set([...Object.keys(this.evals), ...Object.keys(evals)])) {
      this.evals[name] ??= new Array(before).fill(null);
      this.evals[name].push(...(evals[name] ?? new Array(evals.step.length).fill(null)));
    }
    this.version += 1;
  }

  // A stretch in detail takes the place of what is known of it.
  addDetail(steps) {
    const detail = new Curves();
    detail.add(steps);
    this.detail = { from: steps.step[0], to: detail.lastStep, curves: detail };
    this.version += 1;
  }

  dropDetail() {
    if (this.detail) this.version += 1;
    this.detail = null;
  }

  outline(name) {
    const curve = this.curves.get(name);
    if (!curve) return [[], []];
    return this.#withDetail(curve.x, curve.y, (curves) => curves.outline(name));
  }

  means(name) {
    const curve = this.curves.get(name);
    if (!curve) return [[], []];
    return this.#withDetail(this.axis.step, curve.mean, (curves) => curves.means(name));
  }

  // An exponential mean, corrected for its beginning, with one weight for each 500th part of the run (or each step).
  smooth(name, smoothing) {
    const [x, y] = this.means(name);
    const unit = Math.max(1, this.lastStep / SMOOTH_PARTS);
    let sum = 0;
    let weight = 0;
    let last = null;
    const smoothed = y.map((value, i) => {
      if (value === null) return null;
      const kept = smoothing ** ((last === null ? unit : Math.max(x[i] - last, 0)) / unit);
      last = x[i];
      sum = kept * sum + (1 - kept) * value;
      weight = kept * weight + (1 - kept);
      return weight > 0 ? sum / weight : value;
    });
    return [x, smoothed];
  }

  // Where steps stand on another axis: `clock` (seconds) or `tokens`.
  along(kind, steps) {
    if (kind === "step") return steps;
    const { axis } = this;
    const values = axis[kind];
    return steps.map((step) => {
      const right = place(axis.step, step);
      if (right >= values.length) return values[values.length - 1] ?? null;
      if (right === 0) return axis.step[0] > 0 ? (values[0] * step) / axis.step[0] : values[0];
      const share = (step - axis.step[right - 1]) / (axis.step[right] - axis.step[right - 1]);
      return values[right - 1] + share * (values[right] - values[right - 1]);
    });
  }

  // The step that stands at a place of another axis.
  stepAt(kind, value) {
    if (kind === "step") return value;
    const values = this.axis[kind];
    const right = place(values, value);
    if (right >= values.length) return this.lastStep;
    if (right === 0) return 0;
    const share = (value - values[right - 1]) / (values[right] - values[right - 1] || 1);
    return this.axis.step[right - 1] + share * (this.axis.step[right] - this.axis.step[right - 1]);
  }

  // The steps after which a new epoch began.
  epochs() {
    const { step, epoch } = this.axis;
    const found = [];
    for (let i = 1; i < step.length; i++) {
      const passed = Math.floor(epoch[i] + 1e-6);
      if (passed > Math.floor(epoch[i - 1] + 1e-6) && i < step.length - 1) found.push({ step: step[i], epoch: passed });
    }
    return found;
  }

  best() {
    const { step, loss = [] } = this.evals;
    let found = null;
    loss.forEach((value, i) => {
      if (value !== null && (found === null || value < found.loss)) found = { step: step[i], loss: value };
    });
    return found;
  }

  #withDetail(x, y, of) {
    if (!this.detail) return [x, y];
    const { from, to, curves } = this.detail;
    const [dx, dy] = of(curves);
    const left = place(x, from);
    const right = place(x, to + 1);
    return [
      [...x.slice(0, left), ...dx, ...x.slice(right)],
      [...y.slice(0, left), ...dy, ...y.slice(right)],
    ];
  }

  // Two neighbours become one; the ends stay where they are.
  #halve() {
    const last = this.axis.step.length - 1;
    const rows = [];
    for (let i = 0; i < last; i += 2) rows.push(i);
    rows.push(last);
    for (const name of AXES) this.axis[name] = rows.map((i) => this.axis[name][i]);
    for (const curve of this.curves.values()) {
      curve.mean = rows.map((i) => {
        const [one, two] = [curve.mean[i], i < last - 1 ? curve.mean[i + 1] : null];
        return one === null ? two : two === null ? one : (one + two) / 2;
      });
    }
  }
}
