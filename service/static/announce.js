// Tells a screen reader what streams, sentence by sentence: half words and single tokens are noise.
import { language } from "./strings.js";

const MAX_LINES = 20; // what was read out is of no more use
const MARKS = [
  [/[*`~]+|(?<!\w)_+|_+(?!\w)/g, ""],
  [/^\s*(?:>\s*)+|^\s*#+\s|\|/gm, " "],
]; // of Markdown

export function announce(text) {
  const line = MARKS.reduce((rest, [mark, by]) => rest.replace(mark, by), text).replace(/\s+/g, " ").trim();
  if (!/[\p{L}\p{N}]/u.test(line)) return; // nothing to say
  const region = document.getElementById("announce");
  if (!region) return;
  region.append(Object.assign(document.createElement("p"), { textContent: line }));
  while (region.children.length > MAX_LINES) region.firstChild.remove();
}

/** Announces a growing text in whole sentences. */
export class Speaker {
  #said = 0;
  #segmenter = window.Intl?.Segmenter ? new Intl.Segmenter(language, { granularity: "sentence" }) : null;

  /** text: all of it so far. */
  update(text) {
    const rest = text.slice(this.#said);
    const end = this.#findEnd(rest);
    if (end > 0) this.#say(rest.slice(0, end));
  }

  finish(text) {
    this.#say(text.slice(this.#said));
  }

  #say(part) {
    this.#said += part.length;
    announce(part);
  }

  /** Where the last sentence begins: everything before it is complete. */
  #findEnd(rest) {
    if (!this.#segmenter) return Math.max(...[". ", "! ", "? ", "\n", "。"].map((mark) => rest.lastIndexOf(mark) + 1));
    let start = 0;
    for (const segment of this.#segmenter.segment(rest)) start = segment.index;
    return start;
  }
}
