// The chat: ask, watch the answer stream, stop it, ask again. Start here to read the page's code.
//
// strings (every word) - store (what the browser keeps) - asking, node and stream (talking with the service) - markdown,
// thought and turn (how an answer looks) - follow (what is in view) - announce (how it sounds) - chats, settings, sample,
// key (the panels) - first and theme (light and dark).
import { announce, Speaker } from "./announce.js";
import { askUntilAnswered, makeBody, Reply } from "./asking.js";
import { drawChats, startChats } from "./chats.js";
import { byId, makeButton } from "./dom.js";
import { follow, followAgain } from "./follow.js";
import { askForKey } from "./key.js";
import { explain, fetchNode, watchHealth } from "./node.js";
import { openSample } from "./sample.js";
import { onKey, showDefaults } from "./settings.js";
import { isUnkept, loadChat, newChat, saveChat } from "./store.js";
import { say, sayList, translate } from "./strings.js";
import "./theme.js";
import { splitThought } from "./thought.js";
import { makeTrouble } from "./trouble.js";
import { Answer, Question } from "./turn.js";

const view = Object.fromEntries(
  "log welcome examples form question send stop newest editing fresh unkept".split(" ").map((id) => [id, byId(id)]),
);
// A telephone's keyboard has no Shift+Enter, and comes up over the answer when the question gets the focus
const touch = matchMedia("(hover: none) and (pointer: coarse)");

let chat = newChat();
let running = null; // {stop, keep} of the answer that streams now
let draft = null; // what was being written before the last question was taken up to be edited
let modelName = "";
let last = {}; // the last Question and Answer of the document

// ---- one question

function ask(text) {
  if (running || !text.trim()) return;
  if (draft !== null) {
    chat.messages.splice(findLastQuestion());
    endEdit();
    draw();
  }
  chat.messages.push({ role: "user", content: text });
  showQuestion(text);
  answer();
}

function retry() {
  if (running) return;
  draw(findLastQuestion() + 1);
  answer();
}

/** Ask the last question. An answer it had gives way when the first word of the new one is here. */
async function answer() {
  const own = chat; // another chat may be opened meanwhile
  const at = findLastQuestion() + 1;
  const abort = new AbortController();
  const turn = showAnswer();
  const speaker = new Speaker();
  const reply = new Reply();
  const keep = (note) => {
    own.messages.splice(at, Infinity, { role: "assistant", content: reply.said, note });
    save(own);
  };
  const mine = { stop: () => abort.abort(), keep: () => reply.said && keep(say("incomplete")) };
  running = mine;
  showRunning();
  followAgain();
  save(own);
  turn.isBusy = true;
  const wants = { key: askForNewKey, look: lookAtHealth };
  try {
    const body = makeBody(own.messages.slice(0, at), modelName, true);
    await askUntilAnswered(body, reply, turn, speaker, abort.signal, wants);
    const note = reply.describe();
    turn.finish(reply.said, note, retry);
    speaker.finish(splitThought(reply.said).answer);
    if (!reply.said) announce(note);
    keep(note);
  } catch (error) {
    const isStopped = abort.signal.aborted;
    const note = say(isStopped ? "stopped" : "incomplete");
    if (reply.said || isStopped) turn.finish(reply.said, note, isStopped && retry);
    if (reply.said) keep(note);
    if (isStopped) announce(note);
    else showTrouble(turn, explain(error, reply.said !== ""), own, at);
  }
  if (running === mine) running = null;
  showRunning();
  drawChats(chat.id);
}

// ---- the document

/** Show the chat, or only its first n messages because an answer is about to follow. */
function draw(n) {
  view.log.replaceChildren();
  last = {};
  for (const message of chat.messages.slice(0, n)) {
    if (message.role === "user") showQuestion(message.content);
    else showAnswer().finish(message.content, message.note ?? "", retry);
  }
  const isUnanswered = n === undefined && chat.messages.at(-1)?.role === "user";
  if (isUnanswered && !running) showAnswer().showTrouble(say("unanswered"), say("again"), retry);
  showStart();
}

function showQuestion(text) {
  last.question?.allowEdit(null);
  last.answer?.allowRetry(null);
  for (const button of view.log.querySelectorAll(".trouble button")) button.remove();
  last.question = new Question(text);
  last.question.allowEdit(startEdit);
  view.log.append(last.question.element);
  showStart();
}

function showAnswer() {
  for (const trouble of view.log.querySelectorAll(".turn:last-child .trouble")) trouble.parentElement.remove();
  last.answer?.allowRetry(null);
  last.answer = new Answer(follow);
  view.log.append(last.answer.element);
  return last.answer;
}

/** own, at: the chat, and where in it the answer would be; the answer that it had before comes back. */
function showTrouble(turn, { kind, text }, own, at) {
  if (kind === "lost" || kind === "away") lookAtHealth();
  const wasAnswered = own === chat && own.messages.length > at && !turn.hasText;
  if (wasAnswered) draw();
  const where = wasAnswered ? last.answer : turn;
  if (kind === "long") where.showTrouble(text, say("fresh"), startFresh);
  else where.showTrouble(text, say("again"), retry);
}

function showStart() {
  view.welcome.hidden = chat.messages.length > 0;
  view.fresh.disabled = !chat.messages.length;
}

function showRunning() {
  const hadFocus = [view.send, view.stop, document.body].includes(document.activeElement);
  view.stop.hidden = !running;
  view.send.hidden = Boolean(running);
  fitQuestion();
  if (touch.matches && running) view.question.blur();
  else if (hadFocus) focusQuestion();
}

function focusQuestion() {
  if (!touch.matches) view.question.focus();
}

function fitQuestion() {
  view.question.style.height = "auto";
  view.question.style.height = `${view.question.scrollHeight}px`;
  view.send.disabled = !view.question.value.trim();
}

// ---- editing the last question

const findLastQuestion = () => chat.messages.findLastIndex((message) => message.role === "user");

function startEdit() {
  const at = findLastQuestion();
  if (running || at < 0) return;
  draft ??= view.question.value;
  view.editing.hidden = false;
  view.question.value = chat.messages[at].content;
  fitQuestion();
  view.question.focus();
}

function endEdit() {
  if (draft === null) return;
  view.question.value = draft;
  draft = null;
  view.editing.hidden = true;
  fitQuestion();
}

byId("cancel-edit").addEventListener("click", () => {
  endEdit();
  view.question.focus();
});

// ---- chats

function save(own) {
  if (own.isDeleted) return; // while its answer was streaming
  saveChat(own);
  drawChats(chat.id);
  rememberPlace();
  if (isUnkept() && view.unkept.hidden) announce(say("unkept"));
  view.unkept.hidden = !isUnkept();
}

function show(next) {
  running?.stop();
  running = null;
  endEdit();
  chat = next;
  draw();
  followAgain();
  showRunning();
  drawChats(chat.id);
  rememberPlace();
  focusQuestion();
}

const startFresh = () => show(newChat());

function openChat(id) {
  if (id !== chat.id || !chat.messages.length) show(loadChat(id) ?? newChat());
}

function closeChat() {
  chat.isDeleted = true;
  startFresh();
}

/** Another tab changed the open chat, or deleted it. Whoever is in the middle of something here finishes that first. */
function meetOtherTab() {
  const kept = loadChat(chat.id);
  if (!kept && chat.at) closeChat();
  else if (kept && kept.at !== chat.at && !running && draft === null) show(kept);
}

/** The open chat is in the address, so that a reload and the back button find it. */
function rememberPlace() {
  history.replaceState(null, "", chat.messages.length ? `#${chat.id}` : location.pathname);
}

// ---- the node

function showHealth(state) {
  const health = byId("health");
  health.dataset.state = state;
  byId("health-text").textContent = say(`health_${state}`);
  if (state === "ready" && !modelName) showModel();
}
const lookAtHealth = watchHealth(showHealth);

async function askForNewKey(why) {
  const isNew = await askForKey(why);
  if (isNew) showModel();
  return isNew;
}

async function showModel() {
  const box = byId("welcome-trouble");
  box.replaceChildren();
  try {
    const model = (await (await fetchNode("/v1/models")).json()).data[0];
    modelName = model.id;
    byId("model").textContent = model.id;
    byId("model").title = [model.description, model.context && say("context", { n: model.context })].filter(Boolean).join(", ");
    byId("model").hidden = false;
    byId("demo").hidden = model.id !== "demo";
    showDefaults(model.defaults);
    const isDemo = model.id === "demo"; // which speaks English only
    const questions = sayList(isDemo ? "examples_demo" : "examples").map((text) =>
      makeButton(text, () => ask(text), { className: "", lang: isDemo ? "en" : null }),
    );
    view.examples.replaceChildren(...questions);
  } catch (error) {
    if (error.status !== 401) return; // the next look at the node's health tries again
    box.append(makeTrouble(say("key_why"), say("key"), () => askForNewKey()));
  }
}

// ---- what the user does

view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = view.question.value;
  if (running || !text.trim()) return;
  if (draft === null) view.question.value = "";
  ask(text);
  fitQuestion();
});

view.question.addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229) return; // 229: Safari's Enter that ends a composition
  const isSent = touch.matches ? event.ctrlKey || event.metaKey : !event.shiftKey;
  if (event.key === "Enter" && isSent) {
    event.preventDefault();
    view.form.requestSubmit();
  } else if (event.key === "ArrowUp" && !view.question.value && findLastQuestion() >= 0) {
    event.preventDefault();
    startEdit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (running) running.stop();
  else endEdit();
});

view.question.addEventListener("input", fitQuestion);
view.stop.addEventListener("click", () => running?.stop());
view.newest.addEventListener("click", () => {
  followAgain();
  view.question.focus();
});
view.fresh.addEventListener("click", startFresh);
onKey(showModel);
byId("open-sample").addEventListener("click", () => {
  const until = chat.messages.slice(0, findLastQuestion() + 1);
  const question = { role: "user", content: sayList("examples_demo")[0] };
  openSample(makeBody(until.length ? until : [question], modelName, false));
});
window.addEventListener("pagehide", () => running?.keep());
document.addEventListener("visibilitychange", () => document.hidden && running?.keep()); // a telephone may end it there
window.addEventListener("hashchange", () => {
  if (location.hash === "#question") rememberPlace(); // the link over the head of the page led there
  else openChat(location.hash.slice(1));
});

translate();
startChats({ open: openChat, close: closeChat, meet: meetOtherTab });
chat = loadChat(location.hash.slice(1)) ?? chat;
draw();
followAgain();
drawChats(chat.id);
rememberPlace();
fitQuestion();
