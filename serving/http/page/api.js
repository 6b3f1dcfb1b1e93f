// What the page asks of the server.

const KEY = "palp-key";

/** An answer that is an error, with the server's own sentence. */
export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message ?? `the server answered with status ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
    this.retryAfter = retryAfter;
  }
}

/** Keep a key for this tab. Throws at one that no request can carry. */
export function setKey(key) {
  if (/[^\x21-\x7e]/.test(key)) throw new Error("A key has only plain letters, digits and signs: copy it again.");
  sessionStorage.setItem(KEY, key);
}

/** The name under which the browser keeps something that other keys are not shown. */
export function ownName(name) {
  const key = sessionStorage.getItem(KEY);
  if (!key) return name;
  let hash = 0;
  for (const letter of key) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) >>> 0;
  return `${hash.toString(36)}:${name}`;
}

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  if (response.status === 401) askForKey(key);
  throw new ApiError(response.status, body?.error, response.headers.get("Retry-After"));
}

function askForKey(tried) {
  if (tried === sessionStorage.getItem(KEY)) sessionStorage.removeItem(KEY);
  window.dispatchEvent(new CustomEvent("palp-key-needed", { detail: { tried } }));
}

/** Server-sent events of a response, as {name, data}. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
        const data = lines.find((line) => line.startsWith("data: "))?.slice(6);
        if (name && data) yield { name, data: JSON.parse(data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* stream(path, options) {
  for await (const { name, data } of events(await call(path, options))) {
    if (name === "error") throw new ApiError(500, data.error);
    yield { name, data };
  }
}

/** All subjects, oldest first. */
export async function listSubjects() {
  return (await (await call("/v1/subjects")).json()).data;
}

/** Upload pictures; the learning begins. */
export async function addSubject(name, classWord, files) {
  const form = new FormData();
  form.set("name", name);
  form.set("class_word", classWord);
  for (const file of files) form.append("images", file);
  return (await call("/v1/subjects", { method: "POST", body: form })).json();
}

/** Forget a subject. */
export async function removeSubject(name) {
  await call(`/v1/subjects/${encodeURIComponent(name)}`, { method: "DELETE" });
}

/** The subject's state, each time that it changes, until it is learned. */
export async function* watchSubject(name) {
  for await (const { data } of stream(`/v1/subjects/${encodeURIComponent(name)}/events`, {})) yield data;
}

/** Events of one picture: {name: "queued" | "progress" | "partial_image" | "completed", data}. */
export async function* draw(request, signal) {
  const body = JSON.stringify({ ...request, stream: true, progress: true });
  const options = { method: "POST", body, signal, headers: { "Content-Type": "application/json" } };
  for await (const { name, data } of stream("/v1/images/generations", options)) {
    yield { name: name.replace("image_generation.", ""), data };
  }
}
