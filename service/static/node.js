// Talks to the node, and says in one sentence what is wrong when it cannot.
import { loadKey, saveKey } from "./store.js";
import { say } from "./strings.js";
import { Broken } from "./stream.js";

const HEALTH_EVERY_MS = 15000; // when all is well
const HEALTH_SOON_MS = 2000; // while the model loads or the node is away

/** What the node said instead of an answer. */
export class Refused extends Error {
  constructor({ message, ...facts }) {
    super(message);
    Object.assign(this, facts); // {status, code, retryAfterS, hadKey}
  }
}

/** GET, or POST of `body`. Throws Refused for every status but 2xx, and Broken without a connection. A key that the node
 * does not know is forgotten. */
export async function fetchNode(path, { body, signal } = {}) {
  const key = loadKey();
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  const method = body ? "POST" : "GET";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal }).catch(
    (error) => {
      throw error.name === "AbortError" ? error : new Broken(error.message);
    },
  );
  if (response.ok) return response;
  const hadKey = key !== null;
  if (response.status === 401 && hadKey && loadKey() === key) saveKey(null);
  const said = (await response.json().catch(() => null))?.error;
  throw new Refused({
    status: response.status,
    code: said?.code,
    message: said?.message ? say("trouble_said", { message: said.message }) : say("trouble_status", { status: response.status }),
    retryAfterS: Number(response.headers.get("Retry-After")) || 0,
    hadKey,
  });
}

/** An error of fetchNode or of reading a stream -> {kind, text, waitS}. waitS: trying again by itself makes sense then. */
export function explain(error, hasText = false) {
  const waitS = Math.max(1, Math.ceil(error.retryAfterS || 5));
  if (error.status === 401) return { kind: "key", text: say(error.hadKey ? "key_wrong" : "key_why") };
  if (error.code === "queue_full" || error.status === 429) return { kind: "busy", text: say("trouble_busy"), waitS };
  if (error.code === "not_ready") return { kind: "busy", text: say("trouble_loading"), waitS };
  if (error.status === 504 || error.code === "timeout") return { kind: "late", text: say("trouble_late") };
  if (error.code === "draining" || error.status === 502 || error.status === 503) {
    return { kind: "away", text: say("trouble_away"), waitS };
  }
  if (error.code === "context_length_exceeded" || error.status === 413) return { kind: "long", text: say("trouble_long") };
  if (error instanceof Broken) {
    return hasText ? { kind: "lost", text: say("trouble_broken") } : { kind: "lost", text: say("trouble_offline"), waitS };
  }
  return { kind: "other", text: error.message || say("trouble_other") };
}

/** Keeps looking at /readyz. show(state): ready, loading, draining, stopped, away or offline. Returns "look now". */
export function watchHealth(show) {
  let timer = null;
  const look = async () => {
    clearTimeout(timer);
    let state = "offline";
    try {
      const response = await fetch("/readyz", { cache: "no-store" });
      const body = await response.json().catch(() => ({}));
      state = response.ok ? "ready" : body.status || "away"; // NGINX's own 502 has no status
    } catch {
      // as it was set
    }
    show(state);
    clearTimeout(timer);
    timer = setTimeout(look, state === "ready" ? HEALTH_EVERY_MS : HEALTH_SOON_MS);
  };
  window.addEventListener("online", look);
  window.addEventListener("offline", () => show("offline"));
  look();
  return look;
}
