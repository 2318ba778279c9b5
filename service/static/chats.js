// The list of chats: at the side where there is room, in a drawer where there is none. Open, rename, delete.
import { byId, make, makeButton, openDialog } from "./dom.js";
import { deleteChat, listChats, renameChat, watchChats } from "./store.js";
import { say } from "./strings.js";

const wide = matchMedia("(min-width: 60rem)");
const drawer = byId("drawer");
let chosen = null; // the id of the open chat
let actions = { open() {}, close() {}, meet() {} };

/** open(id): show that chat. close(): the open chat was deleted. meet(): another tab changed chats. */
export function startChats(given) {
  actions = given;
  drawChats();
}

export function drawChats(id = chosen) {
  chosen = id;
  const chats = listChats();
  byId("chat-list").replaceChildren(...chats.map(drawChat));
  byId("no-chats").hidden = chats.length > 0;
  byId("delete-all").hidden = !chats.length;
  document.title = [chats.find((chat) => chat.id === chosen)?.title, "Llamakiln"].filter(Boolean).join(" · ");
}

function drawChat(chat) {
  const open = makeButton(chat.title, () => {
    drawer.close();
    actions.open(chat.id);
  }, { className: "quiet title", dir: "auto", "aria-current": chat.id === chosen ? "true" : null });
  const rename = makeButton("✎", () => drawRename(item, chat), labelled("rename", chat));
  const remove = makeButton("✕", () => {
    if (!confirm(say("delete_sure", { title: chat.title }))) return;
    deleteChat(chat.id);
    if (chat.id === chosen) actions.close();
    drawChats();
    byId("chat-list").querySelector("button")?.focus();
  }, labelled("delete", chat));
  const item = make("li", {}, open, rename, remove);
  return item;
}

const labelled = (word, chat) => {
  const label = say(word, { title: chat.title });
  return { className: "quiet icon", "aria-label": label, title: label };
};

function drawRename(item, { id, title }) {
  const input = make("input", { value: title, maxLength: 200, dir: "auto", "aria-label": say("rename", { title }) });
  const end = (isKept) => {
    const at = [...byId("chat-list").children].indexOf(item);
    if (isKept) renameChat(id, input.value.trim());
    drawChats();
    byId("chat-list").children[at]?.querySelector("button").focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) end(true);
    if (event.key !== "Escape") return;
    event.preventDefault(); // the drawer stays open
    event.stopPropagation();
    end(false);
  });
  item.replaceChildren(input, makeButton(say("save"), () => end(true)));
  input.select();
}

byId("delete-all").addEventListener("click", () => {
  const chats = listChats();
  if (!confirm(say("delete_all_sure", { n: chats.length }))) return;
  for (const chat of chats) deleteChat(chat.id);
  actions.close();
  drawChats();
});

function place() {
  drawer.close();
  (wide.matches ? byId("side") : byId("drawer-body")).append(byId("chats"));
}
wide.addEventListener("change", place);
place();

byId("menu").addEventListener("click", () => openDialog(drawer));
watchChats(() => {
  actions.meet();
  drawChats();
});
