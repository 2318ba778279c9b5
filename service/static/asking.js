// Asks the node until it answers, and reads the answer. Draws through a turn; keeps nothing, knows no chats.
import { announce } from "./announce.js";
import { explain, fetchNode, Refused } from "./node.js";
import { samplingParameters, systemPrompt } from "./settings.js";
import { readEvents } from "./stream.js";
import { say } from "./strings.js";
import { splitThought } from "./thought.js";

const MAX_TRIES = 30; // while the node is busy or away

/** The request for `messages`: a question that got no answer is left out once another follows, thoughts always. */
export function makeBody(messages, model, isStream) {
  const asked = messages.filter((message, i) => message.role === "assistant" || messages[i + 1]?.role !== "user");
  const system = systemPrompt();
  const said = asked.map(({ role, content }) => ({ role, content: role === "user" ? content : splitThought(content).answer }));
  return {
    model: model || "default",
    messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
    ...samplingParameters(),
    ...(isStream && { stream: true, return_progress: true, stream_options: { include_usage: true } }),
  };
}

/** What the node has said so far, and how fast. */
export class Reply {
  said = "";
  #startedAt = performance.now();
  #firstAt = 0;
  #nPieces = 0;
  #reason = null;
  #usage = null;
  #timings = null;

  /** One event of the stream. Returns whether it brought text. */
  take(chunk) {
    const choice = chunk.choices?.[0];
    this.#reason = choice?.finish_reason ?? this.#reason;
    this.#usage = chunk.usage ?? this.#usage;
    this.#timings = chunk.timings ?? this.#timings;
    const text = choice?.delta?.content;
    if (!text) return false;
    this.#firstAt ||= performance.now();
    this.#nPieces += 1;
    this.said += text.replaceAll("\r", "");
    return true;
  }

  describeSpeed() {
    const seconds = (performance.now() - this.#firstAt) / 1000;
    return this.#nPieces > 1 && seconds > 0.3 ? say("speed", { speed: (this.#nPieces - 1) / seconds }) : say("answering");
  }

  describe() {
    const words = [];
    if (!this.said.trim()) words.push(say("nothing_said"));
    if (this.#usage) words.push(say("n_tokens", { n: this.#usage.completion_tokens }));
    if (this.#firstAt) words.push(say("first_after", { s: (this.#firstAt - this.#startedAt) / 1000 }));
    if (this.#timings?.predicted_per_second) words.push(say("speed", { speed: this.#timings.predicted_per_second }));
    if (this.#timings?.cache_n) words.push(say("from_cache", { n: this.#timings.cache_n }));
    if (this.#reason === "length") words.push(say("cut_off"));
    return words.join(" · ");
  }
}

/** Ask; while the node is busy or away wait as long as it says. wants.key(why): whether there is a new key; wants.look(). */
export async function askUntilAnswered(body, reply, turn, speaker, signal, wants) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await stream(body, reply, turn, speaker, signal);
    } catch (error) {
      if (signal.aborted || reply.said) throw error;
      const trouble = explain(error);
      if (trouble.kind === "key") {
        if (await wants.key(trouble.text)) continue;
        throw error;
      }
      if (!trouble.waitS || tries >= MAX_TRIES) throw error;
      if (trouble.kind !== "busy") wants.look();
      await turn.countDown(trouble.text, trouble.waitS, signal);
    }
  }
}

async function stream(body, reply, turn, speaker, signal) {
  let wait = { text: say("asking"), at: performance.now() };
  const showWait = () => {
    const leftS = Math.max(1, Math.ceil(wait.waitS - (performance.now() - wait.at) / 1000));
    if (wait.place) turn.wait(say("queued", { place: wait.place, n: leftS }));
    else turn.wait(wait.text, wait.share);
  };
  showWait();
  const timer = setInterval(() => !reply.said && showWait(), 1000);
  try {
    const response = await fetchNode("/v1/chat/completions", { body, signal });
    for await (const chunk of readEvents(response.body)) {
      if (chunk.error) throw new Refused({ ...chunk.error, message: say("trouble_said", chunk.error) });
      if (chunk.prompt_progress && !reply.said) {
        const next = readProgress(chunk);
        if (next.place && next.place !== wait.place) announce(say("queued", { place: next.place, n: Math.ceil(next.waitS) }));
        wait = next;
        showWait();
      }
      if (reply.take(chunk)) {
        turn.grow(reply.said, () => reply.describeSpeed());
        speaker.update(splitThought(reply.said).answer);
      }
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
