// "Try the API": the last question as curl, Python and JavaScript, ready to paste.
import { byId, make, makeButton, makeCopyButton, openDialog } from "./dom.js";
import { loadKey } from "./store.js";

/** body: of /v1/chat/completions. hasKey: whether the node wants one; the key itself is never written. */
export const SAMPLES = {
  curl(origin, body, hasKey) {
    const lines = [`curl -N ${origin}/v1/chat/completions`, "-H 'Content-Type: application/json'"];
    if (hasKey) lines.push('-H "Authorization: Bearer $LLM_API_KEY"');
    lines.push(`-d '${JSON.stringify({ ...body, stream: true }, null, 1).replaceAll("'", `'\\''`)}'`);
    return lines.join(" \\\n  ");
  },

  Python(origin, { messages, ...rest }, hasKey) {
    const { top_k, min_p, repeat_penalty, ...known } = rest; // OpenAI's client does not know these by name
    const extra = Object.entries({ top_k, min_p, repeat_penalty }).filter(([, value]) => value !== undefined);
    const words = Object.entries(known).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
    if (extra.length) words.push(`    extra_body=${JSON.stringify(Object.fromEntries(extra))},`);
    return [
      ...(hasKey ? ["import os", ""] : []),
      "from openai import OpenAI  # pip install openai",
      "",
      `client = OpenAI(base_url="${origin}/v1", api_key=${hasKey ? 'os.environ["LLM_API_KEY"]' : '"none"'})`,
      "stream = client.chat.completions.create(",
      ...words,
      `    messages=${indent(JSON.stringify(messages, null, 4))},`,
      "    stream=True,",
      ")",
      "for chunk in stream:",
      "    if chunk.choices:",
      '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
      "print()",
    ].join("\n");
  },

  JavaScript(origin, body, hasKey) {
    const key = hasKey ? "\n    Authorization: `Bearer ${process.env.LLM_API_KEY}`," : "";
    return [
      `const response = await fetch("${origin}/v1/chat/completions", {`,
      '  method: "POST",',
      `  headers: {\n    "Content-Type": "application/json",${key}\n  },`,
      `  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),`,
      "});",
      "const answer = await response.json();",
      "console.log(answer.choices[0].message.content);",
    ].join("\n");
  },
};

const indent = (text) => text.replaceAll("\n", "\n    ");

/** Open the panel for `body`. */
export function openSample(body) {
  const panel = byId("sample-panel");
  const hasKey = loadKey() !== null;
  byId("sample-key").hidden = !hasKey;
  const tabs = Object.keys(SAMPLES).map((name) =>
    makeButton(name, () => show(name), { role: "tab", id: `tab-${name}`, "aria-controls": "sample-panel" }),
  );
  const show = (name) => {
    const text = SAMPLES[name](location.origin, body, hasKey);
    for (const tab of tabs) {
      const isShown = tab.textContent === name;
      tab.setAttribute("aria-selected", isShown);
      tab.tabIndex = isShown ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    const head = make("div", { className: "code-head" }, make("span", {}, name), makeCopyButton(() => text));
    panel.replaceChildren(make("div", { className: "code" }, head, make("pre", { tabIndex: 0 }, make("code", {}, text))));
  };
  byId("sample-tabs").replaceChildren(...tabs);
  byId("sample-tabs").onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
  show("curl");
  openDialog(byId("sample"));
}
