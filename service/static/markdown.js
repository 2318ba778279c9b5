// Markdown of a model -> nodes that are safe to show.
//
// Two walls: marked is told to write markup in the text as text, and DOMPurify lets only the tags below through (the
// Content-Security-Policy is the third). Images become links: nothing is loaded because a model says so.
import { make, makeCopyButton } from "./dom.js";
import { say } from "./strings.js";
import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js";

const TAGS = [
  ..."p br hr strong em del code pre a ul ol li blockquote h3 h4 h5 h6".split(" "),
  ..."table thead tbody tr th td".split(" "),
];
const PURIFY = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "align", "start", "class"],
  ADD_URI_SAFE_ATTR: ["align", "start", "class"], // every other value must look like this:
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};
const LONG_LIST = 1000; // characters
const BLOCKS = "p, li, ul, ol, blockquote, h3, h4, h5, h6, td, th, table";

const escape = (text) => text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    heading({ tokens, depth }) {
      const level = Math.min(Math.max(depth + 1, 3), 6); // the page has h1, and each turn h2
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
  },
});

/** A whole text. Returns a DocumentFragment. */
export function render(text) {
  return tryNodes(text, () => toNodes(marked.lexer(text)));
}

/** Text nested deeper than the parser's stack reaches (a thousand ">" in a row) is shown as it is. */
function tryNodes(text, makeNodes) {
  try {
    return makeNodes();
  } catch {
    const fragment = document.createDocumentFragment();
    fragment.append(make("p", { className: "plain", dir: "auto" }, text));
    return fragment;
  }
}

function toNodes(tokens) {
  const fragment = window.DOMPurify.sanitize(marked.parser(tokens), PURIFY);
  for (const block of fragment.querySelectorAll(BLOCKS)) block.dir = "auto";
  for (const link of fragment.querySelectorAll("a[href]")) {
    Object.assign(link, { target: "_blank", rel: "noopener noreferrer nofollow", title: link.href });
    const place = link.host || link.pathname; // of a mail the address
    if (!link.textContent.includes(place)) link.dataset.place = place; // shown beside: a text may promise another one
  }
  for (const pre of fragment.querySelectorAll("pre")) wrapCode(pre);
  for (const table of fragment.querySelectorAll("table")) wrapTable(table);
  return fragment;
}

function wrapCode(pre) {
  const name = pre.querySelector("code")?.className.replace("language-", "") ?? "";
  const box = make("div", { className: "code" });
  pre.replaceWith(box);
  Object.assign(pre, { tabIndex: 0, dir: "ltr" });
  box.append(make("div", { className: "code-head" }, make("span", {}, name), makeCopyButton(() => pre.textContent)), pre);
}

function wrapTable(table) {
  const label = say("table");
  const region = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": label });
  const box = make("div", { className: "table" });
  table.replaceWith(box);
  region.append(table);
  box.append(region, makeCopyButton(() => readTable(table), say("copy_table")));
}

/** As spreadsheets take it: tabs between cells. */
function readTable(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent).join("\t")).join("\n");
}

/** Tokens whose last one, if it is a long list, is cut into two: only the last item of it can still grow. */
function splitList(tokens) {
  const list = tokens.at(-1);
  if (list?.type !== "list" || list.items.length < 2 || list.raw.length < LONG_LIST) return tokens;
  const cut = (items, start) => ({ ...list, items, start, raw: items.map((item) => item.raw).join("") });
  const [done, growing] = [list.items.slice(0, -1), list.items.slice(-1)];
  return [...tokens.slice(0, -1), cut(done, list.start), cut(growing, list.ordered ? list.start + done.length : "")];
}

/** A text that grows: what is complete is made once, and only the last block is made anew each time. */
export class Growing {
  #element;
  #n = 0; // characters whose blocks are complete
  #tail = [];

  constructor(element) {
    this.#element = element;
  }

  /** text: all of it so far. */
  update(text) {
    const left = text.slice(this.#n);
    let n = 0;
    const done = document.createDocumentFragment();
    const rest = tryNodes(left, () => {
      const tokens = splitList(marked.lexer(left));
      let last = tokens.length - 1;
      while (last > 0 && tokens[last].type === "space") last -= 1; // a list goes on after an empty line
      const [complete, growing] = [tokens.slice(0, Math.max(last, 0)), tokens.slice(Math.max(last, 0))].map(toNodes);
      done.append(complete);
      n = tokens.slice(0, Math.max(last, 0)).reduce((sum, token) => sum + token.raw.length, 0);
      return growing;
    });
    for (const node of this.#tail) node.remove();
    this.#n += n;
    this.#tail = [...rest.childNodes];
    this.#element.append(done, rest);
  }

  /** All of it once more: only a whole text knows links that are defined at its end. */
  finish(text) {
    if (getSelection().isCollapsed || !this.#element.contains(getSelection().anchorNode)) {
      this.#element.replaceChildren(render(text));
    } else {
      this.update(text);
    }
    this.#tail = [];
  }
}
