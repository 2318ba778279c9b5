// The API key: asked for when the node wants one, kept for the session unless the user chooses otherwise.
import { make, makeButton, openDialog } from "./dom.js";
import { isKeyKept, loadKey, saveKey } from "./store.js";
import { say } from "./strings.js";

/** Ask for a key. Returns whether there is a new one. */
export function askForKey(why = say("key_why")) {
  const value = make("input", { id: "key-value", type: "password", autocomplete: "off", spellcheck: false, required: true });
  value.setAttribute("aria-describedby", "key-why");
  const keep = make("input", { id: "key-keep", type: "checkbox", checked: isKeyKept() });
  const form = make(
    "form",
    { method: "dialog" },
    make("div", { className: "dialog-head" }, make("h2", { id: "key-title" }, say("key")), makeButton(say("cancel"), () => dialog.close())),
    make("p", { id: "key-why" }, why),
    make("label", { htmlFor: "key-value" }, say("key_value")),
    value,
    make("p", { className: "check" }, keep, make("label", { htmlFor: "key-keep" }, say("key_keep"))),
    make("div", { className: "row" }, make("button", { className: "main" }, say("key_use"))),
  );
  if (loadKey()) {
    form.lastChild.append(makeButton(say("key_forget"), () => { saveKey(null); dialog.close("forgotten"); }));
  }
  const dialog = make("dialog", { id: "key", "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      saveKey(value.value.trim(), keep.checked);
      dialog.close("given");
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "given");
    });
    openDialog(dialog);
    value.focus();
  });
}
