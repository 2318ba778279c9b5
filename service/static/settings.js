// The settings dialog: system prompt and sampling. What is empty is not sent, so the node's own defaults hold.
import { askForKey } from "./key.js";
import { byId, make, openDialog } from "./dom.js";
import { loadSettings, saveSettings } from "./store.js";
import { say } from "./strings.js";

// name, lowest, highest, step: the service's own limits (service/api/body.py); a test holds them together
export const FIELDS = [
  ["temperature", 0, 2, 0.05],
  ["top_p", 0, 1, 0.01],
  ["top_k", 0, 1000000, 1],
  ["min_p", 0, 1, 0.01],
  ["repeat_penalty", 0.1, 10, 0.05],
  ["frequency_penalty", -2, 2, 0.1],
  ["presence_penalty", -2, 2, 0.1],
  ["max_tokens", 1, undefined, 1],
  ["seed", 0, Number.MAX_SAFE_INTEGER, 1],
];

let settings = loadSettings();
let defaults = {};

export const systemPrompt = () => settings.system.trim();

/** What a request says of sampling. What was stored by another version may be out of today's limits. */
export function samplingParameters() {
  const isAllowed = ([name, min, max = Infinity, step]) => {
    const value = settings.sampling[name];
    return value >= min && value <= max && (step !== 1 || Number.isInteger(value));
  };
  return Object.fromEntries(FIELDS.filter(isAllowed).map(([name]) => [name, settings.sampling[name]]));
}

/** The node's own values, which empty fields show. */
export function showDefaults(values) {
  defaults = values ?? {};
  for (const [name] of FIELDS) byId(`set-${name}`)?.setAttribute("placeholder", defaults[name] ?? say("set_auto"));
}

function drawFields() {
  byId("system").value = settings.system;
  byId("fields").replaceChildren(...FIELDS.map(drawField));
}

function drawField([name, min, max, step]) {
  const input = make("input", {
    id: `set-${name}`, type: "number", inputMode: "decimal", min, max: max ?? "", step: "any", autocomplete: "off",
    value: settings.sampling[name] ?? "", placeholder: defaults[name] ?? say("set_auto"),
    "aria-describedby": `help-${name}`,
  });
  input.step = step === 1 ? "1" : "any"; // any value in the range is allowed
  input.addEventListener("input", () => {
    if (!input.reportValidity()) return;
    const { [name]: _, ...others } = settings.sampling;
    settings.sampling = input.value === "" ? others : { ...others, [name]: input.valueAsNumber };
    saveSettings(settings);
  });
  return make(
    "div",
    { className: "field" },
    make("label", { htmlFor: input.id }, say(`set_${name}`), make("code", {}, name)),
    input,
    make("p", { id: `help-${name}`, className: "small" }, say(`help_${name}`)),
  );
}

byId("system").addEventListener("input", (event) => {
  settings.system = event.target.value;
  saveSettings(settings);
});
byId("reset").addEventListener("click", () => {
  settings = { system: "", sampling: {} };
  saveSettings(settings);
  drawFields();
});
byId("open-settings").addEventListener("click", () => {
  drawFields();
  openDialog(byId("settings"));
});

/** The button to the key; use(): there is a new one. */
export function onKey(use) {
  byId("open-key").addEventListener("click", async () => (await askForKey()) && use());
}
