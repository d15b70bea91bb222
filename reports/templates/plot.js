// Lines over time on a canvas: axes, hover with values, a playhead, and a band above for the sound.

const MARGIN = { left: 54, right: 16, top: 8, bottom: 24 };
const TIME_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600];
const MOST_DOTTED = 40;
const MOST_FAINT = 60; // more single clips than this are drawn for the emphasised system only

class Plot {
  /**
   * @param host Element that is filled; its size is the plot's size.
   * @param readout (seconds) => rows of [system, text], shown beside the pointer.
   */
  constructor(host, { readout = () => [], onseek = null } = {}) {
    this.host = host;
    this.readout = readout;
    this.canvas = el("canvas");
    this.cursor = el("div", { class: "cursor", hidden: true });
    this.playhead = el("div", { class: "playhead", hidden: true });
    this.tip = el("div", { class: "tip", hidden: true });
    host.replaceChildren(this.canvas, this.cursor, this.playhead, this.tip);
    this.view = { lines: [], marks: [], until: 1, band: null, say: String, empty: "" };
    this.front = null;
    redraws.add(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(host);
    this.#listen(onseek);
  }

  /**
   * @param view.lines {system, values, seconds, faint, end}: value i covers [i, i + 1) x seconds, the last up to `end`.
   * @param view.marks {system, at, value}: crosses.
   * @param view.until Right end of the time axis.
   * @param view.band {height, peaks, seconds}: sound above the lines.
   * @param view.scale Factor from stored to printed values.
   * @param view.empty Said where there is no line.
   */
  show(view) {
    this.view = { lines: [], marks: [], band: null, scale: 1, empty: "", ...view };
    this.draw();
  }

  /** Put one system's lines in front of the others; null for none. */
  emphasise(system) {
    if (this.front === system) return;
    this.front = system;
    this.draw();
  }

  x(seconds) {
    return MARGIN.left + (seconds / this.view.until) * this.#innerWidth;
  }

  timeAt(x) {
    return Math.min(this.view.until, Math.max(0, ((x - MARGIN.left) / this.#innerWidth) * this.view.until));
  }

  setPlayhead(seconds) {
    this.playhead.hidden = false;
    this.playhead.style.transform = `translateX(${this.x(Math.min(seconds, this.view.until))}px)`;
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    this.width = width;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const band = this.view.band?.height ?? 0;
    const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top + band, bottom: height - MARGIN.bottom };
    this.#drawTimes(pen, box);
    if (band) this.#drawSound(pen, this.view.band);
    const range = this.#range();
    if (!range) return this.#drawEmpty(pen, box);
    const y = (value) => box.bottom - ((value * this.view.scale - range[0]) / (range[1] - range[0])) * (box.bottom - box.top);
    this.#drawLevels(pen, box, range);
    const order = [...this.view.lines].sort((a, b) => this.#depth(a) - this.#depth(b));
    const crowded = order.filter((line) => line.faint).length > MOST_FAINT;
    this.dotted = Math.max(...order.map(({ values }) => values.length)) <= MOST_DOTTED;
    for (const line of order) if (!(line.faint && crowded && line.system !== this.front)) this.#drawLine(pen, line, y);
    for (const mark of this.view.marks) this.#drawMark(pen, mark, y);
  }

  get #innerWidth() {
    return Math.max(1, (this.width ?? this.host.clientWidth) - MARGIN.left - MARGIN.right);
  }

  #depth(line) {
    return (line.faint ? 0 : 1) + (line.system === this.front ? 2 : 0);
  }

  #range() {
    let [low, high] = [Infinity, -Infinity];
    for (const { values } of this.view.lines) {
      for (const value of values) {
        if (value === null) continue;
        low = Math.min(low, value * this.view.scale);
        high = Math.max(high, value * this.view.scale);
      }
    }
    if (low > high) return null;
    const room = 0.08 * (high - low) || Math.abs(high) * 0.01 || 1;
    return [low - room, high + room];
  }

  #drawTimes(pen, box) {
    const step = TIME_STEPS.find((each) => (each / this.view.until) * this.#innerWidth >= 64) ?? 7200;
    pen.textAlign = "center";
    pen.textBaseline = "alphabetic";
    pen.lineWidth = 1;
    for (let at = 0; at <= this.view.until * 1.0001; at += step) {
      const x = Math.round(this.x(at)) + 0.5;
      pen.strokeStyle = colour("--rule");
      pen.beginPath();
      pen.moveTo(x, MARGIN.top);
      pen.lineTo(x, box.bottom + 4);
      pen.stroke();
      pen.fillStyle = colour("--muted");
      pen.fillText(this.#timeLabel(at, step), x, box.bottom + 17);
    }
  }

  #timeLabel(at, step) {
    if (this.view.until < 60) return `${at.toFixed(step < 1 ? 1 : 0)} s`;
    return `${Math.floor(at / 60)}:${String(Math.round(at % 60)).padStart(2, "0")}`;
  }

  #drawLevels(pen, box, [low, high]) {
    const count = Math.max(2, Math.floor((box.bottom - box.top) / 34));
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (let level = Math.ceil(low / step) * step; level <= high; level += step) {
      const y = Math.round(box.bottom - ((level - low) / (high - low)) * (box.bottom - box.top)) + 0.5;
      pen.strokeStyle = colour("--rule");
      pen.beginPath();
      pen.moveTo(box.left, y);
      pen.lineTo(box.right, y);
      pen.stroke();
      pen.fillStyle = colour("--muted");
      pen.fillText((level + 0).toFixed(digits).replace("-", "−"), box.left - 8, y);
    }
  }

  #drawLine(pen, { system, values, seconds, faint, end = Infinity }, y) {
    const middle = (i) => this.x((i * seconds + Math.min(end, (i + 1) * seconds)) / 2);
    const dimmed = this.front !== null && this.front !== system;
    pen.strokeStyle = pen.fillStyle = colour(hueOf(system));
    pen.globalAlpha = (faint ? 0.28 : 1) * (dimmed ? 0.22 : 1);
    pen.lineWidth = faint ? 1 : this.front === system ? 2.4 : 1.6;
    pen.lineJoin = "round";
    pen.setLineDash(dashOf(system));
    pen.beginPath();
    let drawing = false;
    values.forEach((value, i) => {
      if (value !== null) pen[drawing ? "lineTo" : "moveTo"](middle(i), y(value));
      drawing = value !== null;
    });
    pen.stroke();
    pen.setLineDash([]);
    if (this.dotted && !faint) {
      values.forEach((value, i) => {
        if (value === null) return;
        pen.beginPath();
        pen.arc(middle(i), y(value), 2.2, 0, 7);
        pen.fill();
      });
    }
    pen.globalAlpha = 1;
  }

  #drawMark(pen, { system, at, value }, y) {
    const [cx, cy, arm] = [this.x(at), y(value), 5];
    pen.globalAlpha = this.front !== null && this.front !== system ? 0.2 : 1;
    for (const [width, ink] of [[5, "--paper"], [2.2, hueOf(system)]]) {
      pen.strokeStyle = colour(ink);
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(cx - arm, cy - arm);
      pen.lineTo(cx + arm, cy + arm);
      pen.moveTo(cx - arm, cy + arm);
      pen.lineTo(cx + arm, cy - arm);
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  #drawSound(pen, { height, peaks, seconds }) {
    const middle = MARGIN.top + (height - 6) / 2;
    const loudest = Math.max(24, ...peaks);
    pen.fillStyle = colour("--wave");
    const end = Math.min(this.x(this.view.until), this.x(peaks.length * seconds));
    for (let x = MARGIN.left; x < end; x += 2) {
      const [from, to] = [x, x + 2].map((px) => Math.floor((((px - MARGIN.left) / this.#innerWidth) * this.view.until) / seconds));
      let peak = 0;
      for (let i = from; i <= Math.min(Math.max(from, to - 1), peaks.length - 1); i++) peak = Math.max(peak, peaks[i]);
      const half = Math.max(0.5, (peak / loudest) * (height - 8) * 0.5);
      pen.fillRect(x, middle - half, 1.4, 2 * half);
    }
    pen.fillStyle = colour("--muted");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillText("sound", MARGIN.left - 8, middle);
  }

  #drawEmpty(pen, box) {
    pen.fillStyle = colour("--muted");
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(this.view.empty, (box.left + box.right) / 2, (box.top + box.bottom) / 2, box.right - box.left);
  }

  #listen(onseek) {
    const at = (event) => this.timeAt(event.clientX - this.host.getBoundingClientRect().left);
    this.host.addEventListener("pointermove", (event) => {
      this.#point(at(event));
      if (onseek && event.buttons & 1) onseek(at(event));
    });
    this.host.addEventListener("pointerleave", () => this.#point(null));
    if (!onseek) return;
    this.host.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.host.setPointerCapture(event.pointerId);
      onseek(at(event));
    });
    this.host.addEventListener("pointerup", (event) => event.pointerType !== "mouse" && this.#point(null));
  }

  #point(seconds) {
    this.cursor.hidden = this.tip.hidden = seconds === null;
    if (seconds === null) return;
    const x = this.x(seconds);
    this.cursor.style.transform = `translateX(${x}px)`;
    const rows = this.readout(seconds).map(([system, text]) =>
      el("div", {}, swatch(system), cuttableName(system), el("b", {}, text)),
    );
    this.tip.replaceChildren(el("div", { class: "at" }, sayTime(seconds)), ...rows);
    const room = this.host.clientWidth - this.tip.offsetWidth;
    this.tip.style.transform = `translateX(${x + 14 > room ? Math.max(0, x - 14 - this.tip.offsetWidth) : x + 14}px)`;
  }
}

/** The value of a series at a time, or null. */
function valueAt({ values, seconds }, at) {
  return values[Math.min(values.length - 1, Math.floor(at / seconds))] ?? null;
}
