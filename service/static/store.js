// What this browser keeps: chats, settings, theme, key. Nothing else on the page touches a storage, but first.js, which
// must look at the theme before modules run.
//
// What is read back may be anything (another version's, or written by hand): it is checked as if a stranger sent it.

const PREFIX = "llamakiln.";
const CHAT = PREFIX + "chat.";
const MAX_TITLE = 60;

let isFull = false;
/** Whether a chat could not be kept. */
export const isUnkept = () => isFull;

function read(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name));
  } catch {
    return null;
  }
}

/** value: null removes it. Returns whether that worked. */
function write(storage, name, value) {
  try {
    if (value === null) window[storage].removeItem(name);
    else window[storage].setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

// ---- chats: {id, title, at, messages: [{role, content, note}]}. at: when it was kept last, 0 if never

const makeId = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

export const newChat = () => ({ id: makeId(), at: 0, messages: [] });

/** All chats, the last used first. */
export function listChats() {
  let names = [];
  try {
    names = Object.keys(localStorage).filter((name) => name.startsWith(CHAT));
  } catch {
    // a browser that keeps nothing has no chats
  }
  const chats = names.map((name) => checkChat(read("localStorage", name), name.slice(CHAT.length))).filter(Boolean);
  return chats.sort((a, b) => b.at - a.at);
}

export function loadChat(id) {
  return checkChat(read("localStorage", CHAT + id), id);
}

/** Keep a chat; its title stays as it was renamed. Where another tab went on with it meanwhile, this becomes one more. */
export function saveChat(chat) {
  if (!chat.messages.length) return;
  const kept = loadChat(chat.id);
  if (kept && kept.at !== chat.at) chat.id = makeId();
  const at = Math.max(Date.now(), chat.at + 1);
  const title = kept?.title || makeTitle(chat.messages[0].content);
  isFull = !write("localStorage", CHAT + chat.id, { title, at, messages: chat.messages });
  if (!isFull) chat.at = at;
}

export function renameChat(id, title) {
  const chat = loadChat(id);
  if (chat && title) write("localStorage", CHAT + id, { ...chat, title });
}

export function deleteChat(id) {
  write("localStorage", CHAT + id, null);
}

/** Calls back when another tab changed chats. */
export function watchChats(act) {
  window.addEventListener("storage", (event) => (event.key === null || event.key.startsWith(CHAT)) && act());
}

export function makeTitle(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > MAX_TITLE ? line.slice(0, MAX_TITLE - 1) + "…" : line;
}

function checkChat(chat, id) {
  if (!Array.isArray(chat?.messages)) return null;
  const messages = chat.messages
    .filter((message) => ["user", "assistant"].includes(message?.role) && typeof message.content === "string")
    .map(({ role, content, note }) => ({ role, content, ...(typeof note === "string" && { note }) }));
  const at = Number.isFinite(chat.at) ? chat.at : 0;
  const title = typeof chat.title === "string" ? chat.title.slice(0, 200) : "";
  return messages.length ? { id, title: title || makeTitle(messages[0].content), at, messages } : null;
}

// ---- settings: {system, sampling: {name: number}}

export function loadSettings() {
  const kept = read("localStorage", PREFIX + "settings");
  const sampling = Object.entries(kept?.sampling ?? {}).filter(([, value]) => Number.isFinite(value));
  return { system: typeof kept?.system === "string" ? kept.system : "", sampling: Object.fromEntries(sampling) };
}

export function saveSettings(settings) {
  write("localStorage", PREFIX + "settings", settings);
}

// ---- theme and key

export const loadTheme = () => read("localStorage", PREFIX + "theme");
export const saveTheme = (theme) => write("localStorage", PREFIX + "theme", theme);

let lastKey = null; // for a browser that keeps nothing

export function loadKey() {
  const key = read("sessionStorage", PREFIX + "key") ?? read("localStorage", PREFIX + "key") ?? lastKey;
  return typeof key === "string" ? key : null;
}

export const isKeyKept = () => read("localStorage", PREFIX + "key") !== null;

/** key: null forgets it everywhere. isKept: also after the browser was closed. */
export function saveKey(key, isKept) {
  lastKey = key;
  write("sessionStorage", PREFIX + "key", key);
  write("localStorage", PREFIX + "key", isKept ? key : null);
}
