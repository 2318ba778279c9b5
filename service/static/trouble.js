// A box that says what went wrong, with a button for what to do about it.
import { make, makeButton } from "./dom.js";

export function makeTrouble(text, label, act, ...more) {
  const words = make("p", { role: "alert" }, text);
  return make("div", { className: "trouble" }, words, ...more, ...(label ? [makeButton(label, act, { className: "" })] : []));
}
