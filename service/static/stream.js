// Bytes of a server-sent event stream -> the JSON of its events. Knows nothing of what the events say.

/** The stream ended, or could not be read, before its end was told. */
export class Broken extends Error {}

/** Text, in pieces cut anywhere, -> data of events. Lines end with \n, \r or \r\n; comments and other fields pass by. */
export class EventParser {
  #held = "";
  #data = [];

  *push(text) {
    this.#held += text;
    // A \r at the very end may be the first half of \r\n
    const end = this.#held.endsWith("\r") ? this.#held.length - 1 : this.#held.length;
    const lines = this.#held.slice(0, end).split(/\r\n|\r|\n/);
    this.#held = lines.pop() + this.#held.slice(end);
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) yield this.#data.join("\n");
        this.#data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this.#data.push(line.slice(5).replace(/^ /, ""));
      }
    }
  }
}

/** The JSON of each event of a ReadableStream of bytes, until [DONE]. Throws Broken if there is none. */
export async function* readEvents(stream) {
  const decoder = new TextDecoder();
  const parser = new EventParser();
  const reader = stream.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Broken(error.message);
      });
      for (const data of parser.push(decoder.decode(value, { stream: !done }))) {
        if (data === "[DONE]") return;
        yield parse(data);
      }
      if (done) throw new Broken("the stream ended early");
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Broken("an event is not JSON");
  }
}
