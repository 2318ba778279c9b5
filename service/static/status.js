// The node's page: asks /status.json every two seconds and draws it.
import { byId, make } from "./dom.js";
import { askForKey } from "./key.js";
import { explain, fetchNode } from "./node.js";
import { Plot } from "./plot.js";
import { formatNumber, language, say, translate } from "./strings.js";
import "./theme.js";
import { makeTrouble } from "./trouble.js";

const EVERY_MS = 2000;

translate();
document.title = say("status_title");

// column of the history -> how it is shown
const PLOTS = [
  [["running", "waiting"], new Plot(say("plot_requests"), "", [[say("plot_running"), "line-0"], [say("plot_waiting"), "line-1"]], 1)],
  [["tokens_per_s"], new Plot(say("plot_tokens"), "", [["", "line-0"]], 1)],
  [["ttft_s"], new Plot(say("plot_ttft"), "s", [["", "line-0"]], 0.1)],
  [["cache"], new Plot(say("plot_cache"), "%", [["", "line-0"]], 100)],
];
byId("plots").append(...PLOTS.map(([, plot]) => plot.element));

let timer = null;

async function look() {
  clearTimeout(timer);
  timer = null;
  if (document.hidden) return; // and again when it is looked at
  let isKeyWanted = false;
  try {
    show(await (await fetchNode("/status.json")).json());
    byId("trouble").replaceChildren();
  } catch (error) {
    isKeyWanted = error.status === 401;
    showTrouble(error);
  }
  if (!isKeyWanted) timer = setTimeout(look, EVERY_MS);
}

function show(status) {
  setHealth(status.status);
  const { columns, rows, every_s } = status.history;
  const spanS = Math.max(60, rows.length * every_s);
  const ages = rows.map((row) => row[columns.indexOf("age_s")]);
  for (const [names, plot] of PLOTS) {
    const factor = names[0] === "cache" ? 100 : 1;
    const pick = (name) => rows.map((row) => row[columns.indexOf(name)]).map((value) => (value === null ? null : value * factor));
    plot.update(names.map(pick), ages, spanS);
  }
  const facts = describe(status).filter(([, value]) => value !== null && value !== undefined && value !== "");
  showFacts(facts);
}

/** What did not change is left alone: someone may be reading or copying it. */
function showFacts(facts) {
  const list = byId("facts");
  if (list.children.length !== facts.length) {
    list.replaceChildren(...facts.map(([word]) => make("div", {}, make("dt", {}, say(word)), make("dd"))));
  }
  facts.forEach(([, value], i) => {
    const shown = list.children[i].lastChild;
    if (shown.textContent !== value) shown.textContent = value;
  });
}

function describe({ model, image, uptime_s, library_set, llama_cpp_python, metrics }) {
  const count = (name) => formatNumber(metrics[name] ?? 0, 0);
  const commit = image?.git_commit?.slice(0, 12);
  return [
    ["fact_model", [model.id, model.description].filter(Boolean).join(", ")],
    ["fact_license", image?.model?.license],
    ["fact_context", model.context && say("n_tokens", { n: model.context })],
    ["fact_image", image ? [image.version, commit].filter(Boolean).join(", ") : say("fact_none")],
    ["fact_created", image?.created && new Date(image.created).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" })],
    ["fact_base", image?.base && [image.base.name, image.base.release].filter(Boolean).join(" ")],
    ["fact_library_set", library_set],
    ["fact_binding", llama_cpp_python],
    ["fact_uptime", describeTime(uptime_s)],
    ["fact_streams", count("llm_max_streams")],
    ["fact_finished", count("llm_requests_finished_total")],
    ["fact_refused", count("llm_requests_refused_total")],
    ["fact_tokens", count("llm_generation_tokens_total")],
    ["fact_memory", say("n_tokens", { n: metrics.llm_kv_cache_tokens ?? 0 })],
  ];
}

function describeTime(seconds) {
  const sizes = [["unit_d", 86400], ["unit_h", 3600], ["unit_min", 60], ["unit_s", 1]];
  const first = Math.max(0, sizes.findIndex(([, size]) => seconds >= size));
  let left = Math.floor(seconds);
  const parts = sizes.slice(first, first + 2).map(([word, size]) => {
    const n = Math.floor(left / size);
    left -= n * size;
    return say(word, { n });
  });
  return seconds < 1 ? say("unit_s", { n: 0 }) : parts.join(" ");
}

function showTrouble(error) {
  const trouble = explain(error);
  setHealth({ key: "key", lost: "offline" }[trouble.kind] ?? "away");
  const isKey = trouble.kind === "key";
  const box = isKey ? makeTrouble(trouble.text, say("key"), async () => (await askForKey(trouble.text)) && look()) : makeTrouble(trouble.text);
  if (byId("trouble").textContent !== box.textContent) byId("trouble").replaceChildren(box);
}

function setHealth(state) {
  byId("health").dataset.state = state;
  byId("health-text").textContent = say(`health_${state}`);
}

document.addEventListener("visibilitychange", look);
look();
