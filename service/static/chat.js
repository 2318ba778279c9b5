// The page: ask, watch the answer stream, stop it.
//
// Speaks the same API as everybody else (/v1/chat/completions, streamed). Text of the model reaches the document only as
// textContent. Knows three troubles apart: busy (wait as long as Retry-After says), not ready (ask /readyz until it is),
// and offline. Keeps the conversation in memory only.
"use strict";

const HEALTH_EVERY_MS = 15000; // when all is well
const HEALTH_SOON_MS = 2000; // while the model loads or the node is away
const EXAMPLES = {
  demo: ["What is Llamakiln?", "How do I bake an image?", "Which Arm shapes does it support?"],
  other: ["Explain a load balancer in two sentences.", "Write a haiku about clay.", "What is quantization?"],
};

const byId = (id) => document.getElementById(id);
const view = {
  main: document.querySelector("main"),
  log: byId("log"),
  welcome: byId("welcome"),
  examples: byId("examples"),
  form: byId("form"),
  question: byId("question"),
  send: byId("send"),
  stop: byId("stop"),
  model: byId("model"),
  demo: byId("demo"),
  health: byId("health"),
  healthText: byId("health-text"),
  fresh: byId("fresh"),
  theme: byId("theme"),
  announce: byId("announce"),
};

let messages = []; // what the model has been told and has said: {role, content}
let running = null; // AbortController of the answer that streams now
let isStopped = false;
let countdown = null;

// ---- the node's state

let healthTimer = null;

async function watchHealth() {
  let state = "offline";
  try {
    const response = await fetch("/readyz", { cache: "no-store" });
    const body = await response.json().catch(() => ({}));
    state = response.ok ? "ready" : body.status || "away"; // NGINX's own 502 has no status
  } catch {
    state = "offline";
  }
  showHealth(state);
  if (state === "ready" && view.model.hidden) await showModel();
  clearTimeout(healthTimer);
  healthTimer = setTimeout(watchHealth, state === "ready" ? HEALTH_EVERY_MS : HEALTH_SOON_MS);
}

function showHealth(state) {
  const words = {
    ready: "ready",
    loading: "model is loading",
    draining: "node is shutting down",
    stopped: "node is shutting down",
    away: "service is starting",
    offline: "no connection",
  };
  view.health.dataset.state = state;
  view.healthText.textContent = words[state] || state;
}

async function showModel() {
  try {
    const model = (await (await fetch("/v1/models")).json()).data[0];
    const isDemo = model.id === "demo";
    view.model.textContent = model.id;
    view.model.title = [model.description, model.context && `${model.context} tokens of context`].filter(Boolean).join(", ");
    view.model.hidden = false;
    view.demo.hidden = !isDemo;
    showExamples(isDemo ? EXAMPLES.demo : EXAMPLES.other);
  } catch {
    view.model.hidden = true; // the next look at the node's health tries again
  }
}

function showExamples(questions) {
  view.examples.replaceChildren(
    ...questions.map((question) => makeButton(question, "", () => ask(question))),
  );
}

// ---- one question

async function ask(question) {
  if (running || !question.trim()) return;
  view.welcome.hidden = true;
  view.fresh.hidden = false;
  for (const button of view.log.querySelectorAll(".trouble button")) button.remove();
  addTurn("mine", question);
  await answer(question);
}

async function answer(question) {
  const conversation = messages; // "New chat" begins another array while this one may still stream
  const turn = addTurn("theirs", "");
  const text = turn.querySelector(".text");
  running = new AbortController();
  isStopped = false;
  showRunning(true);
  turn.setAttribute("aria-busy", "true");
  const started = performance.now();
  let firstAt = null;
  let usage = null;
  let reason = null;
  let said = "";
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        messages: [...conversation, { role: "user", content: question }],
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: running.signal,
    });
    if (!response.ok) throw await readTrouble(response);
    for await (const chunk of readEvents(response)) {
      if (chunk.error) throw { message: chunk.error.message, code: chunk.error.code };
      const choice = chunk.choices[0];
      const piece = choice?.delta?.content;
      if (piece) {
        firstAt ??= performance.now();
        said += piece;
        show(text, said);
      }
      reason = choice?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
    if (!reason) throw { message: "The connection ended in the middle of the answer." };
    remember(conversation, question, said);
    addNotes(turn, said, describe(usage, reason, started, firstAt));
    view.announce.textContent = `Answer: ${said}`;
  } catch (error) {
    if (isStopped) {
      if (said) remember(conversation, question, said);
      addNotes(turn, said, ["stopped"]);
      view.announce.textContent = "Stopped.";
    } else {
      if (!said) text.remove();
      addTrouble(turn, explain(error), () => {
        turn.remove();
        answer(question);
      });
    }
  } finally {
    turn.removeAttribute("aria-busy");
    running = null;
    showRunning(false);
  }
}

function remember(conversation, question, said) {
  conversation.push({ role: "user", content: question }, { role: "assistant", content: said });
}

async function* readEvents(response) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += decoder.decode(value, { stream: true });
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      if (!block.startsWith("data: ")) continue; // a comment keeps a silent stream open
      if (block === "data: [DONE]") return;
      yield JSON.parse(block.slice(6));
    }
  }
}

// ---- trouble

async function readTrouble(response) {
  const body = await response.json().catch(() => null);
  return {
    status: response.status,
    code: body?.error?.code,
    message: body?.error?.message || `The node answered ${response.status}.`,
    retryAfterS: Number(response.headers.get("Retry-After")) || 0,
  };
}

function explain(error) {
  if (error.code === "queue_full" || error.status === 429) {
    return { text: "The node is busy with other questions.", waitS: error.retryAfterS || 5 };
  }
  if (error.code === "not_ready") return { text: "The model is still loading.", waitS: error.retryAfterS || 5 };
  if (error.status === 502 || error.status === 503 || error.status === 504) {
    watchHealth();
    return { text: "The model service is not available at the moment; it starts again by itself.", waitS: error.retryAfterS || 10 };
  }
  if (error.code === "context_length_exceeded") {
    return { text: "This conversation has become longer than the model can hold.", fresh: true };
  }
  if (error instanceof TypeError) {
    showHealth("offline");
    watchHealth();
    return { text: "No connection to the node." };
  }
  return { text: error.message || "Something went wrong." };
}

function addTrouble(turn, trouble, retry) {
  const box = document.createElement("div");
  box.className = trouble.waitS ? "trouble passing" : "trouble";
  box.setAttribute("role", "alert");
  const text = document.createElement("span");
  text.textContent = trouble.text;
  box.append(text);
  if (trouble.fresh) {
    box.append(makeButton("New chat", "", startFresh));
  } else {
    const button = makeButton("Try again", "", () => {
      if (running) return;
      clearInterval(countdown);
      retry();
    });
    box.append(button);
    if (trouble.waitS) waitBefore(button, trouble.waitS);
  }
  turn.append(box);
  scrollDown();
}

function waitBefore(button, waitS) {
  const until = performance.now() + waitS * 1000;
  const tick = () => {
    const leftS = Math.ceil((until - performance.now()) / 1000);
    button.disabled = leftS > 0;
    button.textContent = leftS > 0 ? `Try again in ${leftS} s` : "Try again";
    if (leftS <= 0) clearInterval(timer);
  };
  const timer = setInterval(tick, 250);
  countdown = timer;
  tick();
}

// ---- the document

function addTurn(kind, content) {
  const turn = document.createElement("article");
  turn.className = `turn ${kind}`;
  turn.setAttribute("aria-label", kind === "mine" ? "You" : "Model");
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = content;
  turn.append(text);
  view.log.append(turn);
  view.main.scrollTop = view.main.scrollHeight;
  return turn;
}

function addNotes(turn, said, words) {
  const notes = document.createElement("div");
  notes.className = "notes";
  const text = document.createElement("span");
  text.textContent = words.join(" · ");
  notes.append(text);
  if (said && navigator.clipboard) {
    const copy = makeButton("Copy", "quiet", async () => {
      await navigator.clipboard.writeText(said);
      copy.textContent = "Copied";
    });
    notes.append(copy);
  }
  turn.append(notes);
  scrollDown();
}

function describe(usage, reason, started, firstAt) {
  const words = [];
  if (usage) {
    words.push(`${usage.completion_tokens} tokens`);
    if (firstAt) {
      words.push(`first after ${((firstAt - started) / 1000).toFixed(1)} s`);
      const seconds = (performance.now() - firstAt) / 1000;
      if (usage.completion_tokens > 1 && seconds > 0) {
        words.push(`${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s`);
      }
    }
  }
  if (reason === "length") words.push("cut off at the length limit");
  return words;
}

function show(text, said) {
  const isAtEnd = view.main.scrollHeight - view.main.scrollTop - view.main.clientHeight < 80;
  text.textContent = said;
  if (isAtEnd) view.main.scrollTop = view.main.scrollHeight;
}

function scrollDown() {
  if (view.main.scrollHeight - view.main.scrollTop - view.main.clientHeight < 160) {
    view.main.scrollTop = view.main.scrollHeight;
  }
}

function makeButton(label, className, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = className;
  button.textContent = label;
  button.addEventListener("click", act);
  return button;
}

function showRunning(isRunning) {
  view.send.hidden = isRunning;
  view.stop.hidden = !isRunning;
  view.send.disabled = !view.question.value.trim();
  if (!isRunning) view.question.focus();
}

function fitQuestion() {
  view.question.style.height = "auto";
  view.question.style.height = `${view.question.scrollHeight}px`;
  view.send.disabled = !view.question.value.trim();
}

function stop() {
  if (!running) return;
  isStopped = true;
  running.abort();
}

function startFresh() {
  stop();
  messages = [];
  view.log.replaceChildren();
  view.welcome.hidden = false;
  view.fresh.hidden = true;
  view.question.focus();
}

view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const question = view.question.value;
  if (running || !question.trim()) return;
  view.question.value = "";
  fitQuestion();
  ask(question);
});

view.question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    view.form.requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});

view.question.addEventListener("input", fitQuestion);
view.stop.addEventListener("click", stop);
view.fresh.addEventListener("click", startFresh);
window.addEventListener("online", watchHealth);
window.addEventListener("offline", () => showHealth("offline"));

view.theme.addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // a browser that stores nothing follows the system next time
  }
});

try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // as above
}

fitQuestion();
watchHealth();
