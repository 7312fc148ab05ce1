"""What the API takes and answers: images within limits, schemas and problems."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from ferkit.core.errors import ImageError
from ferkit.core.labels import LabelSet
from ferkit.datasets.images import HEAD_BYTES, decode_image, kind_of
from ferkit.faces.drawing import label_colors
from ferkit.serving.settings import BY_ID


class ApiError(Exception):
    """A request that is not served.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: one or two sentences for people: what was expected, and the remedy.
        retry_after_s: when to try again, if that may help.
    """

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s

    @property
    def close_code(self) -> int:
        """The code with which a WebSocket is closed: 4000 more than the status."""
        return 4000 + self.status

    @property
    def headers(self) -> dict[str, str]:
        """What belongs into the head of the answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, str]:
        """The answer."""
        return {"code": self.code, "message": self.message}


def internal_error(incident: str) -> ApiError:
    """What a client is told when the server itself failed."""
    return ApiError(
        500, "fault", f"A fault of the server; whoever runs it finds it in the log under {incident}."
    )


REASON_EN = (
    "Inferring emotions of people at work, of applicants, or in schools is prohibited in the European Union "
    "(AI Act, Regulation (EU) 2024/1689, Article 5(1)(f)), except for medical or safety reasons."
)
REASON_KO = (
    "유럽연합(EU)에서는 직장(채용 포함)과 교육 기관에서 감정을 추론하는 것이 의료·안전 목적을 제외하고 금지됩니다"
    "(EU AI법, 규정 (EU) 2024/1689, 제5조 제1항 (f)호)."
)


def check_purpose(given: str | None, default: str | None, allowed: frozenset[str]) -> str:
    """The purpose that a request is made for.

    Args:
        given: what the request declares, None for nothing.
        default: what holds where nothing is declared.
        allowed: prohibited purposes that whoever runs the server allows.

    Raises:
        ApiError: nothing is declared (400), it is unknown (400), or prohibited (403).
    """
    name = given or default
    if name is None:
        raise ApiError(
            400,
            "no_purpose",
            "Say what the expressions are read for: add ?purpose=… or the header X-Ferkit-Purpose, out of "
            f"{', '.join(BY_ID)}.",
        )
    purpose = BY_ID.get(name)
    if purpose is None:
        raise ApiError(400, "unknown_purpose", f"Expected a purpose out of {', '.join(BY_ID)}.")
    if purpose.prohibited and purpose.id not in allowed:
        raise ApiError(403, "prohibited_purpose", REASON_EN)
    return purpose.id


class Problem(BaseModel):
    """Why a request was not served."""

    code: str = Field(description="One word for programs.")
    message: str = Field(description="What was expected, and the remedy.")


class Label(BaseModel):
    """A class, with its names for people."""

    name: str
    en: str
    ko: str
    color: str = Field(pattern="^#[0-9a-f]{6}$")


class Model(BaseModel):
    """A model that may be asked for."""

    name: str
    kind: str
    labels: list[Label]
    size_mb: float
    licence: str
    broken: str | None = Field(None, description="Why it cannot be used; such a model has no labels.")


class Models(BaseModel):
    """All models."""

    default: str
    models: list[Model]


class PurposeEntry(BaseModel):
    """A purpose, and why it is refused."""

    id: str
    en: str
    ko: str
    allowed: bool
    reason_en: str | None
    reason_ko: str | None


class Info(BaseModel):
    """What to know before asking; limits as the options of the server are called."""

    version: str
    purposes: list[PurposeEntry]
    limits: dict[str, int | float]
    token_required: bool
    default_purpose: str | None


class Face(BaseModel):
    """A face, and what it shows."""

    box: list[float] = Field(description="left, top, right, bottom in pixels", min_length=4, max_length=4)
    confidence: float = Field(description="probability of the label")
    quality: float = Field(description="0 cannot be read .. 1 nothing is wrong")
    label: str
    probabilities: dict[str, float]


class ImageResult(BaseModel):
    """The faces of one image, the largest first."""

    name: str
    width: int | None
    height: int | None
    faces: list[Face]
    error: str | None


class Prediction(BaseModel):
    """Images in the order in which they came."""

    model: str
    labels: list[str]
    images: list[ImageResult]


class JobState(BaseModel):
    """A video on its way."""

    id: str
    status: str = Field(pattern="^(queued|running|done|failed|cancelled)$")
    progress: float = Field(ge=0, le=1)
    reason: str | None
    links: dict[str, str]


def describe_labels(labels: LabelSet) -> list[dict[str, str]]:
    """The classes with their names for people and their colours."""
    return [
        {"name": name, "en": en, "ko": ko, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for name, en, ko, color in zip(
            labels.names, labels.display("en"), labels.display("ko"), label_colors(labels), strict=True
        )
    ]


KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

MAX_SCANS = 100
"""A progressive JPEG repeats the work on all its pixels with each scan; encoders write about ten."""


def image_kind(content: bytes) -> str | None:
    """What the first bytes say that it is; None for anything that is not taken."""
    kind = kind_of(content[:HEAD_BYTES])
    return kind if kind in KINDS else None


def read_image(content: bytes, max_pixels: int) -> np.ndarray:
    """Decode an image, uint8 RGB (H, W, 3).

    Raises:
        ApiError: no image of a known kind (415), too many pixels (413), or damaged (422).
    """
    kind = image_kind(content)
    if kind is None:
        raise ApiError(415, "unknown_kind", "Expected a JPEG, PNG, WebP, GIF or BMP image.")
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise ApiError(413, "too_many_pixels", _too_many(max_pixels)) from None
    except Exception:  # Pillow's readers raise anything a damaged file leads them into
        raise ApiError(422, "damaged", "The image is damaged: its header cannot be read.") from None
    if width * height > max_pixels:
        raise ApiError(413, "too_many_pixels", f"{width}x{height} pixels: {_too_many(max_pixels)}")
    if kind == "JPEG" and content.count(b"\xff\xda") > MAX_SCANS:
        raise ApiError(422, "damaged", "The image is damaged: a JPEG of more than a hundred scans.")
    try:
        return decode_image(content)
    except ImageError as error:
        raise ApiError(422, "damaged", f"The image cannot be read: {error}.") from None


def _too_many(max_pixels: int) -> str:
    return f"at most {max_pixels / 1e6:.3g} million pixels are taken; send a smaller image."


def describe_face(names: Sequence[str], box: np.ndarray, quality: float, proba: np.ndarray) -> dict[str, Any]:
    """A face as the API says it."""
    best = int(proba.argmax())
    return {
        "box": [round(float(value), 1) for value in box],
        "confidence": round(float(proba[best]), 4),
        "quality": round(float(quality), 3),
        "label": names[best],
        "probabilities": {name: round(float(p), 4) for name, p in zip(names, proba, strict=True)},
    }
