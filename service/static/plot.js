// A small picture of the last minutes as SVG: lines over time, the newest at the right. Knows nothing of the node.
import { make } from "./dom.js";
import { formatNumber, say } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 80;

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** series: [[name, class]], drawn in the order given. floor: the least that fills the picture. */
export class Plot {
  element;
  #now = make("p", { className: "now" });
  #peak = make("p", { className: "small peak" });
  #svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #lines;
  #unit;
  #title;
  #floor;

  constructor(title, unit, series, floor) {
    [this.#title, this.#unit, this.#floor] = [title, unit, floor];
    this.#lines = series.map(([name, className]) => [name, draw("path", { class: className, "vector-effect": "non-scaling-stroke" })]);
    this.#svg.append(...this.#lines.map(([, line]) => line));
    this.element = make("figure", { className: "plot" }, make("figcaption", {}, title), this.#now, this.#svg, this.#peak);
  }

  /** columns: for each series its values, oldest first, null where there is none. ages: their seconds ago. */
  update(columns, ages, spanS) {
    const values = columns.flat().filter((value) => value !== null);
    const top = Math.max(this.#floor, ...values);
    columns.forEach((column, i) => this.#lines[i][1].setAttribute("d", trace(column, ages, spanS, top)));
    const unit = this.#unit;
    const now = columns.map((column, i) => {
      const value = column.findLast((each) => each !== null);
      return `${value === undefined ? "–" : formatNumber(value)}${unit && ` ${unit}`}${this.#lines[i][0] && ` ${this.#lines[i][0]}`}`;
    });
    this.#now.replaceChildren(...now.map((text, i) => make("span", { className: `key-${i}` }, text)));
    const since = say("plot_since", { n: Math.round(spanS / 60) });
    this.#peak.textContent = `${since}, ${say("plot_peak", { n: Math.max(0, ...values), unit }).trim()}`;
    this.#svg.setAttribute("aria-label", `${this.#title}: ${now.join(", ")}; ${this.#peak.textContent}`);
  }
}

/** The line of a column: a gap where a value is missing, a short stroke where one stands alone. */
function trace(column, ages, spanS, top) {
  let path = "";
  column.forEach((value, i) => {
    if (value === null) return;
    const x = WIDTH * (1 - ages[i] / spanS);
    const y = (HEIGHT - 3 - (HEIGHT - 6) * (value / top)).toFixed(1);
    const [hasBefore, hasAfter] = [column[i - 1] ?? null, column[i + 1] ?? null].map((each) => each !== null);
    if (hasBefore) path += `L${x.toFixed(1)} ${y}`;
    else path += hasAfter ? `M${x.toFixed(1)} ${y}` : `M${(x - 2).toFixed(1)} ${y}h4`;
  });
  return path;
}
