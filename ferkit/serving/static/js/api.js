// Requests to the server that this page came from.
import { session } from "./session.js";

const BASE = new URL("v1/", document.baseURI);

/** A request that the server did not serve; `code` is one of the API's, or "offline". */
export class Problem extends Error {
  constructor(code, message = "", status = 0) {
    super(message || code);
    this.code = code;
    this.status = status;
  }
}

let askForToken = async () => false;

/** Set what is called when the server asks for a token; it gives whether there is a new one to try. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

export function streamAddress() {
  const address = new URL("stream", BASE);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return address.href;
}

export async function getJson(path) {
  return (await request(path)).json();
}

/** A file of the server as a Blob: with the token in the head, never in an address. */
export async function getBlob(path) {
  return (await request(path)).blob();
}

/** Remove a job; also while the page is closing. */
export function removeJob(id) {
  return request(`jobs/${id}`, { method: "DELETE", keepalive: true });
}

const json = (body) => ({ method: "POST", body: JSON.stringify(body) });

/** Begin a session of teaching; gives its state. */
export async function beginTeaching(body) {
  return (await request("teach", json(body), { purpose: session.purpose })).json();
}

/** Add the faces of images to a class. */
export async function addExamples(id, label, files) {
  const form = new FormData();
  for (const file of files) form.append("images", file, file.name || "image");
  return (await request(`teach/${id}/examples`, { method: "POST", body: form }, { label, purpose: session.purpose })).json();
}

export async function changeTaught(id, change) {
  return (await request(`teach/${id}/changes`, json(change))).json();
}

export async function saveTaught(id, body) {
  return (await request(`teach/${id}/save`, json(body))).json();
}

/** Forget a session; also while the page is closing. */
export function endTeaching(id) {
  return request(`teach/${id}`, { method: "DELETE", keepalive: true });
}

export async function predict(files, signal) {
  const form = new FormData();
  for (const file of files) form.append("images", file, file.name || "image");
  return (await request("predict", { method: "POST", body: form, signal }, declared())).json();
}

/** Send a film; `progress` is told the share that is sent. XMLHttpRequest, since fetch does not tell. */
export function sendFilm(file, options, progress, signal) {
  return withToken(() => new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", address("video", { ...declared(), ...options }));
    for (const [name, value] of Object.entries(tokenHeader())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    call.onerror = () => reject(new Problem("offline"));
    call.onabort = () => reject(new DOMException("stopped", "AbortError"));
    call.onload = () => {
      const body = parsed(call.responseText);
      if (call.status === 202) resolve(body);
      else reject(new Problem(body.code ?? "other", body.message, call.status));
    };
    signal?.addEventListener("abort", () => call.abort());
    const form = new FormData();
    form.append("file", file, file.name || "film");
    call.send(form);
  }));
}

function request(path, options = {}, query = {}) {
  return withToken(() => once(path, options, query));
}

async function once(path, options, query) {
  let answer;
  try {
    answer = await fetch(address(path, query), { ...options, headers: headers(options.body), credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("offline");
  }
  if (answer.ok) return answer;
  const body = parsed(await answer.text());
  throw new Problem(body.code ?? "other", body.message ?? answer.statusText, answer.status);
}

async function withToken(attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (problem) {
      if (problem.status !== 401 || !(await askForToken())) throw problem;
    }
  }
}

function address(path, query) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) if (value != null) url.searchParams.set(name, value);
  return url;
}

const declared = () => ({ model: session.model, purpose: session.purpose });

const tokenHeader = () => (session.token ? { Authorization: `Bearer ${session.token}` } : {});

const headers = (body) => ({ ...tokenHeader(), ...(typeof body === "string" && { "Content-Type": "application/json" }) });

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}
