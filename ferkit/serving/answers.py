"""What the API answers, for its description."""

from pydantic import BaseModel, Field


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


class Picture(BaseModel):
    """The faces of one picture, the largest first."""

    name: str
    width: int | None
    height: int | None
    faces: list[Face]
    error: str | None


class Prediction(BaseModel):
    """Pictures in the order in which they came."""

    model: str
    labels: list[str]
    images: list[Picture]


class JobState(BaseModel):
    """A film on its way."""

    id: str
    status: str = Field(pattern="^(queued|running|done|failed|cancelled)$")
    progress: float = Field(ge=0, le=1)
    reason: str | None
    links: dict[str, str]
