// The WebSocket: frames out, readings in, never more than two frames on their way.
import { streamAddress } from "./api.js";
import { currentLanguage } from "./i18n.js";
import { session } from "./session.js";

const MAX_ON_THE_WAY = 2;
const LOST_MS = 4000;
const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 15;
const HEADER_BYTES = 12;
const WANTED_FPS = 15;

/**
 * One stream of frames. It comes back by itself when the server was gone.
 *
 * Events (`detail`): ready (labels), result (the answer, with `delay_ms`), problem ({code, message}),
 * waiting (for the next attempt), ended ({code, message}: the server does not want this stream).
 */
export class ExpressionStream extends EventTarget {
  #socket = null;
  #ready = false;
  #onTheWay = new Map();
  #number = 0;
  #wait_s = FIRST_WAIT_S;
  #timer = 0;
  #wanted = false;
  #refused = null;
  #teach = null;

  /** Begin; `teach` is the id of a session in which classes are taught. */
  open(teach = null) {
    this.#teach = teach;
    this.#wanted = true;
    this.#refused = null;
    this.#connect();
  }

  close() {
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.#drop();
  }

  /** Whether the next frame may go: so a slow server or line makes fewer frames, not older answers. */
  get isFree() {
    if (!this.#ready || this.#socket.bufferedAmount > 0) return false;
    const now = performance.now();
    for (const [number, sent] of this.#onTheWay) if (now - sent > LOST_MS) this.#onTheWay.delete(number);
    return this.#onTheWay.size < MAX_ON_THE_WAY;
  }

  /** Whether every frame that was sent is answered. */
  get isIdle() {
    return this.#onTheWay.size === 0;
  }

  /** A place for a frame that is being encoded; to be given to `send` or `release`. */
  reserve() {
    this.#number = (this.#number + 1) >>> 0;
    this.#onTheWay.set(this.#number, performance.now());
    return this.#number;
  }

  release(number) {
    this.#onTheWay.delete(number);
  }

  async send(number, capturedMs, blob) {
    const head = new DataView(new ArrayBuffer(HEADER_BYTES));
    head.setUint32(0, number, true);
    head.setFloat64(4, capturedMs, true);
    const message = await new Blob([head.buffer, blob]).arrayBuffer();
    if (this.#ready) this.#socket.send(message);
    else this.release(number);
  }

  command(message) {
    if (this.#ready) this.#socket.send(JSON.stringify(message));
  }

  #connect() {
    this.#drop();
    const socket = new WebSocket(streamAddress());
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify(this.#start()));
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => this.#lost(socket);
  }

  #start() {
    const { model, purpose, token } = session;
    return { type: "start", model, purpose, language: currentLanguage(), fps: WANTED_FPS, ...(token && { token }), ...(this.#teach && { teach: this.#teach }) };
  }

  #receive(message) {
    if (message.type === "ready") {
      this.#ready = true;
      this.#wait_s = FIRST_WAIT_S;
      this.#tell("ready", message);
    } else if (message.type === "result") {
      for (const number of this.#onTheWay.keys()) if (number <= message.frame) this.#onTheWay.delete(number);
      this.#tell("result", { ...message, delay_ms: performance.now() - message.captured_ms });
    } else if (message.type === "error") {
      if (message.fatal) this.#refused = message;
      else this.#onTheWay.clear();
      this.#tell("problem", message);
    }
  }

  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#ready = false;
    this.#socket = null;
    if (!this.#wanted) return;
    if (this.#refused && !["too_many", "idle", "slow", "busy"].includes(this.#refused.code)) {
      this.#wanted = false;
      this.#tell("ended", this.#refused);
      return;
    }
    this.#refused = null;
    const wait_s = this.#wait_s * (0.8 + 0.4 * Math.random()); // so that not all clients come back at once
    this.#wait_s = Math.min(LONGEST_WAIT_S, this.#wait_s * 2);
    this.#tell("waiting");
    this.#timer = setTimeout(() => this.#connect(), wait_s * 1000);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#ready = false;
    this.#onTheWay.clear();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
  }

  #tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
