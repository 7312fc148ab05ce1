// Frames of a video as JPEG, as large as the line and the server can take without delay.

const STEPS = [
  { side: 320, quality: 0.7 },
  { side: 400, quality: 0.75 },
  { side: 480, quality: 0.8 },
  { side: 640, quality: 0.8 },
  { side: 800, quality: 0.85 },
];
const FIRST = 3;
const TOO_SLOW_MS = 120;
const FAST_MS = 45;
const PATIENCE = 30;

export class FrameEncoder {
  #canvas = document.createElement("canvas");
  #step = FIRST;
  #transport = null;
  #since = 0;

  constructor(video) {
    this.video = video;
  }

  /** The present frame as a Blob; null if there is none. */
  encode() {
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth) return Promise.resolve(null);
    const { side, quality } = STEPS[this.#step];
    const scale = Math.min(1, side / Math.max(videoWidth, videoHeight));
    const [width, height] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    this.#canvas.getContext("2d", { alpha: false }).drawImage(this.video, 0, 0, width, height);
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", quality));
  }

  /** Learn from an answer: what is not the server's own time was spent on encoding and on the line. */
  learn(delay_ms, server_ms) {
    const transport = Math.max(0, delay_ms - server_ms);
    this.#transport = this.#transport === null ? transport : this.#transport + 0.15 * (transport - this.#transport);
    this.#since += 1;
    if (this.#since < PATIENCE) return;
    if (this.#transport > TOO_SLOW_MS && this.#step > 0) this.#move(-1);
    else if (this.#transport < FAST_MS && this.#step < STEPS.length - 1) this.#move(1);
  }

  #move(by) {
    this.#step += by;
    this.#since = 0;
  }
}
