"""Open what frames come from: cameras, addresses, videos and images.

Frames are upright, have square pixels, and carry the time at which a player shows them.
"""

import contextlib
import functools
import os
import queue
import stat
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ferkit.core.errors import DataError, DependencyError, mask_credentials
from ferkit.core.files import is_address
from ferkit.inference.endings import is_cut_off

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream


_AHEAD = 4
"""Frames that are decoded ahead of those that are worked on."""

_LONGEST_GROUP = 600
"""Packets from one frame that stands by itself to the next that are held in memory."""

_TIMEOUT_S = 10.0
"""How long the address of a video may take to answer."""

_STEP_S = 0.001
"""Frames with the same or a slightly earlier time than the one before are shown so much after it."""

_PLAIN = ("mpegts", "mpeg", "hls", "rtsp", "flv", "h264", "hevc", "mpegvideo", "m4v")
"""Containers that say nothing about pixels and ends; the video in them does."""

_NO_TIMES = 0x80
"""FFmpeg's mark of containers without times (AVFMT_NOTIMESTAMPS)."""

_PQ, _HLG = 16, 18
_PAPER_WHITE = 203.0
"""Candela per square metre that HDR videos give to white paper (ITU-R BT.2408)."""


@dataclass(frozen=True)
class Frame:
    """One image of a stream.

    Attributes:
        index: its number in the video, from 0; for live sources the number of frames given so far.
        timestamp_s: when a player shows it; rising. For cameras the time since the beginning.
        rgb: uint8 (H, W, 3).
        cut: it does not go on from the frame before, as after a new connection, so nobody can be followed over it.
    """

    index: int
    timestamp_s: float
    rgb: np.ndarray
    cut: bool = False


class VideoSource:
    """Every frame of a video file or address, or one every ``every_s``, in order.

    What no frame asked for needs is not decoded.

    Args:
        spec: path of a file, or an address.
        every_s: seconds between frames; 0 gives all.
        start_index: the first frame to give, as its number in the video.

    Attributes:
        name: for messages, without credentials.
        n_frames: how many there are, if the container says so or by its length; 0 if it says neither.
        fps: frames a second, on average.
        duration_s: its length; 0 if the container does not say.
        size_wh: of the frames in pixels, after rotation and with square pixels.
        remarks: what was done to its frames that a user should know.
        broken_at_s: after a whole iteration, where the video could no longer be read, if that was before its end.
        n_damaged: after it, how many parts were damaged: frames there are missing, or distorted.

    Raises:
        DataError: there is no such video, or nothing in it that can be shown.
        DependencyError: PyAV is not installed.
    """

    def __init__(self, spec: str | os.PathLike[str], every_s: float = 0.0, start_index: int = 0) -> None:
        self._spec, self._every_s, self._start_index = os.fspath(spec), every_s, start_index
        self.name = source_name(self._spec)
        with OpenVideo(self._spec, _TIMEOUT_S) as video:
            self.size_wh, self.remarks = video.look_at_first()
            self.n_frames, self.fps, self.duration_s = video.n_frames, video.fps, video.duration_s
        self.broken_at_s: float | None = None
        self.n_damaged = 0
        self._stop = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        frames: queue.Queue[Frame | BaseException | None] = queue.Queue(_AHEAD)
        thread = threading.Thread(target=self._read_into, args=(frames,), name="video", daemon=True)
        thread.start()
        try:
            while (item := frames.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()
            while thread.is_alive():  # it may wait for room
                with contextlib.suppress(queue.Empty):
                    frames.get_nowait()
                thread.join(0.05)

    def close(self) -> None:
        """Stop reading; the iteration ends."""
        self._stop.set()

    def _read_into(self, frames: "queue.Queue[Frame | BaseException | None]") -> None:
        try:
            with OpenVideo(self._spec, _TIMEOUT_S) as video:
                for index, timestamp_s, cut, frame in video.frames(_Grid(self._every_s), self._start_index):
                    frames.put(Frame(index, timestamp_s, video.to_rgb(frame), cut))
                    if self._stop.is_set():
                        break
                else:
                    self.broken_at_s = video.clock.last_s if video.is_broken() else None
                    self.n_damaged = video.n_damaged
            frames.put(None)
        except BaseException as error:  # whoever iterates gets it
            frames.put(error)


class _Grid:
    """Says which frames are wanted, so that a video of any frame rate is looked at as often as was asked for."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._next_s = every_s, 0.0

    def wants(self, timestamp_s: float) -> bool:
        if not self._every_s:
            return True
        if timestamp_s < self._next_s - 1e-6:
            return False
        # Kept on the grid: one late frame does not make all that follow late.
        self._next_s += self._every_s * max(1, int((timestamp_s - self._next_s) / self._every_s + 1))
        return True


class _Clock:
    """Times of frames as a player shows them: since the container's start, and always rising."""

    def __init__(self, start_s: float | None, frame_s: float) -> None:
        self._start_s, self._frame_s = start_s, frame_s
        self.last_s = -1.0

    def time_s(self, stamp_s: float | None) -> tuple[float, bool]:
        """The time of the next frame, and whether the stamps began again before it."""
        last_s = self.last_s
        after_s = last_s + self._frame_s if last_s >= 0 else 0.0
        if self._start_s is None and stamp_s is not None:  # not said: the first frame is the start
            self._start_s = stamp_s - after_s
        time_s = after_s if stamp_s is None or self._start_s is None else stamp_s - self._start_s
        cut = last_s - time_s > 1.0
        if cut:  # as where recordings were put one after the other: the second goes on after the first
            self._start_s -= after_s - time_s  # type: ignore[operator]
            time_s = after_s
        self.last_s = max(time_s, last_s + _STEP_S, 0.0)
        return self.last_s, cut


class OpenVideo(contextlib.AbstractContextManager["OpenVideo"]):
    """An open video file or address.

    Args:
        spec: path or address.
        timeout_s: how long an address may take to answer, and to send on.
        live: frames are wanted as soon as they are there.

    Attributes:
        fps: frames a second on average; 25 if the stream does not say.
        n_frames, duration_s: see :class:`VideoSource`.
        clock: gives frames their times.
        n_damaged: packets and frames so far in which the decoder found damage.
        is_finite: whether it has an end, other than a broadcast.

    Raises:
        DataError: it cannot be opened, or holds no video.
        DependencyError: PyAV is not installed.
    """

    def __init__(self, spec: str, timeout_s: float, live: bool = False) -> None:
        self._spec, self._name = spec, source_name(spec)
        self._container = self._open(spec, timeout_s)
        try:
            self._stream = self._choose_stream()
        except BaseException:
            self._container.close()
            raise
        stream, container = self._stream, self._container
        self._decoder = stream.codec_context
        # FFmpeg's several decoders of one animated PNG do not all know its head after a jump.
        self._decoder.thread_type = "SLICE" if live or self._decoder.name == "apng" else "AUTO"
        with contextlib.suppress(load_av().error.FFmpegError, ValueError):  # decoding will say so
            self._decoder.open(strict=False)  # before it is told to skip: dav1d would do so ever after
        # Raw streams have no times, and only the video in them may know its rate; the container says 25.
        self._is_raw = bool(container.format.flags & _NO_TIMES)
        rate = (None if self._is_raw else stream.average_rate) or stream.guessed_rate
        self.fps = float(rate) if rate and 0 < rate < 1000 else 25.0
        self.duration_s = max(0.0, (container.duration or 0) / 1e6)
        # AVI files do not say when frames are shown, only when they are decoded; their number counts gaps too.
        self._in_decoding_order: deque[int | None] | None = (
            deque() if container.format.name == "avi" else None
        )
        counted = stream.frames if self._in_decoding_order is None else len(stream.index_entries)
        length_s = float(stream.duration * stream.time_base) if stream.duration else self.duration_s  # type: ignore[operator]
        self.n_frames = counted if counted > 1 else round(length_s * self.fps)
        self.is_finite = not is_address(spec) or container.duration is not None or container.size > 0
        self.clock = _Clock(container.start_time and container.start_time / 1e6, 1 / self.fps)
        self._is_plain = container.format.name in _PLAIN
        self._aspect = stream.sample_aspect_ratio
        self._broke_off = self._last_is_bad = False
        self.n_damaged = 0
        self._last_pts: int | None = None
        self._bad_pts = -1 << 63  # of no frame

    def _open(self, spec: str, timeout_s: float) -> "InputContainer":
        av = load_av()
        if is_address(spec):
            options = {"rtsp_transport": "tcp"}
            try:
                return av.open(spec, timeout=timeout_s, options=options, metadata_errors="ignore")
            except (av.error.FFmpegError, OSError, ValueError) as error:
                reason = f" within {timeout_s:.0f} s" if isinstance(error, av.error.ExitError) else ""
                raise DataError(
                    f"no video from {self._name}{reason} ({mask_credentials(_reason(error))}); check the address, "
                    "the network, and any password"
                ) from None
        check_is_file(spec)
        try:
            with open(spec, "rb") as file:
                if not file.read(1):
                    raise DataError(f"the video {spec} is empty; copy or download it again")
        except OSError as error:
            raise DataError(
                f"the video {spec} cannot be opened: {error.strerror}; check its rights"
            ) from None
        # Without seeking what comes before a damaged part of a fragmented MP4 can be read.
        for options in ({}, {"seekable": "0"}):
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                # With "file:" before it a colon in the name is a colon.
                return av.open(f"file:{spec}", metadata_errors="ignore", options=options)
        raise DataError(self._unreadable())

    def _unreadable(self) -> str:
        if is_address(self._spec):
            return (
                f"the video at {self._name} cannot be read: it is damaged or of an unknown format, or its index lies "
                "at its end and the server sends no parts of files; download it, and give the file"
            )
        return (
            f"{self._spec} is not a video that can be read: it is damaged, cut off, or of an unknown format; copy or "
            "download it again, or convert it to MP4 with H.264"
        )

    def _choose_stream(self) -> "VideoStream":
        from av.stream import Disposition

        moving = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None
        ]
        if not moving:
            found = "only sound" if self._container.streams.audio else "none"
            raise DataError(
                f"expected a moving image in {self._name}, found {found}; name a file that holds a video"
            )
        best = self._container.streams.best("video")
        return best if best in moving else moving[0]

    def look_at_first(self) -> tuple[tuple[int, int], tuple[str, ...]]:
        """Width and height of the first frame as it is given, and remarks about how it is treated.

        Raises:
            DataError: no frame can be decoded.
        """
        _, frame = next(self.play(), (0.0, None))
        if frame is None:
            raise DataError(self._unreadable())
        remarks = []
        if self._is_raw:
            remarks.append(f"{self._name}: there are no times in it: taken as {self.fps:.4g} frames a second")
        if frame.color_trc in (_PQ, _HLG):
            remarks.append(
                f"{self._name}: HDR video: brightness and colours are brought into the usual range"
            )
        if frame.interlaced_frame:
            remarks.append(f"{self._name}: interlaced video: every second line is drawn from its neighbours")
        width, height = self._square_width(frame), frame.height
        a, b = _display_matrix(frame)[:2]
        return (height, width) if abs(b) > abs(a) else (width, height), tuple(remarks)

    def play(self) -> "Iterator[tuple[float, VideoFrame]]":
        """All frames that can be decoded, one after the other, with their times in seconds."""
        for packet in chain(self._packets(), (None,)):
            for frame in self._decode(packet):
                yield self._time(frame)[0], frame

    def _time(self, frame: "VideoFrame") -> tuple[float, bool]:
        """When a frame that comes out of the decoder is shown, see :meth:`_Clock.time_s`."""
        stamp, waiting = frame.pts, self._in_decoding_order
        if waiting is not None:
            stamp = waiting.popleft() if waiting else None
        return self.clock.time_s(self._seconds(stamp))

    def _seconds(self, stamp: int | None) -> float | None:
        return None if stamp is None else float(stamp * self._stream.time_base)  # type: ignore[operator]

    def frames(self, grid: _Grid, start_index: int) -> "Iterator[tuple[int, float, bool, VideoFrame]]":
        """The frames that ``grid`` wants, from number ``start_index`` on: (number, time, cut, frame)."""
        due: dict[int, tuple[int, float, bool]] = {}
        thrifty = in_step = True  # in step: the decoder has had everything up to here
        index, before, was_cut = 0, [], False

        def emerging(packet: "Packet | None") -> "Iterator[tuple[int, float, bool, VideoFrame]]":
            for frame in self._decode(packet):
                if frame.pts is not None and (found := due.pop(frame.pts, None)) is not None:
                    yield *found, frame
            if packet is None:
                self._decoder.flush_buffers()

        groups = self._groups()
        for group in groups:
            shown = [packet for packet in group if not packet.is_discard]
            stamps = sorted({packet.pts for packet in shown if packet.pts is not None})
            if self._in_decoding_order is not None or any(packet.pts is None for packet in shown):
                yield from self._counted(chain((group,), groups), index, grid, start_index)
                return
            wanted = False
            if group[0].is_keyframe and not due.keys().isdisjoint(stamps):  # stamps come again
                yield from emerging(None)
                due.clear()
            for stamp in stamps:
                timestamp_s, cut = self.clock.time_s(self._seconds(stamp))
                if cut:  # the same stamps come again, so those before must be out of the way
                    yield from emerging(None)
                    due.clear()
                    was_cut = True
                if grid.wants(timestamp_s) and index >= start_index:
                    due[stamp], wanted, was_cut = (index, timestamp_s, was_cut), True, False
                index += 1
            self._last_is_bad = False
            thrifty = thrifty and len(group) < _LONGEST_GROUP
            can_skip = thrifty and group[0].is_keyframe
            if can_skip and not wanted:
                if in_step:  # what the decoder still holds back
                    yield from emerging(None)
                in_step, before = False, group
                continue
            if not in_step and any(stamp < (group[0].pts or 0) for stamp in due):
                # Frames shown before the one that stands by itself need those before it.
                for packet in before:
                    self._decode(packet)
            last = max((i for i, packet in enumerate(group) if packet.pts in due), default=-1)
            end = last + 1 if can_skip else len(group)
            for packet in group[:end]:
                self._decoder.skip_frame = "NONREF" if can_skip and packet.pts not in due else "DEFAULT"
                yield from emerging(packet)
            in_step, before = end == len(group), group
            if not in_step:
                yield from emerging(None)
                thrifty, due = not due, {}  # a decoder that owes frames must see everything from here on
        yield from emerging(None)
        if self._is_plain and not in_step:
            # Whether the video has a proper end shows in its last frame only, to a decoder that has skipped nothing.
            used, self._decoder = self._decoder, load_av().CodecContext.create(self._decoder.name, "r")
            self._decoder.extradata = used.extradata
            for each in (*before, None):
                self._decode(each)

    def _counted(
        self, groups: "Iterator[list[Packet]]", index: int, grid: _Grid, start_index: int
    ) -> "Iterator[tuple[int, float, bool, VideoFrame]]":
        """As :meth:`frames`, for packets that do not say when their frames are shown: everything is decoded."""
        self._decoder.skip_frame = "DEFAULT"
        for packet in chain(chain.from_iterable(groups), (None,)):
            for frame in self._decode(packet):
                timestamp_s, cut = self._time(frame)
                if grid.wants(timestamp_s) and index >= start_index:
                    yield index, timestamp_s, cut, frame
                index += 1

    def _groups(self) -> "Iterator[list[Packet]]":
        """Packets from a frame that stands by itself up to the next such frame."""
        group: list[Packet] = []
        for packet in self._packets():
            if group and (packet.is_keyframe or len(group) >= _LONGEST_GROUP):
                yield group
                group = []
            group.append(packet)
        if group:
            yield group

    def _packets(self) -> "Iterator[Packet]":
        av = load_av()
        is_whole, n_packets = True, 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # the last one is empty
                    is_whole, self._last_pts = not packet.is_corrupt, packet.pts
                    n_packets += 1
                    yield packet
        except av.error.EOFError:
            pass
        except (av.error.FFmpegError, OSError):
            # An answer of unknown or wrong length has such an end, too.
            is_whole = is_address(self._spec) and (
                self._container.size <= 0 or 0 < self._stream.frames <= n_packets
            )
        self._broke_off = not is_whole

    def _decode(self, packet: "Packet | None") -> "list[VideoFrame]":
        """Frames that come out for a packet, or at the end for None. A few that are damaged are passed over."""
        av = load_av()
        if packet is not None and self._in_decoding_order is not None:
            self._in_decoding_order.append(packet.dts)
        try:
            frames = self._decoder.decode(packet)
        except av.error.EOFError:
            return []
        except (av.error.FFmpegError, OSError, ValueError):
            self._last_is_bad = True
            self.n_damaged += 1
            return []
        for frame in frames:
            self._last_is_bad = frame.is_corrupt
            self.n_damaged += frame.is_corrupt
            if frame.is_corrupt and frame.pts is not None:
                self._bad_pts = frame.pts
            if not self._is_plain:
                self._aspect = self._stream.sample_aspect_ratio
            elif frame.key_frame:
                self._aspect = self._decoder.sample_aspect_ratio
            frame.opaque = [self._aspect]  # PyAV loses what several frames share once one of them is gone
        return frames

    def is_broken(self) -> bool:
        """Whether what was read to its end had no proper end."""
        # The last frame of the file need not be the last that is shown.
        if self._broke_off or self._last_is_bad or self._bad_pts == self._last_pts:
            return True
        path = Path(self._spec)  # it may have been moved by now
        return not is_address(self._spec) and path.is_file() and is_cut_off(path)

    def to_rgb(self, frame: "VideoFrame") -> np.ndarray:
        """uint8 RGB (H, W, 3) of a frame: upright, square pixels, without the combs of interlacing."""
        width = self._square_width(frame)
        hdr = frame.color_trc in (_PQ, _HLG)
        matrix: Any = frame.colorspace
        if matrix == 2:  # not said: players go by the height
            matrix = "itu709" if frame.height > 576 else "itu601"
        fitted = frame.reformat(
            width=width,
            format="rgb48le" if hdr else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation="BICUBIC" if width != frame.width else None,
        )
        pixels = fitted.to_ndarray()
        rgb: np.ndarray = _tone_mapped(pixels, frame.color_trc) if hdr else pixels
        if frame.interlaced_frame and rgb.shape[0] > 1:
            rgb = cv2.resize(rgb[::2], (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR)
        return _upright(rgb, _display_matrix(frame))

    def _square_width(self, frame: "VideoFrame") -> int:
        """How wide a frame is with square pixels."""
        carried: Any = frame.opaque
        aspect = carried[0] or 1
        return round(frame.width * aspect) if 0.1 < aspect < 10 else frame.width

    def __exit__(self, *_: object) -> None:
        self._container.close()


def load_av() -> Any:
    """PyAV.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise DependencyError(
            "expected PyAV, which reads and writes videos, found none; pip install 'ferkit[video]'"
        ) from None
    return av


def check_is_file(spec: str) -> None:
    """Raise DataError unless ``spec`` is an address, or a file that is there."""
    path = Path(spec)
    if not is_address(spec) and not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing"
        raise DataError(f"expected a video file at {path}, found {found}; check the path")


def source_name(spec: str) -> str:
    """What to call a source in messages: a file by its name, an address without its credentials."""
    if is_address(spec):
        return mask_credentials(spec)
    return f"camera {spec}" if is_camera(spec) else Path(spec).name


def is_camera(spec: str) -> bool:
    """Whether ``spec`` is a camera of this machine: its number, or its device's path."""
    if spec.isdigit() or spec.startswith("/dev/"):
        return True
    try:
        return stat.S_ISCHR(os.stat(spec).st_mode)
    except (OSError, ValueError):
        return False


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _display_matrix(frame: "VideoFrame") -> np.ndarray:
    """int32 (5,): a, b, -, c, d, which show the pixel (x, y) at (ax + cy, bx + dy)."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV knows its turn, but not what else goes with the frame, such as EXIF
        turn = np.deg2rad(frame.rotation)
        return np.round([np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn)]).astype(np.int32)
    return np.array([1, 0, 0, 0, 1]) if found is None else np.frombuffer(found, np.int32, 5)


def _upright(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """An image turned by quarters and mirrored, as near as that comes to the display matrix."""
    a, b, _, c, d = matrix.tolist()
    if abs(b) > abs(a):
        rgb, a, d = rgb.swapaxes(0, 1), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@functools.cache
def _tone_tables(transfer: int) -> tuple[np.ndarray, np.ndarray]:
    """16-bit HDR signal to linear light in 0..1, what is brighter than paper pressed together; and that to 8 bits."""
    signal = np.linspace(0, 1, 1 << 16)
    if transfer == _PQ:
        power = signal ** (1 / 78.84375)
        nits = 1e4 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
            1 / 0.1593017578125
        )
    else:
        scene = np.where(
            signal < 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        nits = 1000 * scene**1.2
    light = nits / _PAPER_WHITE
    pressed = np.where(light < 0.6, light, 0.6 + 0.4 * (1 - np.exp((0.6 - light) / 0.4)))
    x = np.linspace(0, 1, 1 << 12) ** 2  # finer where it is dark
    shown = np.where(x < 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return pressed.astype(np.float32), np.round(255 * shown).astype(np.uint8)


_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def _tone_mapped(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """uint8 (H, W, 3) of the 16 bits of an HDR frame."""
    light, shown = _tone_tables(transfer)
    usual = np.clip(cv2.transform(light[rgb], _BT2020_TO_BT709), 0, 1)
    return shown[np.round(np.sqrt(usual) * (len(shown) - 1)).astype(np.uint16)]
