// The engine's API with this page's key, which is kept for this origin until the browser's tab is closed.

const KEY = "sampan-key";

export class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export const known = () => sessionStorage.getItem(KEY) !== null;

// Exchanges the token in the address for a key, and takes it out of the address.
export async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", "#/");
  const answer = await fetch("session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
  const found = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, found.message);
  sessionStorage.setItem(KEY, found.key);
}

export async function send(method, path, body, signal) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY) ?? ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(`api${path}`, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (answer.ok || answer.status === 304) return answer;
  const text = await answer.text();
  let message = text;
  try { message = JSON.parse(text).message; } catch { /* it is no JSON, so it is the message */ }
  throw new Refused(answer.status, message);
}

export const text = async (path) => (await send("GET", path)).text();

export async function call(method, path, body, signal) {
  const found = await (await send(method, path, body, signal)).text();
  return found ? JSON.parse(found) : null;
}

async function* chunks(answer) {
  const reader = answer.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally { reader.cancel().catch(() => {}); }
}

// A stream of JSON messages, one to a line.
export async function* messages(method, path, body, signal) {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks(await send(method, path, body, signal))) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) yield JSON.parse(line);
  }
}

// [stream, bytes] of Docker's frames, or all as stream 1 of a terminal's.
export async function* frames(path, tty, signal) {
  let buffer = new Uint8Array(0);
  for await (const chunk of chunks(await send("GET", path, undefined, signal))) {
    if (tty) { yield [1, chunk]; continue; }
    const joined = new Uint8Array(buffer.length + chunk.length);
    joined.set(buffer); joined.set(chunk, buffer.length);
    buffer = joined;
    while (buffer.length >= 8) {
      const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(4);
      if (buffer.length < 8 + length) break;
      yield [buffer[0], buffer.slice(8, 8 + length)];
      buffer = buffer.slice(8 + length);
    }
  }
}

export function socket(path) {
  const address = new URL(`api${path}`, location.href);
  address.protocol = "ws:";
  address.hash = "";
  const found = new WebSocket(address, ["sampan", sessionStorage.getItem(KEY) ?? ""]);
  found.binaryType = "arraybuffer";
  return found;
}
