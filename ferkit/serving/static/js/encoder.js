// Frames of a video as JPEG, as good as the line can take without delay.

const STEPS = [
  { side: 320, quality: 0.5 },
  { side: 480, quality: 0.5 },
  { side: 640, quality: 0.5 },
  { side: 640, quality: 0.65 },
  { side: 640, quality: 0.8 },
  { side: 640, quality: 0.9 },
];
const FIRST = 4;
const TOO_SLOW_MS = 120;
const FAR_TOO_SLOW_MS = 400;
const FAST_MS = 50;
const PATIENCE = 25;

export class FrameEncoder {
  #canvas = document.createElement("canvas");
  #step = FIRST;
  #transport_ms = null;
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
    const transport_ms = Math.max(0, delay_ms - server_ms);
    this.#transport_ms = this.#transport_ms === null
      ? transport_ms
      : this.#transport_ms + 0.15 * (transport_ms - this.#transport_ms);
    this.#since += 1;
    if (this.#since < PATIENCE) return;
    if (this.#step > 0 && this.#transport_ms > (this.#keepsSize(-1) ? TOO_SLOW_MS : FAR_TOO_SLOW_MS)) this.#move(-1);
    else if (this.#transport_ms < FAST_MS && this.#keepsSize(1)) this.#move(1);
  }

  /** Faces are followed in pixels, so a size is given up only for a poor line, and not taken back. */
  #keepsSize(by) {
    return STEPS[this.#step + by]?.side === STEPS[this.#step].side;
  }

  #move(by) {
    this.#step += by;
    this.#since = 0;
  }
}
