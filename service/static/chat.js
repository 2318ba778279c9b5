// The chat: ask, watch the answer stream, stop it, ask again. Start here to read the page's code.
//
// strings (every word) - store (what the browser keeps) - node and stream (talking with the service) - markdown and turn
// (how an answer looks) - announce (how it sounds) - chats, settings, sample, key (the panels).
import { announce, Speaker } from "./announce.js";
import { drawChats, startChats } from "./chats.js";
import { byId, makeButton } from "./dom.js";
import { askForKey } from "./key.js";
import { explain, fetchNode, watchHealth } from "./node.js";
import { openSample } from "./sample.js";
import { onKey, samplingParameters, showDefaults, systemPrompt } from "./settings.js";
import { loadChat, newChat, saveChat } from "./store.js";
import { readEvents } from "./stream.js";
import { say, sayList, translate } from "./strings.js";
import "./theme.js";
import { makeTrouble } from "./trouble.js";
import { Answer, Question } from "./turn.js";

const MAX_TRIES = 30; // while the node is busy
const NEAR_PX = 8; // so near the end counts as at the end
const view = Object.fromEntries(
  "main log welcome examples form question send stop newest editing fresh".split(" ").map((id) => [id, byId(id)]),
);

let chat = newChat();
let running = null; // {stop, keep} of the answer that streams now
let isEditing = false; // the last question
let modelName = "";
let last = {}; // the last Question and Answer of the document

// ---- one question

function ask(text) {
  if (running || !text.trim()) return;
  if (isEditing) {
    chat.messages.splice(findLastQuestion());
    endEdit();
    draw();
  }
  chat.messages.push({ role: "user", content: text });
  showQuestion(text);
  isFollowing = true;
  answer();
}

function retry() {
  if (running) return;
  chat.messages.splice(findLastQuestion() + 1);
  draw();
  isFollowing = true;
  answer();
}

async function answer() {
  const own = chat; // another chat may be opened meanwhile
  const abort = new AbortController();
  const turn = showAnswer();
  const speaker = new Speaker();
  const told = { said: "", nPieces: 0, firstAt: 0, reason: null, usage: null, timings: null };
  let kept = null;
  const keep = (note = "") => {
    if (!kept) own.messages.push((kept = { role: "assistant" }));
    Object.assign(kept, { content: told.said, note });
    save(own);
  };
  running = { stop: () => abort.abort(), keep: () => told.said && keep() };
  showRunning();
  save(own);
  turn.isBusy = true;
  const started = performance.now();
  try {
    await askUntilAnswered(own, told, turn, speaker, abort.signal);
    turn.finish(told.said, describe(told, started), retry);
    speaker.finish(told.said);
    keep(describe(told, started));
  } catch (error) {
    const isStopped = abort.signal.aborted;
    const trouble = isStopped ? { text: say("stopped") } : explain(error, told.said !== "");
    if (told.said || isStopped) turn.finish(told.said, isStopped ? say("stopped") : say("incomplete"), isStopped && retry);
    if (told.said) keep(isStopped ? say("stopped") : say("incomplete"));
    if (!isStopped) showTrouble(turn, trouble);
    announce(trouble.text);
    if (trouble.kind === "lost" || trouble.kind === "away") lookAtHealth();
  }
  running = null;
  showRunning();
  drawChats(chat.id);
}

/** Ask; while the node is busy wait as long as it says, and when it wants a key ask for one. */
async function askUntilAnswered(own, told, turn, speaker, signal) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await stream(own, told, turn, speaker, signal);
    } catch (error) {
      if (signal.aborted || told.said) throw error;
      const trouble = explain(error);
      if (trouble.kind === "key") {
        if (await askForKey(trouble.text)) {
          showModel();
          continue;
        }
        throw error;
      }
      if (!trouble.waitS || tries >= MAX_TRIES) throw error;
      if (trouble.kind === "away") lookAtHealth();
      await turn.countDown(trouble.text, trouble.waitS, signal);
    }
  }
}

async function stream(own, told, turn, speaker, signal) {
  let wait = { text: say("asking"), at: performance.now() };
  const showWait = () => {
    const leftS = Math.max(1, Math.ceil(wait.waitS - (performance.now() - wait.at) / 1000));
    if (wait.place) turn.wait(say("queued", { place: wait.place, n: leftS }));
    else turn.wait(wait.text, wait.share);
  };
  showWait();
  const timer = setInterval(() => !told.said && showWait(), 1000);
  try {
    const response = await fetchNode("/v1/chat/completions", { body: makeBody(own, true), signal });
    for await (const chunk of readEvents(response.body)) {
      if (chunk.error) throw Object.assign(new Error(chunk.error.message), { code: chunk.error.code });
      if (chunk.prompt_progress && !told.said) {
        const next = readProgress(chunk);
        if (next.place && next.place !== wait.place) announce(say("queued", { place: next.place, n: Math.ceil(next.waitS) }));
        wait = next;
        showWait();
      }
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) {
        told.firstAt ||= performance.now();
        told.nPieces += 1;
        told.said += choice.delta.content.replaceAll("\r", "");
        turn.grow(told.said, () => describeSpeed(told));
        speaker.update(told.said);
      }
      told.reason = choice?.finish_reason ?? told.reason;
      told.usage = chunk.usage ?? told.usage;
      told.timings = chunk.timings ?? told.timings;
    }
  } finally {
    clearInterval(timer);
  }
}

function readProgress({ prompt_progress: { total, cache, processed }, queue }) {
  const share = total > cache ? Math.max(0, processed - cache) / (total - cache) : 1;
  const text = say("reading", { percent: Math.round(share * 100), n: total });
  return { text, share, place: queue?.place ?? 0, waitS: queue?.wait_s ?? 0, at: performance.now() };
}

/** What is sent for `own`: a question that got no answer is left out once another follows. */
function makeBody(own, isStream) {
  const asked = own.messages.filter(
    (message, i) => message.role === "assistant" || own.messages[i + 1]?.role !== "user",
  );
  const system = systemPrompt();
  const messages = asked.map(({ role, content }) => ({ role, content }));
  return {
    model: modelName || "default",
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    ...samplingParameters(),
    ...(isStream && { stream: true, return_progress: true, stream_options: { include_usage: true } }),
  };
}

function describeSpeed({ nPieces, firstAt }) {
  const seconds = (performance.now() - firstAt) / 1000;
  return nPieces > 1 && seconds > 0.3 ? say("speed", { speed: (nPieces - 1) / seconds }) : say("answering");
}

function describe({ usage, timings, firstAt, reason }, started) {
  const words = [];
  if (usage) words.push(say("n_tokens", { n: usage.completion_tokens }));
  if (firstAt) words.push(say("first_after", { s: (firstAt - started) / 1000 }));
  if (timings?.predicted_per_second) words.push(say("speed", { speed: timings.predicted_per_second }));
  if (timings?.cache_n) words.push(say("from_cache", { n: timings.cache_n }));
  if (reason === "length") words.push(say("cut_off"));
  return words.join(" · ");
}

// ---- the document

function draw() {
  view.log.replaceChildren();
  last = {};
  for (const message of chat.messages) {
    if (message.role === "user") showQuestion(message.content);
    else showAnswer().finish(message.content, message.note ?? "", retry);
  }
  const isUnanswered = chat.messages.at(-1)?.role === "user";
  if (isUnanswered && !running) {
    const turn = showAnswer();
    turn.showTrouble(say("unanswered"), say("again"), retry);
  }
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

function showTrouble(turn, { kind, text }) {
  if (kind === "long") turn.showTrouble(text, say("fresh"), startFresh);
  else turn.showTrouble(text, say("again"), retry);
}

function showStart() {
  view.welcome.hidden = chat.messages.length > 0;
  view.fresh.disabled = !chat.messages.length;
}

function showRunning() {
  const hadFocus = [view.send, view.stop].includes(document.activeElement);
  view.stop.hidden = !running;
  view.send.hidden = Boolean(running);
  fitQuestion();
  if (hadFocus || (!running && document.activeElement === document.body)) view.question.focus();
}

function fitQuestion() {
  view.question.style.height = "auto";
  view.question.style.height = `${view.question.scrollHeight}px`;
  view.send.disabled = !view.question.value.trim();
}

// ---- following the stream, until the reader scrolls up

let isFollowing = true;
let lastTop = 0;

const gap = () => view.main.scrollHeight - view.main.scrollTop - view.main.clientHeight;

function follow() {
  if (isFollowing) view.main.scrollTop = view.main.scrollHeight;
  view.newest.hidden = isFollowing || gap() < NEAR_PX;
}

view.main.addEventListener("scroll", () => {
  if (gap() < NEAR_PX) isFollowing = true;
  else if (view.main.scrollTop < lastTop) isFollowing = false;
  lastTop = view.main.scrollTop;
  view.newest.hidden = isFollowing || gap() < NEAR_PX;
});
view.main.addEventListener("wheel", (event) => event.deltaY < 0 && (isFollowing = false), { passive: true });
view.newest.addEventListener("click", () => {
  isFollowing = true;
  follow();
  view.question.focus();
});

// ---- editing the last question

const findLastQuestion = () => chat.messages.findLastIndex((message) => message.role === "user");

function startEdit() {
  const at = findLastQuestion();
  if (running || at < 0) return;
  isEditing = true;
  view.editing.hidden = false;
  view.question.value = chat.messages[at].content;
  fitQuestion();
  view.question.focus();
}

function endEdit() {
  isEditing = false;
  view.editing.hidden = true;
  view.question.value = "";
  fitQuestion();
}

byId("cancel-edit").addEventListener("click", () => {
  endEdit();
  view.question.focus();
});

// ---- chats

function save(own) {
  if (own.isDeleted) return; // while its answer was streaming
  own.at = Date.now();
  saveChat(own);
  drawChats(chat.id);
  rememberPlace();
}

function openChat(id) {
  running?.stop();
  endEdit();
  chat = loadChat(id) ?? newChat();
  isFollowing = true;
  draw();
  follow();
  drawChats(chat.id);
  rememberPlace();
  view.question.focus();
}

function startFresh() {
  running?.stop();
  endEdit();
  chat = newChat();
  draw();
  drawChats(chat.id);
  rememberPlace();
  view.question.focus();
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
    const questions = sayList(model.id === "demo" ? "examples_demo" : "examples");
    view.examples.replaceChildren(...questions.map((text) => makeButton(text, () => ask(text), { className: "" })));
  } catch (error) {
    if (error.status !== 401) return; // the next look at the node's health tries again
    box.append(makeTrouble(say("key_why"), say("key"), async () => (await askForKey()) && showModel()));
  }
}

// ---- what the user does

view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = view.question.value;
  if (running || !text.trim()) return;
  view.question.value = "";
  ask(text);
  fitQuestion();
});

view.question.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
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
  else if (isEditing) endEdit();
});

view.question.addEventListener("input", fitQuestion);
view.stop.addEventListener("click", () => running?.stop());
view.fresh.addEventListener("click", startFresh);
onKey(showModel);
byId("open-sample").addEventListener("click", () => {
  const isAsked = findLastQuestion() >= 0;
  const question = { messages: [{ role: "user", content: sayList("examples_demo")[0] }] };
  const until = { messages: chat.messages.slice(0, findLastQuestion() + 1) };
  openSample(makeBody(isAsked ? until : question, false));
});
window.addEventListener("pagehide", () => running?.keep());
window.addEventListener("hashchange", () => location.hash.slice(1) !== chat.id && openChat(location.hash.slice(1)));

translate();
startChats({
  open: openChat,
  close() {
    chat.isDeleted = true;
    startFresh();
  },
});
if (location.hash) openChat(location.hash.slice(1));
else draw();
fitQuestion();
