// Models that think aloud (Qwen3) write it between <think> and </think> before they answer.

const THOUGHT = /^\s*<think>([^]*?)(?:<\/think>\s*|$)/;

/** text: of an answer, complete or not. Returns {thought, answer}: what comes before the answer, and the answer. */
export function splitThought(text) {
  const found = THOUGHT.exec(text);
  return found ? { thought: found[1].trim(), answer: text.slice(found[0].length) } : { thought: "", answer: text };
}
