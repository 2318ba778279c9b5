// Small helpers for the document. Text goes in as text, never as markup.
import { announce } from "./announce.js";
import { say } from "./strings.js";

export const byId = (id) => document.getElementById(id);

/** An element with properties (`data-`, `aria-` and `role` as attributes) and children, texts or nodes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function makeButton(text, act, properties = {}) {
  const button = make("button", { type: "button", className: "quiet", ...properties }, text);
  button.addEventListener("click", act);
  return button;
}

/** A button that copies what `read` returns, and says so for two seconds. */
export function makeCopyButton(read, label = say("copy")) {
  const button = makeButton(label, async () => {
    button.textContent = (await copyText(read())) ? say("copied") : say("not_copied");
    announce(button.textContent);
    setTimeout(() => (button.textContent = label), 2000);
  });
  return button;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Pages over plain HTTP have no clipboard: the old way, by a selection
    const area = make("textarea", { value: text, className: "unseen" });
    const focused = document.activeElement;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return isCopied;
  }
}

/** Open a modal dialog; a click beside it closes it. */
export function openDialog(dialog) {
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // and nothing is returned: false would cancel every button in it
  };
  dialog.showModal();
}
