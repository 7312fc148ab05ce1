"""What expressions may be read for, and what whoever runs the server may choose, by option or environment."""

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferkit.core.errors import DataError


@dataclass(frozen=True)
class Purpose:
    """What expressions are read for.

    Attributes:
        id: as requests name it.
        en, ko: as people call it.
        prohibited: refused unless whoever runs the server allows it.
    """

    id: str
    en: str
    ko: str
    prohibited: bool = False


PURPOSES = (
    Purpose("research", "Research and coursework", "연구·학습 과제"),
    Purpose("personal", "Personal use", "개인적 사용"),
    Purpose("art", "Art and play", "예술과 놀이"),
    Purpose("accessibility", "Accessibility", "접근성 지원"),
    Purpose("medical", "Medical reasons", "의료 목적"),
    Purpose("safety", "Safety reasons", "안전 목적"),
    Purpose("other", "Something else", "기타"),
    Purpose("hiring", "Hiring (judging applicants)", "채용 심사", prohibited=True),
    Purpose("workplace", "Workplace (of employees)", "직장(직원 대상)", prohibited=True),
    Purpose("education", "Education (of students)", "교육 기관(학생 대상 감정 추론)", prohibited=True),
)


BY_ID = {purpose.id: purpose for purpose in PURPOSES}


PREFIX = "FER_SERVE_"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """How much the server takes on.

    Attributes:
        max_bytes: of a request with images.
        max_pictures: in one request.
        max_pixels: of an image, read from its header before it is decoded.
        max_frame_bytes, max_frame_pixels: of one frame of a stream.
        max_fps: frames a second of a stream; more are refused.
        max_film_bytes, max_film_pixels, max_duration_s: of a video: its file, one of its frames, its length.
        max_jobs: videos that wait or are read at a time.
        job_ttl_s: results of a video are removed so long after it was read.
        max_results_bytes: of the results of all videos together; the oldest go first.
        max_streams: at a time; half of them at most for one client.
        max_connections: at a time.
        max_waiting: requests with images at a time.
        rate: requests a second of one client, over a while; 0 for no limit.
        body_timeout_s: a request must send something so often, and be complete after ten times as long plus a
            second for each 100 kB.
        idle_s: a stream without frames is closed after so long.
        max_teach_sessions: in which classes are taught at a time; half of them at most for one client.
        max_examples, max_example_bytes: of one such session.
        max_taught: models that visitors may save.
        teach_ttl_s: a session that nobody uses is forgotten after so long.
    """

    max_bytes: int = 10 * MB
    max_pictures: int = 16
    max_pixels: int = 25_000_000
    max_frame_bytes: int = 2 * MB
    max_frame_pixels: int = 4_000_000
    max_fps: float = 60.0
    max_film_bytes: int = 500 * MB
    max_film_pixels: int = 9_000_000
    max_duration_s: float = 1800.0
    max_jobs: int = 8
    job_ttl_s: float = 3600.0
    max_results_bytes: int = 5_000 * MB
    max_streams: int = 32
    max_connections: int = 256
    max_waiting: int = 32
    rate: float = 20.0
    body_timeout_s: float = 10.0
    idle_s: float = 60.0
    max_teach_sessions: int = 8
    max_examples: int = 5_000
    max_example_bytes: int = 100 * MB
    max_taught: int = 100
    teach_ttl_s: float = 1800.0


@dataclass(frozen=True)
class ServeSettings:
    """How the server runs.

    Attributes:
        host, port: where it listens.
        token: what clients must show; None only on loopback.
        purpose: what holds for requests that declare none.
        allow_purpose: purposes allowed although the law of the European Union prohibits them there.
        allowed_host: names under which the server may be called, besides its own.
        allowed_origin: pages (``https://name``) that may use it, besides its own.
        trusted_proxy: addresses of proxies whose X-Forwarded-For and -Proto hold.
        model: the default one: name or folder; None for the one that comes with ferkit.
        models_dir: those that may be chosen.
        detector: finds faces; ``auto`` does as in the model's training, ``none`` takes images whole.
        detector_weights: a file for it to take.
        detect_size: the detector sees frames of streams and videos scaled down to this longer side, in pixels.
        processes: workers that read images and frames; None for one a core, eight at most.
        root_path: the prefix under which a proxy offers the server, such as ``/faces``.
        log_dir: one file a day goes there.
        limits: how much it takes on.

    Raises:
        DataError: a value out of range, or an address that others can reach without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    purpose: str | None = None
    allow_purpose: tuple[str, ...] = ()
    allowed_host: tuple[str, ...] = ()
    allowed_origin: tuple[str, ...] = ()
    trusted_proxy: tuple[str, ...] = ()
    model: str | None = None
    models_dir: Path = Path("models")
    detector: str = "auto"
    detector_weights: Path | None = None
    detect_size: int = 480
    processes: int | None = None
    root_path: str = ""
    log_dir: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in (self.purpose, *self.allow_purpose):
            if name is not None and name not in BY_ID:
                raise DataError(f"expected a purpose out of {', '.join(BY_ID)}, found {name!r}")
        if self.purpose and BY_ID[self.purpose].prohibited and self.purpose not in self.allow_purpose:
            raise DataError(f"the purpose {self.purpose} is refused; see --allow-purpose")
        if self.token is not None and len(self.token) < 16:
            raise DataError(
                "expected a token of at least 16 characters; make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )
        if self.token is None and (reason := self._reachable):
            raise DataError(
                f"{reason}, so a token is needed: set {PREFIX}TOKEN in the environment or in .env, such as one from "
                "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )
        if self.root_path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", self.root_path):
            raise DataError(f"expected a prefix such as /faces as root_path, found {self.root_path!r}")
        for limit in dataclasses.fields(Limits):
            if not getattr(self.limits, limit.name) >= (0 if limit.name == "rate" else 1e-9):
                raise DataError(f"expected {limit.name} above 0, found {getattr(self.limits, limit.name)}")

    @property
    def _reachable(self) -> str | None:
        """Why others than this machine's users may reach the server; None if they cannot."""
        if not is_loopback(self.host):
            return f"{self.host} can be reached from other machines"
        outside = [name for name in self.allowed_host if not is_loopback(name)]
        if outside:
            return f"the server is called {outside[0]} by others"
        return "behind a proxy others can reach the server" if self.trusted_proxy else None

    @staticmethod
    def from_environment(environ: Mapping[str, str] = os.environ) -> "ServeSettings":
        """Settings out of ``FER_SERVE_<NAME>``.

        Raises:
            DataError: a value that cannot be read.
        """
        return settings_from({
            name: _parse(name, text)
            for name in option_names()
            if (text := environ.get(PREFIX + name.upper(), "").strip())
        })  # fmt: skip


def settings_from(values: Mapping[str, Any]) -> ServeSettings:
    """Settings from a flat table, in which limits stand next to the others.

    Raises:
        DataError: see :class:`ServeSettings`.
    """
    limits = {f.name for f in dataclasses.fields(Limits)}
    return ServeSettings(
        **{name: value for name, value in values.items() if name not in limits},
        limits=Limits(**{name: value for name, value in values.items() if name in limits}),
    )


def option_names() -> list[str]:
    """All names, limits included."""
    own = [f.name for f in dataclasses.fields(ServeSettings) if f.name != "limits"]
    return own + [f.name for f in dataclasses.fields(Limits)]


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    host = host.strip("[]").lower()
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(name: str, text: str) -> Any:
    kind = {f.name: f.type for c in (ServeSettings, Limits) for f in dataclasses.fields(c)}[name]
    try:
        if kind in (int, int | None):
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        raise DataError(f"expected a number in {PREFIX}{name.upper()}, found {text!r}") from None
    if kind in (Path, Path | None):
        return Path(text)
    return tuple(text.split()) if kind == tuple[str, ...] else text
