"""Sessions in which visitors teach classes of their own: examples in memory, heads fitted in workers of their own."""

import asyncio
import base64
import functools
import secrets
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.classifiers.model import inspect_model
from ferkit.core.errors import DataError, FerkitError, ModelError
from ferkit.core.labels import LabelSet
from ferkit.core.weights import DEFAULT_EDITION
from ferkit.embedder.embedders import Embedder, open_embedder
from ferkit.faces.cropping import Cropping
from ferkit.serving.api import ApiError
from ferkit.serving.predict import (
    ModelCatalog,
    ModelChoice,
    OpenModel,
    OpenModels,
    WorkerFaultError,
    Workers,
    read_image,
)
from ferkit.serving.settings import ServeSettings, is_loopback
from ferkit.teaching.examples import Examples, TeachLimits
from ferkit.teaching.head import LinearHead, TeachReport, fit_linear, usual_penalty, validate
from ferkit.teaching.teacher import (
    EXAMPLES,
    check_model_name,
    in_order,
    load_examples,
    save_taught,
    zip_taught,
)

_NOBODY = ModelChoice("teach", Path(), LabelSet(("teach",)), "teach")
"""Named where a worker needs no model."""

MAX_TAKE = 80
"""Characters of a take's name."""


@functools.cache
def backbone() -> Embedder:
    """The network whose embeddings are taught on; one a process."""
    return open_embedder(DEFAULT_EDITION, threads=1)


class TaughtClassifier:
    """Crops to probabilities by a head that may change at any time; keeps what it saw last.

    Args:
        labels: the session's classes.
    """

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        self.head: LinearHead | None = None
        width, height = backbone().input_size_wh
        self.input_size_wh = (2 * width, 2 * height)  # so that the images that are kept can be looked at
        self.resize = backbone().resize
        self.crops, self.X = self._nothing()

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        """float32 (n, k); the same for all classes while there is no head."""
        self.crops, self.X = crops, backbone().embed(crops)
        if self.head is None:
            return np.full((len(crops), len(self.labels)), 1 / len(self.labels), np.float32)
        return in_order(self.head, self.X, self.labels.names)

    def take_seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Crops and embeddings of the last call; none if there was none since."""
        seen = self.crops, self.X
        self.crops, self.X = self._nothing()
        return seen

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        width, height = self.input_size_wh
        return np.zeros((0, height, width, 3), np.uint8), np.zeros((0, backbone().dim), np.float32)


@dataclass
class TaughtModel:
    """What a stream reads frames with: an open model's detector, and a head that is being taught."""

    model: TaughtClassifier
    labels: LabelSet
    faces: Cropping
    detector: Any

    @staticmethod
    def with_labels(opened: OpenModel, labels: tuple[str, ...]) -> "TaughtModel":
        """For these classes."""
        names = LabelSet.from_names(labels)
        return TaughtModel(TaughtClassifier(names), names, opened.faces, opened.detector)


def embed_image(
    models: OpenModels, choice: ModelChoice, content: bytes, max_pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, crops and embeddings of the faces of an image; in a worker. Raises ApiError."""
    rgb = read_image(content, max_pixels)
    classifier = TaughtClassifier(_NOBODY.labels)
    found = models.get(choice).faces.cropper(classifier).cut(rgb)
    return found.xyxy, found.rgb, backbone().embed(found.rgb)


def fit_examples(
    models: OpenModels, choice: ModelChoice, X: np.ndarray, y: np.ndarray, last: float | None
) -> LinearHead:
    """A head on all examples; in a worker."""
    return fit_linear(X, y, usual_penalty(y, last))


def validate_examples(
    models: OpenModels, choice: ModelChoice, arrays: tuple[np.ndarray, ...], labels: tuple[str, ...]
) -> TeachReport:
    """How well the classes are told apart; in a worker."""
    X, y, takes, persons = arrays
    return validate(X, y, takes, persons, labels)


def write_taught(
    models: OpenModels,
    choice: ModelChoice,
    folder: Path,
    examples: Examples,
    report: TeachReport,
    overwrite: bool,
) -> None:
    """Save a model; in a worker. Raises ApiError."""
    try:
        save_taught(folder, examples, report, backbone(), overwrite=overwrite)
    except FerkitError as error:
        raise ApiError(409, "not_saved", f"The model could not be saved as {folder.name}: {error}.") from None


@dataclass(frozen=True)
class Collect:
    """What becomes of the faces of a stream.

    Attributes:
        label, take: of the examples.
        from_ms, until_ms: of the client's clock: frames that were taken before or after are none of it, though they are
            read meanwhile; None for the latter while it goes on.
        face: the number of the one who is meant, where several are in view; None for whoever is alone.
    """

    label: str
    take: str
    from_ms: float
    until_ms: float | None = None
    face: int | None = None


class TeachSession:
    """What one visitor teaches.

    Args:
        id: by which it is asked for.
        limits: how much it holds.
        run: lets a worker do something, the first for heads and the second for reports.
    """

    def __init__(self, id: str, limits: TeachLimits, run: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self.id, self._run = id, run
        self.examples = Examples(limits)
        self.head: LinearHead | None = None
        self.report: TeachReport | None = None
        self.collecting: Collect | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._reported, self._fitted = -1, -1
        self._report_ids: list[int] = []
        self._task: asyncio.Task[None] | None = None
        self._problem: str | None = None

    @property
    def pending(self) -> bool:
        """Whether the report is of other examples than those there are now."""
        return self._reported != self.examples.version

    def add(
        self, label: str, take: str, crops: np.ndarray, X: np.ndarray, digests: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """Add faces; what the page shows of those that were new. Raises ApiError."""
        if not take.isprintable() or not 0 < len(take) <= MAX_TAKE:
            raise ApiError(422, "bad_take", f"Expected a take of 1 to {MAX_TAKE} printable characters.")
        ids = set(self.change(lambda: self.examples.add(X, label, take=take, crops=crops, digests=digests)))
        return [
            {"id": row.id, "label": row.label, "take": row.take, "jpeg": base64.b64encode(row.image).decode()}
            for row in self.examples.rows[-len(ids) :] if row.id in ids
        ] if ids else []  # fmt: skip

    def collect(self, captured_ms: float, crops: np.ndarray, X: np.ndarray, ids: list[int]) -> dict[str, Any]:
        """What became of a frame's faces, of these numbers, while something is collected."""
        wanted = self.collecting
        if wanted is not None and wanted.until_ms is not None and captured_ms > wanted.until_ms:
            self.collecting = wanted = None
        if wanted is None or captured_ms < wanted.from_ms:
            return {"status": "idle", "added": []}
        if not ids:
            return {"status": "nobody", "added": []}
        if wanted.face is None and len(ids) > 1:
            return {"status": "several", "added": []}
        if len(ids) != len(X) or (wanted.face is not None and wanted.face not in ids):
            return {"status": "wait", "added": []}  # not every face was read in this frame
        row = 0 if wanted.face is None else ids.index(wanted.face)
        try:
            added = self.add(wanted.label, wanted.take, crops[row : row + 1], X[row : row + 1])
        except ApiError as refused:
            self.collecting = None
            return {"status": "refused", "message": refused.message, "added": []}
        return {"status": "added" if added else "same", "added": added}

    def change(self, act: Callable[[], Any]) -> Any:
        """Change the examples, and have the head fitted again. Raises ApiError."""
        try:
            result = act()
        except DataError as error:
            text = str(error)
            raise ApiError(422, "bad_example", f"{text[0].upper()}{text[1:]}.") from None
        self.wake()
        return result

    def wake(self) -> None:
        """Fit and validate what is not yet, in the background."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def settle(self) -> None:
        """Wait until head and report are of the examples that there are now."""
        self.collecting = None
        while self.pending or (self._task is not None and not self._task.done()):
            self.wake()
            assert self._task is not None
            await asyncio.shield(self._task)
            if self._problem is not None:
                raise ApiError(500, "fault", self._problem)

    def close(self) -> None:
        """Stop what is in the background."""
        for one in (self._task, self.timer):
            if one is not None:
                one.cancel()

    def state(self) -> dict[str, Any]:
        """What the page needs to know."""
        takes: dict[tuple[str, str], list[int]] = {}
        for row in self.examples.rows:
            takes.setdefault((row.label, row.take), []).append(row.id)
        return {
            "id": self.id,
            "version": self.examples.version,
            "labels": list(self.examples.labels),
            "counts": self.examples.counts(),
            "takes": [{"label": label, "take": take, "ids": ids} for (label, take), ids in takes.items()],
            "conflicts": [list(ids) for ids in self.examples.conflicts()],
            "can_undo": self.examples.can_undo,
            "fitted": self._fitted == self.examples.version,
            "pending": self.pending and self._problem is None,
            "problem": self._problem,
            "report": None if self.report is None else self._described(self.report),
        }

    def _described(self, report: TeachReport) -> dict[str, Any]:
        described = report.to_dict()
        described["disagreements"] = [
            {"id": self._report_ids[one.row], "label": one.label, "probability": round(one.probability, 4)}
            for one in report.disagreements
        ]
        return described

    @property
    def _is_recording(self) -> bool:
        # Validation would take the processor from the frames that come, and be of no use after the next of them.
        return self.collecting is not None and self.collecting.until_ms is None

    async def _work(self) -> None:
        try:
            self._problem = None
            while self._fitted != self.examples.version or (self.pending and not self._is_recording):
                await self._step()
        except (ApiError, WorkerFaultError) as fault:
            self._problem = str(fault)

    async def _step(self) -> None:
        version, rows, arrays = self.examples.version, self.examples.rows, self.examples.arrays()
        known = len(set(arrays[1])) >= 2
        if self._fitted != version:
            last = None if self.head is None else self.head.penalty
            head = await self._run(0, fit_examples, arrays[0], arrays[1], last) if known else None
            if head is not None and self.report is not None and self.report.head is not None:
                # As sure as the last validated one, until the next is.
                head = head.tempered(self.report.temperature, self.report.head.unsure_below)
            self.head, self._fitted = head, version
            return
        report = await self._run(1, validate_examples, arrays, self.examples.labels)
        self.report, self._reported, self._report_ids = report, version, [row.id for row in rows]
        if self.examples.version == version:
            self.head = report.head


class TeachSessions:
    """All sessions of a server.

    Args:
        settings: the server's.
        catalog: knows the models that one may start from.
    """

    def __init__(self, settings: ServeSettings, catalog: ModelCatalog) -> None:
        limits = settings.limits
        self._settings, self._catalog = settings, catalog
        self._limits = TeachLimits(
            max_examples=limits.max_examples, max_example_bytes=limits.max_example_bytes
        )
        self._sessions: dict[str, tuple[str, TeachSession]] = {}
        self._workers = Workers(replace(settings, processes=2), catalog)  # started when they are first asked

    def __len__(self) -> int:
        return len(self._sessions)

    async def create(self, client: str, labels: list[str], model: str | None) -> TeachSession:
        """A new session, with classes and perhaps what a taught model knows.

        Raises:
            ApiError: there are too many (429), or no such classes or model.
        """
        most = self._settings.limits.max_teach_sessions
        mine = sum(owner == client for owner, _ in self._sessions.values())
        if len(self._sessions) >= most or mine >= max(1, most // 2):
            raise ApiError(429, "too_many", "Too many people are teaching; try again later.", 60)
        session = TeachSession(secrets.token_urlsafe(18), self._limits, self._run)
        if model is not None:
            await asyncio.to_thread(self._resume, session, model)
        session.change(lambda: [session.examples.add_label(name) for name in labels])
        self._sessions[session.id] = client, session
        return self.get(session.id)

    def get(self, id: str) -> TeachSession:
        """The session, which lives on for a while by that. Raises ApiError if there is none (404)."""
        if id not in self._sessions:
            raise ApiError(
                404, "no_teacher", "There is no such session any more: sessions end when nobody uses them for a "
                "while, and when the server is started again. Saved models stay.",
            )  # fmt: skip
        _, session = self._sessions[id]
        if session.timer is not None:
            session.timer.cancel()
        session.timer = asyncio.get_running_loop().call_later(
            self._settings.limits.teach_ttl_s, self.remove, id
        )
        return session

    def remove(self, id: str) -> None:
        """Forget a session and its images."""
        _, session = self._sessions.pop(id, ("", None))
        if session is not None:
            session.close()

    async def save(self, session: TeachSession, name: str, overwrite: bool) -> str:
        """Save what was taught as a model of the server.

        Raises:
            ApiError: nothing is fitted, or the name may not be used.
        """
        settings = self._settings
        if settings.token is None and not is_loopback(settings.host):
            raise ApiError(403, "no_saving", "Models are saved only on this machine, or with a token.")
        try:
            name = check_model_name(name)
        except DataError as error:
            raise ApiError(422, "bad_name", f"{error}.".capitalize()) from None
        folder = settings.models_dir / name
        if name == self._catalog.default:
            raise ApiError(409, "name_taken", f"{name} is the model of this server; choose another name.")
        if folder.exists() and not (overwrite and (folder / EXAMPLES).is_file()):
            raise ApiError(409, "name_taken", f"There is a model {name} already; choose another name.")
        if (
            not folder.exists()
            and len(list(settings.models_dir.glob(f"*/{EXAMPLES}"))) >= settings.limits.max_taught
        ):
            raise ApiError(
                409, "too_many_models", "This server keeps no more taught models; remove one first."
            )
        await self._write(session, folder, overwrite)
        return name

    async def zip(self, session: TeachSession) -> bytes:
        """Images by class, model and README as a zip file. Raises ApiError if nothing is fitted."""
        with tempfile.TemporaryDirectory(prefix="ferkit-teach-") as home:
            folder = Path(home) / "taught"
            report = await self._write(session, folder, False)
            model = inspect_model(folder).model
            assert model is not None
            return await asyncio.to_thread(zip_taught, session.examples, report, model)

    def close(self) -> None:
        """Forget everything."""
        for id in list(self._sessions):
            self.remove(id)
        self._workers.close()

    async def _write(self, session: TeachSession, folder: Path, overwrite: bool) -> TeachReport:
        await session.settle()
        report = session.report
        if report is None or report.head is None:
            raise ApiError(
                422, "nothing_taught", "Expected examples of at least two classes; add some first."
            )
        await self._run(1, write_taught, folder, session.examples.without_images(), report, overwrite)
        return report

    def _resume(self, session: TeachSession, name: str) -> None:
        choice = self._catalog.get(name)
        model = inspect_model(choice.folder).model
        if model is None or EXAMPLES not in model.files:
            for label in choice.labels.names:
                session.examples.add_label(label)
            return
        try:
            load_examples(model, session.examples, backbone().fingerprint)
        except (ModelError, DataError) as error:
            raise ApiError(422, "other_backbone", f"{error}.") from None

    async def _run(self, which: int, function: Callable[..., Any], *args: Any) -> Any:
        return await self._workers.run(function, _NOBODY, *args, worker=self._workers.all[which])
