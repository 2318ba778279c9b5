// One question or one answer in the document. Knows how they look, not where they come from or where they are kept.
import { make, makeButton, makeCopyButton } from "./dom.js";
import { Growing, render } from "./markdown.js";
import { say } from "./strings.js";
import { splitThought } from "./thought.js";
import { makeTrouble } from "./trouble.js";

const IDLE_SHARE = 3; // after drawing for n ms, leave the browser alone for three times as long

/** Only heard: a screen reader goes from turn to turn by them. */
const makeHeading = (word) => make("h2", { className: "unseen" }, say(word));

export class Question {
  element = make("article", { className: "turn mine" });
  #tools = make("div", { className: "tools" });

  constructor(text) {
    this.element.setAttribute("aria-label", say("you"));
    this.#tools.append(makeCopyButton(() => text));
    this.element.append(makeHeading("you"), make("p", { className: "text", dir: "auto" }, text), this.#tools);
  }

  allowEdit(edit) {
    this.#tools.querySelector(".edit")?.remove();
    if (edit) this.#tools.append(makeButton(say("edit"), edit, { className: "quiet edit" }));
  }
}

/** drawn(): the document grew. */
export class Answer {
  element = make("article", { className: "turn theirs" });
  #thought = make("details", { className: "thought" });
  #text = make("div", { className: "text" });
  #waiting = make("div", { className: "waiting" });
  #notes = make("div", { className: "notes" });
  #growing = new Growing(this.#text);
  #drawn;
  #said = "";
  #frame = 0;
  #restUntil = 0;

  constructor(drawn = () => {}) {
    this.#drawn = drawn;
    this.element.setAttribute("aria-label", say("model"));
    this.element.append(makeHeading("model"), this.#waiting, this.#thought, this.#text, this.#notes);
    this.#waiting.hidden = this.#thought.hidden = this.#text.hidden = this.#notes.hidden = true;
    this.#thought.append(make("summary", {}, say("thought")), make("p", { className: "plain", dir: "auto" }));
  }

  set isBusy(value) {
    this.element.setAttribute("aria-busy", value);
  }

  /** text: what is waited for; share: how much of it is done, 0 to 1, if that is known. */
  wait(text, share) {
    const parts = [make("span", {}, text)];
    if (share !== undefined) parts.push(make("progress", { max: 1, value: share, "aria-label": text }));
    this.#waiting.replaceChildren(...parts);
    this.#waiting.hidden = false;
    this.#drawn();
  }

  /** said: all of the text so far. Drawn with the next frame. */
  grow(said, notes) {
    this.#said = said;
    this.#waiting.hidden = true;
    if (this.#frame) return;
    const draw = (now) => {
      if (now < this.#restUntil) {
        this.#frame = requestAnimationFrame(draw);
        return;
      }
      this.#frame = 0;
      const started = performance.now();
      const answer = this.#showThought(this.#said);
      if (answer) this.#growing.update(answer);
      this.note(notes());
      this.#drawn();
      const ended = performance.now();
      this.#restUntil = ended + IDLE_SHARE * (ended - started);
    };
    this.#frame = requestAnimationFrame(draw);
  }

  get hasText() {
    return !this.#text.hidden || !this.#thought.hidden;
  }

  /** Show what was thought, folded. Returns what was answered. */
  #showThought(said) {
    const { thought, answer } = splitThought(said);
    this.#thought.hidden = !thought;
    this.#text.hidden = !answer;
    if (this.#thought.lastChild.textContent !== thought) this.#thought.lastChild.textContent = thought;
    return answer;
  }

  note(text) {
    this.#notes.replaceChildren(make("span", {}, text));
    this.#notes.hidden = false;
  }

  /** The text is complete, or all that there will be. retry: what "Try again" does, if anything. */
  finish(said, note, retry) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.isBusy = false;
    this.#waiting.hidden = true;
    const answer = this.#showThought(said);
    if (this.#said) this.#growing.finish(answer);
    else this.#text.replaceChildren(render(answer));
    this.note(note);
    if (answer) this.#notes.append(makeCopyButton(() => answer));
    this.allowRetry(retry);
    this.#drawn();
  }

  allowRetry(retry) {
    this.#notes.querySelector(".again")?.remove();
    if (retry) this.#notes.append(makeButton(say("again"), retry, { className: "quiet again" }));
  }

  /** What went wrong, and a button for what to do about it. */
  showTrouble(text, label, act) {
    this.isBusy = false;
    this.#waiting.hidden = true;
    this.element.querySelector(".trouble")?.remove();
    this.element.append(makeTrouble(text, label, act));
    this.#drawn();
  }

  /** Count down to the next try. Resolves then, or at once by the button; rejects when `signal` aborts. */
  countDown(text, waitS, signal) {
    const count = make("span", { className: "count", "aria-hidden": "true" });
    return new Promise((resolve, reject) => {
      const end = (act) => (value) => {
        clearInterval(timer);
        signal.removeEventListener("abort", abort);
        box.remove();
        act(value);
      };
      const go = end(resolve);
      const abort = () => end(reject)(new DOMException("stopped", "AbortError"));
      const until = performance.now() + waitS * 1000;
      const tick = () => {
        const leftS = Math.ceil((until - performance.now()) / 1000);
        if (leftS <= 0) go();
        else count.textContent = say("again_in", { n: leftS });
      };
      const timer = setInterval(tick, 250);
      const box = makeTrouble(text, say("again_now"), () => go(), count);
      box.classList.add("passing");
      this.#waiting.hidden = true;
      this.element.append(box);
      signal.addEventListener("abort", abort);
      tick();
      this.#drawn();
    });
  }
}
