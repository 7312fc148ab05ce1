"""What one stream reads: an engine of its own, fed with the newest frame."""

import json
import math
import struct
import time
from dataclasses import dataclass
from typing import Any

from ferkit.core.errors import DataError
from ferkit.faces.tracking import FaceTracker, TrackerSettings
from ferkit.inference.engine import Engine, EngineSettings, FrameResult
from ferkit.inference.film import UNSURE_NAME
from ferkit.inference.neutral import NeutralCalibration
from ferkit.inference.pace import LivePace
from ferkit.inference.smoothing import UNSURE, LabelSmoother, SmoothingSettings
from ferkit.serving.errors import Refused
from ferkit.serving.pictures import picture_kind, read_picture
from ferkit.serving.shelf import ModelChoice, OpenModel, OpenModels

HEADER = struct.Struct("<Id")
"""Before each picture: the frame's number, and when it was taken, in milliseconds of the client's clock."""

KINDS = ("JPEG", "WEBP", "PNG")

LONGEST_GAP_S = 10.0

KEEP_S = 3.0
"""A face keeps its number so long without being seen: a line may stall for a second or two."""


@dataclass(frozen=True)
class StreamFrame:
    """A frame as it came.

    Attributes:
        number: the client's.
        captured_ms: by the client's clock, finite.
        content: the picture's bytes.
        received_s: by this process's ``time.perf_counter``.
    """

    number: int
    captured_ms: float
    content: bytes
    received_s: float


def parse_frame(message: bytes, max_bytes: int) -> StreamFrame:
    """The frame in a binary message.

    Raises:
        Refused: it is none (400), of another kind (415), or too large (413).
    """
    if len(message) <= HEADER.size:
        raise Refused(
            400,
            "bad_frame",
            f"Expected {HEADER.size} bytes of header and a picture, found {len(message)} bytes.",
        )
    number, captured_ms = HEADER.unpack_from(message)
    if not math.isfinite(captured_ms):
        raise Refused(400, "bad_frame", "Expected a finite time of capture in the frame's header.")
    content = message[HEADER.size :]
    if len(content) > max_bytes:
        raise Refused(413, "large_frame", f"A frame has at most {max_bytes} bytes; send smaller ones.")
    if picture_kind(content) not in KINDS:
        raise Refused(415, "unknown_kind", "Expected JPEG, WebP or PNG after the frame's header.")
    return StreamFrame(number, captured_ms, content, time.perf_counter())


@dataclass(frozen=True)
class StreamSettings:
    """What a worker needs to read a stream, at any time anew.

    Attributes:
        id: under which the worker keeps what it knows of the stream.
        fps: that the client means to send, so that the work fits between two frames.
        max_pixels: of a frame.
        detect_size: the detector sees frames scaled down to this longer side, in pixels.
    """

    id: int
    fps: float
    max_pixels: int
    detect_size: int


class StreamReader:
    """Reads the frames of one client, in a worker.

    Args:
        model: whose classifier and detector it shares.
        settings: the stream's.
    """

    def __init__(self, model: OpenModel, settings: StreamSettings) -> None:
        start_confidence = 0.0 if model.faces.settings.detector == "haar" else 0.6  # not on others' scale
        self.engine = Engine(
            model.classifier,
            model.detector,
            LabelSmoother(SmoothingSettings(), len(model.labels)),
            EngineSettings(model.faces.settings, model.resize, settings.detect_size),
            FaceTracker(TrackerSettings(start_confidence=start_confidence, keep_s=KEEP_S)),
            LivePace(settings.fps),
        )
        self.model = model
        self._max_pixels = settings.max_pixels
        self._clock = _StreamClock()

    def read(self, frame: StreamFrame, n_dropped: int) -> tuple[str, int]:
        """The answer as JSON, and how many faces are in it.

        Raises:
            Refused: the picture cannot be read.
        """
        rgb = read_picture(frame.content, self._max_pixels)
        result = self.engine.process(rgb, self._clock.at(frame))
        neutral = self.engine.neutral
        answer = {
            "type": "result",
            "frame": frame.number,
            "captured_ms": frame.captured_ms,
            "age_ms": round((time.perf_counter() - frame.received_s) * 1000, 1),
            "dropped": n_dropped,
            "width": rgb.shape[1],
            "height": rgb.shape[0],
            "faces": _faces(result, self.model.labels.names),
            "neutral_left_s": 0.0 if neutral is None else round(neutral.seconds_left(result.timestamp_s), 2),
        }
        return json.dumps(answer, ensure_ascii=False, allow_nan=False), len(result)


def open_reader(models: OpenModels, choice: ModelChoice, settings: StreamSettings) -> StreamReader:
    """The stream's reader in this worker; a new one if it has none. Raises Refused."""
    if settings.id not in models.streams:
        models.streams[settings.id] = StreamReader(models.get(choice), settings)
    reader: StreamReader = models.streams[settings.id]
    return reader


def prepare_stream(models: OpenModels, choice: ModelChoice, settings: StreamSettings) -> None:
    """Open what the stream needs; in a worker. Raises Refused."""
    open_reader(models, choice, settings)


def read_frame(
    models: OpenModels, choice: ModelChoice, settings: StreamSettings, taken: tuple[StreamFrame, int]
) -> tuple[str, int]:
    """See :meth:`StreamReader.read`; in a worker. Raises Refused."""
    return open_reader(models, choice, settings).read(*taken)


def calibrate_stream(
    models: OpenModels, choice: ModelChoice, settings: StreamSettings, seconds: float
) -> None:
    """Learn from resting faces for so long from now on; in a worker.

    Raises:
        Refused: the model has no neutral class.
    """
    reader = open_reader(models, choice, settings)
    try:
        reader.engine.neutral = NeutralCalibration(reader.model.labels, seconds)
    except DataError as error:
        raise Refused(422, "no_neutral", f"{error}.") from None


def reset_stream(models: OpenModels, choice: ModelChoice, settings: StreamSettings) -> None:
    """Forget everybody; in a worker. Raises Refused."""
    open_reader(models, choice, settings).engine.reset()


class _StreamClock:
    """Seconds that never run backwards, from the client's clock as far as it can be believed."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._last: StreamFrame | None = None

    def at(self, frame: StreamFrame) -> float:
        if self._last is not None:
            gap_s = (frame.captured_ms - self._last.captured_ms) / 1000
            if not 0 < gap_s < LONGEST_GAP_S:
                gap_s = frame.received_s - self._last.received_s
            self._now_s += max(0.0, gap_s)
        self._last = frame
        return self._now_s


def _faces(result: FrameResult, names: tuple[str, ...]) -> list[dict[str, Any]]:
    ids = result.faces.track_id
    faces = []
    for i in range(len(result)):
        shown = int(result.label[i])
        proba = result.proba[i]
        faces.append(
            {
                "id": 0 if ids is None else int(ids[i]),
                "box": [round(float(v), 1) for v in result.faces.xyxy[i]],
                "confidence": round(float(proba.max() if shown == UNSURE else proba[shown]), 4),
                "quality": round(float(result.quality[i]), 3),
                "label": UNSURE_NAME if shown == UNSURE else names[shown],
                "probabilities": [round(float(p), 4) for p in proba],
                "raw": [round(float(p), 4) for p in result.raw[i]],
            }
        )
    return faces
