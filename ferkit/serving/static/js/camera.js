// The camera, and what may be wrong with it.

const WANTED = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const PROBLEMS = {
  NotFoundError: "none",
  OverconstrainedError: "none",
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotReadableError: "busy",
  AbortError: "busy",
};

/** Why there is no picture; `kind` is none, refused, busy, insecure, lost or other. */
export class CameraProblem extends Error {
  constructor(kind, detail = "") {
    super(detail || kind);
    this.kind = kind;
    this.detail = detail;
  }
}

export class Camera extends EventTarget {
  #stream = null;
  #turn = 0;

  constructor(video) {
    super();
    this.video = video;
  }

  /**
   * Start it, or change to another one; gives whether it is on, since it may have been stopped while the visitor was
   * asked. Raises CameraProblem.
   */
  async start(deviceId = null) {
    if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) throw new CameraProblem("insecure");
    this.stop();
    const turn = this.#turn;
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...WANTED, ...which } });
    } catch (error) {
      throw new CameraProblem(PROBLEMS[error.name] ?? "other", error.name);
    }
    if (turn !== this.#turn) {
      for (const track of stream.getTracks()) track.stop();
      return false;
    }
    this.#stream = stream;
    this.#track.addEventListener("ended", () => this.dispatchEvent(new Event("lost")));
    this.video.srcObject = stream;
    try {
      await this.video.play();
    } catch (error) {
      if (turn === this.#turn) throw new CameraProblem("other", error.name);
    }
    return turn === this.#turn;
  }

  stop() {
    this.#turn += 1;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /** A camera at the back shows the world, which nobody wants mirrored. */
  get facesUser() {
    return this.#track?.getSettings().facingMode !== "environment";
  }

  async others() {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const current = this.#track?.getSettings().deviceId;
    return devices
      .filter((device) => device.kind === "videoinput")
      .map((device) => ({ id: device.deviceId, name: device.label, current: device.deviceId === current }));
  }

  get #track() {
    return this.#stream?.getVideoTracks()[0];
  }

  /** Call `look(captured_ms)` for each new frame, until the camera stops. */
  eachFrame(look) {
    const stream = this.#stream;
    const { video } = this;
    const next = video.requestVideoFrameCallback
      ? (then) => video.requestVideoFrameCallback((now, frame) => then(frame.captureTime ?? now))
      : (then) => requestAnimationFrame(then);
    const go = (captured_ms) => {
      if (this.#stream !== stream) return;
      look(Math.min(captured_ms, performance.now()));
      next(go);
    };
    next(go);
  }
}
