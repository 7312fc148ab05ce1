"""Where frames go: H.264 video files, each frame at its own time, with the sound of another video; annotated copies; a
page on loopback, for machines on which no window can be opened."""

import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import FerkitError
from ferkit.core.files import (
    is_address,
    why_not_written,
)
from ferkit.core.labels import LabelSet
from ferkit.core.texts import Translations, text_table
from ferkit.core.types import Faces
from ferkit.faces.cropping import fit_to
from ferkit.inference.engine import FrameResult
from ferkit.inference.overlay import Overlay, Status
from ferkit.inference.smoothing import UNSURE
from ferkit.inference.sources import VideoSource, load_av
from ferkit.inference.video import UNSURE_NAME, FaceRow, frames_of, read_rows

if TYPE_CHECKING:
    from av import Packet

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
_TICKS = 18_000
"""Of a second, so that 24, 25, 30, 50 and 60 frames have whole numbers of them, and MP4 takes pauses of a day."""

_CARRIED_OVER = ("aac", "mp3", "ac3", "eac3", "alac")
"""Sound that every kind of file and most players take as it is; other sound is encoded as AAC."""

_PRIMING_S = 0.025
"""Sound that decoders need before the first that is heard."""


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """A video file, made of frames that come when they come; none is repeated and none left out.

    Args:
        path: of the file to make, ``.mp4``, ``.mov`` or ``.mkv``.
        fps: frames a second that are to be expected.
        begin_s: time of a frame at the very beginning of the file.
        sound_of: path or address of a video whose sound is kept, in step with frames that have its times.

    Raises:
        FerkitError: the folder cannot be made.
        DependencyError: PyAV is not installed.
    """

    def __init__(
        self, path: Path, fps: float = 25.0, begin_s: float = 0.0, sound_of: str | None = None
    ) -> None:
        self.path = path
        self._fps, self._begin_s, self._sound_of = fps, begin_s, sound_of
        self._av = load_av()
        self._container: Any = None
        self._sound: Iterator[tuple[float, Packet]] = iter(())
        self._next_sound: tuple[float, Packet] | None = None
        self._size_wh = (0, 0)
        self._last = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FerkitError(why_not_written(path.parent, error)) from None

    def write(self, rgb: np.ndarray, timestamp_s: float) -> None:
        """Add what was seen at ``timestamp_s``, uint8 (H, W, 3); one of another size is fitted, with black bars.

        Raises:
            FerkitError: the file cannot be written.
        """
        try:
            if self._container is None:
                self._open(rgb.shape[1], rgb.shape[0])
            self._mux_sound(self._container, timestamp_s)
            if (rgb.shape[1], rgb.shape[0]) != self._size_wh:
                rgb = fit_to(rgb, self._size_wh, "letterbox")
            # H.264 wants even sides.
            rgb = cv2.copyMakeBorder(rgb, 0, rgb.shape[0] % 2, 0, rgb.shape[1] % 2, cv2.BORDER_REPLICATE)
            frame = self._av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="itu709", dst_color_range="MPEG")
            self._last = max(round((timestamp_s - self._begin_s) * _TICKS), self._last + 1)
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._not_written(error) from None

    def close(self) -> None:
        """Finish the file. Raises FerkitError."""
        container, self._container = self._container, None
        if container is None:
            return
        try:
            with container:
                self._mux_sound(container, float("inf"))
                container.mux(self._stream.encode(None))
        except (self._av.error.FFmpegError, OSError) as error:
            raise self._not_written(error) from None

    def _open(self, width: int, height: int) -> None:
        self._size_wh = width, height
        options = {"movflags": "+faststart"} if self.path.suffix.lower() in (".mp4", ".mov") else {}
        self._container = self._av.open(f"file:{self.path}", "w", options=options)
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        rate = Fraction(self._fps).limit_denominator(1001)
        stream = self._container.add_stream(codec, rate=rate, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        stream.codec_context.color_primaries = stream.codec_context.color_trc = 1
        self._stream = stream
        if self._sound_of is not None:
            self._sound = self._read_sound(self._sound_of)
            self._next_sound = next(self._sound, None)

    def _mux_sound(self, container: Any, until_s: float) -> None:
        while self._next_sound is not None and self._next_sound[0] <= until_s:
            container.mux(self._next_sound[1])
            self._next_sound = next(self._sound, None)

    def _read_sound(self, spec: str) -> "Iterator[tuple[float, Packet]]":
        """Packets of the other video's sound, with the times at which they are heard. Its streams are added first."""
        url = spec if is_address(spec) else f"file:{spec}"
        with self._av.open(url, timeout=30.0, metadata_errors="ignore") as source:
            sound = source.streams.best("audio")
            if sound is None or sound.codec_context is None:
                return
            if sound.codec_context.name in _CARRIED_OVER:
                out, packets = self._container.add_stream_from_template(sound), source.demux(sound)
            else:
                rate, rates = sound.codec_context.sample_rate, self._av.Codec("aac", "w").audio_rates
                out = self._container.add_stream("aac", rate=rate if rate in rates else 48_000)
                packets = _encoded(self._av, source.demux(sound), out)
            start_s, last_s, step_s, last_dts = (source.start_time or 0) / 1e6, -1.0, 0.0, None
            try:
                for packet in packets:
                    if packet.pts is None or packet.dts is None:
                        continue
                    heard_s = float(packet.dts * packet.time_base) - start_s
                    if last_dts is not None and last_s - heard_s > 1.0:
                        # As where recordings were put one after the other.
                        start_s -= last_s + step_s - heard_s
                        heard_s = last_s + step_s
                    shift = round((start_s + self._begin_s) / packet.time_base)
                    if heard_s < -_PRIMING_S or (last_dts is not None and packet.dts - shift <= last_dts):
                        continue  # cut away, as by trimming without encoding again; or heard already
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    last_dts = packet.dts
                    last_s, step_s = heard_s, float((packet.duration or 0) * packet.time_base)
                    packet.stream = out
                    yield heard_s, packet
            except (self._av.error.FFmpegError, ValueError):
                return  # sound that breaks off ends there, as the images do

    def _not_written(self, error: Exception) -> FerkitError:
        number = getattr(error, "errno", None)
        strerror = getattr(error, "strerror", None) or str(error)
        return FerkitError(why_not_written(self.path, OSError(number, strerror)))

    def __exit__(self, *_: object) -> None:
        self.close()


def _encoded(av: Any, packets: "Iterator[Packet]", out: Any) -> "Iterator[Packet]":
    """AAC packets of sound; what is damaged in it is silent."""
    resampler = av.AudioResampler("fltp", out.codec_context.layout, out.codec_context.sample_rate)
    for packet in packets:
        with suppress(av.error.FFmpegError, ValueError):
            for frame in packet.decode():
                for resampled in resampler.resample(frame):
                    yield from out.encode(resampled)
    yield from out.encode(None)


HOLD_S = 0.5
"""Where a video is looked at seldom, a face without a next reading is shown for so long."""


def annotate_video(
    video: str | os.PathLike[str],
    table: Path,
    out: Path,
    overlay: Overlay,
    labels: LabelSet,
    *,
    every_s: float = 0.0,
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Write a copy of a video, with its sound; boxes move evenly from one look at the video to the next.

    Args:
        video: path or address.
        table: what was found in it.
        out: video file to make; complete or not there at all.
        overlay: draws.
        labels: the classes of the table.
        every_s: seconds between the frames that were looked at.
        on_frame: called with frames done, and how many the video says it has.

    Raises:
        DataError: the video or the table cannot be read.
        FerkitError: ``out`` cannot be written.
    """
    source = VideoSource(video)
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    readings = _Readings(frames_of(read_rows(table)), labels, max(HOLD_S, 1.5 * every_s))
    try:
        with (
            VideoWriter(partial, source.fps, sound_of=os.fspath(video)) as writer,
            progress("drawing", source.n_frames, unit="frames") as shown,
        ):
            for frame in source:
                result = readings.at(frame.timestamp_s)
                writer.write(overlay.draw(frame.rgb, result, Status()), frame.timestamp_s)
                shown.update(1)
                if on_frame is not None:
                    on_frame(frame.index + 1, source.n_frames)
        partial.replace(out)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


class _Readings:
    """Readings at any time, asked for in rising order; two are held at once."""

    def __init__(self, frames: Iterator[list[FaceRow]], labels: LabelSet, longest_s: float) -> None:
        self._frames, self._labels, self._longest_s = frames, labels, longest_s
        self._last: list[FaceRow] = []
        self._next: list[FaceRow] = next(frames, [])

    def at(self, time_s: float) -> FrameResult:
        # The table has milliseconds.
        while self._next and self._next[0].time_s <= time_s + 0.0006:
            self._last, self._next = self._next, next(self._frames, [])
        rows, moved = [], []
        following = {row.face: row for row in self._next}
        for row in self._last:
            later = following.get(row.face)
            if later is not None and later.time_s - row.time_s > self._longest_s:
                later = None  # out of sight in between
            if later is None and time_s - row.time_s > HOLD_S:
                continue
            share = 0.0 if later is None else (time_s - row.time_s) / max(later.time_s - row.time_s, 1e-6)
            here, there = np.array(row.xyxy), np.array((later or row).xyxy)
            rows.append(row)
            moved.append(here + np.clip(share, 0, 1) * (there - here))
        return self._result(rows, moved, time_s)

    def _result(self, rows: list[FaceRow], moved: list[np.ndarray], time_s: float) -> FrameResult:
        number = {name: i for i, name in enumerate(self._labels.names)} | {UNSURE_NAME: UNSURE}
        proba = np.array([row.proba for row in rows], np.float32).reshape(-1, len(self._labels))
        xyxy = np.array(moved, np.float32).reshape(-1, 4)
        found = np.array([row.found for row in rows], np.float32)
        faces = Faces(xyxy, found, None, np.array([row.face for row in rows], np.int64))
        quality = np.array([row.quality for row in rows], np.float32)
        label = np.array([number[row.label] for row in rows], np.int64)
        return FrameResult(time_s, faces, quality, proba, proba, label)


KEYS = frozenset("hlmsrq")

_HERE = Path(__file__).parent
_BOUNDARY = "frame"
_JPEG_QUALITY = 88
_FAREWELL_S = 2.0


class BrowserView:
    """Shows images to a browser on this machine and tells which keys are pressed there.

    The address holds a secret, and other names for this machine are refused: neither other users of it nor pages of
    other sites can look on.

    Args:
        port: to listen at on 127.0.0.1; 0 takes a free one.
        language: of the page, ``en`` or ``ko``.

    Attributes:
        url: what to open in a browser.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, port: int = 0, language: str = "en") -> None:
        self._secret = secrets.token_urlsafe(12)
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._news = threading.Condition()
        self._jpeg: bytes | None = None
        self._image: np.ndarray | None = None
        self._number = 0
        self._open = True
        self._watching = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_for(self, language))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{self._secret}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def show(self, rgb: np.ndarray) -> None:
        """Show an image, uint8 (H, W, 3)."""
        with self._news:
            if rgb is self._image:
                return
            self._image, self._jpeg = rgb, None
            self._number += 1
            self._news.notify_all()

    def key(self) -> str | None:
        """The next key that was pressed in the page; None if none was."""
        try:
            return self._keys.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the page's images, and stop listening."""
        with self._news:
            if not self._open:
                return
            self._open = False
            self._news.notify_all()
            # The page learns from the end of its images that it is over, so they are let out first.
            self._news.wait_for(lambda: self._watching == 0, timeout=_FAREWELL_S)
        self._server.shutdown()
        self._server.server_close()

    def press(self, key: str) -> None:
        """Take a key as if it had been pressed in the page; others than those of the live view count for nothing."""
        if key in KEYS:
            self._keys.put(key)

    def next_jpeg(self, seen: int) -> tuple[int, bytes] | None:
        """The newest image after number ``seen``, waiting for it; None when the view is closed.

        Images are encoded here, so only those that somebody sees, and once for all who look on.
        """
        with self._news:
            self._news.wait_for(lambda: self._number > seen or not self._open)
            if not self._open:
                return None
            if self._jpeg is None:
                assert self._image is not None
                bgr = cv2.cvtColor(self._image, cv2.COLOR_RGB2BGR)
                self._jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
            return self._number, self._jpeg

    def watch(self, more: int) -> None:
        """Count somebody who looks on, 1, or who has left, -1."""
        with self._news:
            self._watching += more
            self._news.notify_all()

    def knows(self, path: str) -> str | None:
        """What is asked for below the secret; None if the secret is wrong."""
        _, secret, *rest = path.split("/", 2) if path.count("/") > 1 else ("", "", "")
        right = secrets.compare_digest(secret.encode(), self._secret.encode())
        return "".join(rest) if right else None

    @property
    def hosts(self) -> tuple[str, str]:
        """The names that a browser may know this view by."""
        return tuple(f"{name}:{self._server.server_port}" for name in ("127.0.0.1", "localhost"))  # type: ignore[return-value]


def _handler_for(view: BrowserView, language: str) -> type[BaseHTTPRequestHandler]:
    words, page = Translations(language, "live"), (_HERE / "live.html").read_text(encoding="utf-8")
    helps = (words(f"help.{name}").split(maxsplit=1) for name in text_table()["live"]["help"])
    buttons = (
        f'<button data-key="{key}"><kbd>{key}</kbd>{what}</button>' for key, what in helps if key in KEYS
    )
    for place, text in ("LANGUAGE", language), ("BUTTONS", "".join(buttons)), ("OVER", words("word.over")):
        page = page.replace(place, text)
    script = (_HERE / "live.js").read_text(encoding="utf-8")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        kinds: ClassVar = {"": ("text/html", page), "live.js": ("text/javascript", script)}

        def do_GET(self) -> None:
            what = self._asked()
            if what == "pictures":
                self._images()
            elif what in self.kinds:
                kind, text = self.kinds[what]
                self._answer(HTTPStatus.OK, f"{kind}; charset=utf-8", text.encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND)

        def do_POST(self) -> None:
            if self._asked() != "key":
                self._answer(HTTPStatus.NOT_FOUND)
                return
            view.press(parse_qs(urlsplit(self.path).query).get("key", [""])[0])
            self._answer(HTTPStatus.NO_CONTENT)

        def _asked(self) -> str | None:
            known = self.headers.get("Host") in view.hosts
            return view.knows(urlsplit(self.path).path) if known else None

        def _answer(self, status: HTTPStatus, kind: str = "text/plain", body: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", "default-src 'self'; style-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(body)

        def _images(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            view.watch(1)
            try:
                seen = 0
                while (image := view.next_jpeg(seen)) is not None:
                    seen, jpeg = image
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                self.wfile.write(f"--{_BOUNDARY}--\r\n".encode())
            except OSError:
                pass  # who looked on has left
            finally:
                view.watch(-1)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass  # the terminal belongs to the live view

    return Handler
