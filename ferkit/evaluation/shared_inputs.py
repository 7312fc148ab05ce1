"""What candidates share: embeddings made once, crops of the same images, and the measure of their cost."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, StoreError
from ferkit.core.files import fingerprint, settings_dict
from ferkit.core.types import Predict
from ferkit.datasets.dataset import Dataset
from ferkit.embedder.extract import StoreOptions, embed_dataset, open_for_store
from ferkit.embedder.settings import Embedder
from ferkit.embedder.store import EmbeddingStore
from ferkit.evaluation.protocol import EvaluationData
from ferkit.faces.cropping import Cropping, CropSettings, FaceCropper, resolve_cropping
from ferkit.faces.detectors import memory_mb
from ferkit.faces.reading import apply_network, read_crops

logger = logging.getLogger(__name__)

TIMING_S = 1.5
"""How long each batch size is timed."""

_FEWEST, _MOST = 5, 300
_POWERCAP = Path("/sys/class/powercap")


class ResourceMonitor:
    """Watches the process while it works.

    Attributes:
        memory_mb: by how much its memory, and that of processes it started, rose at most; None where the system does
            not say.
        energy_j: joules of all processor packages, other programs' included; None where they are not counted, or
            may not be read.
    """

    memory_mb: float | None = None
    energy_j: float | None = None

    def __enter__(self) -> "ResourceMonitor":
        self._first = self._most = _with_children_mb()
        self._counters = energy_counters()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._watcher.join()
        if self._first:
            self.memory_mb = max(self._most, _with_children_mb()) - self._first
        now = energy_counters()
        if self._counters and now.keys() == self._counters.keys():
            # A counter that reached its end began again at 0.
            spent = [
                (end - self._counters[path][0]) % (most + 1) for path, (end, most) in sorted(now.items())
            ]
            self.energy_j = sum(spent) / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, _with_children_mb())


def energy_counters() -> dict[str, tuple[int, int]]:
    """Microjoules counted, and where the counter ends, of each processor package (RAPL); empty without any."""
    found = {}
    for zone in _POWERCAP.glob("intel-rapl:*"):
        if zone.name.count(":") > 1:  # a part of a package, counted there already
            continue
        try:
            values = [int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
        except (OSError, ValueError):
            continue
        found[zone.name] = (values[0], values[1])
    return found


def milliseconds(
    predict: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, seconds: float = TIMING_S
) -> float:
    """Time by image of the fastest call on ``crops`` (n, h, w, 3), of those within ``seconds``, five at least.

    The fastest: all else that the machine does makes calls slower, never faster.
    """
    predict(crops)  # the first call prepares what later ones find
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < _FEWEST or (time.perf_counter() - began < seconds and len(times) < _MOST):
        start = time.perf_counter()
        predict(crops)
        times.append(time.perf_counter() - start)
    return min(times) / len(crops) * 1000


def _with_children_mb() -> float:
    """Memory of this process and of those it started, 10^6 bytes; 0 where the system does not say."""
    own = memory_mb()
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            own += sum(map(memory_mb, file.read_text().split()))
    return own


@dataclass(frozen=True)
class CompareOptions:
    """Where things are kept, and how faces are taken out of images.

    Attributes:
        cache_dir: folder of all embeddings, shared with ``fer embed``.
        out: folder of the comparison, where its cells and networks go.
        models_dir: where models are looked for by name.
        crop: how faces are taken out; images in which none is found are taken whole, so that all candidates are
            measured on the same images.
        batch_size: images a run of a network.
        workers: threads that read images; one a core if None.
        timing_s: how long each batch size of a candidate is timed.
    """

    cache_dir: Path = Path("cache")
    out: Path = Path("comparison")
    models_dir: Path = Path("models")
    crop: Cropping = field(default_factory=lambda: Cropping.ask(no_face="whole"))
    batch_size: int = 32
    workers: int | None = None
    timing_s: float = TIMING_S


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as it was named: ``ferkit``, ``onnx:FILE``; a layer within it; how a spatial layer is averaged."""

    backbone: str
    layer: str | None = None
    pool_hw: tuple[int, int] | None = None


class SharedInputs:
    """Embeddings and crops of the images, made when they are asked for.

    Args:
        images: the rows.
        options: where things are.
    """

    def __init__(self, images: EvaluationData, options: CompareOptions) -> None:
        self.images = images
        self.options = options
        self.croppings = tuple(resolve_cropping(part, options.crop) for part in images.parts)
        for name, cropping in zip(images.names, self.croppings, strict=True):
            logger.info(f"{name}: {cropping.reason}")
        self._embedder: tuple[BackboneSpec, Embedder] | None = None
        self._table: tuple[BackboneSpec, np.ndarray] | None = None

    def faces(self) -> list[dict[str, Any]]:
        """How faces are taken out of each data set, as JSON values."""
        return [settings_dict(cropping.settings) for cropping in self.croppings]

    def embedder(self, spec: BackboneSpec) -> Embedder:
        """The open backbone; the last one is kept.

        Raises:
            WeightsError: its weights are missing.
            DataError: there is no such backbone or layer.
        """
        if self._embedder is None or self._embedder[0] != spec:
            self._embedder = None
            part, crop = self.images.parts[0], self.croppings[0]
            store = StoreOptions(self.options.cache_dir, self.images.names[0])
            opened = open_for_store(spec.backbone, part, crop, store, layer=spec.layer, pool_hw=spec.pool_hw)
            self._embedder = spec, opened
        return self._embedder[1]

    def embeddings(self, spec: BackboneSpec) -> np.ndarray:
        """float (n, dim) of all rows, NaN where there is none; the last backbone's are kept.

        Raises:
            FerkitError: see :func:`ferkit.embedder.extract.embed_dataset`.
        """
        if self._table is not None and self._table[0] == spec:
            return self._table[1]
        self._table = None  # layers are large: let go of the last ones first
        embedder = self.embedder(spec)
        dtype: Literal["float16", "float32"] = "float16" if embedder.dim > 2_000 else "float32"
        X = np.full((len(self.images), embedder.dim), np.nan, dtype)
        for i, part in enumerate(self.images.parts):
            table = self._store(self.images.names[i], part, self.croppings[i], embedder).load(dtype)
            at = {path: row for row, path in enumerate(table.paths)}
            mine = np.flatnonzero(self.images.source == i)
            found = np.array([at.get(self.images.own_paths[row], -1) for row in mine])
            X[mine[found >= 0]] = table.X[found[found >= 0]]
        self._table = spec, X
        return X

    def predict_rows(
        self,
        rows: np.ndarray,
        size_wh: tuple[int, int],
        resize: str,
        trained: Cropping | None,
        predict: Predict,
    ) -> np.ndarray:
        """float32 (len(rows), k) of ``predict`` on the crops of ``rows``.

        Args:
            rows: row numbers.
            size_wh, resize: how crops are made.
            trained: what a model was trained on, which counts where the images are not crops yet.
            predict: crops to probabilities.
        """
        source, samples = self.images.dataset.source, self.images.dataset.samples
        size, found = self.options.batch_size, {}
        with progress("scoring", len(rows)) as shown:
            for i, cropper in enumerate(self._croppers(size_wh, resize, trained)):
                mine = [int(row) for row in rows if self.images.source[row] == i]
                images = read_crops(
                    source,
                    (samples[row] for row in mine),
                    cropper,
                    batch_size=size,
                    workers=self.options.workers,
                )
                scored = apply_network(images, predict, len(self.images.labels), size)
                for row, (image, proba) in zip(mine, scored, strict=True):
                    if image.error is not None:
                        raise DataError(
                            f"{image.sample.path} was readable before and is not now: {image.error}"
                        )
                    found[row] = np.asarray(proba[0], np.float32)
                    shown.update(1)
        return np.stack([found[int(row)] for row in rows])

    def some_crops(self, rows: np.ndarray, size_wh: tuple[int, int], n: int = 32) -> np.ndarray:
        """uint8 RGB (n, h, w, 3): real crops for timing, repeated where there are fewer rows."""
        croppers = self._croppers(size_wh, "stretch", None)
        dataset = self.images.dataset
        crops = []
        for row in rows[:n]:
            sample = dataset.samples[row]
            crops.append(croppers[self.images.source[row]].largest(dataset.read(sample), sample.box).rgb)
        return np.resize(np.concatenate(crops), (n, *crops[0].shape[1:]))

    def _croppers(self, size_wh: tuple[int, int], resize: str, trained: Cropping | None) -> list[FaceCropper]:
        """One a data set: images that are crops already are taken whole, however a model was trained."""
        croppers = []
        for cropping in self.croppings:
            settings = cropping.settings
            if trained is not None and trained.kind == "whole":
                settings = CropSettings.whole()
            elif trained is not None and "none" not in (trained.settings.detector, settings.detector):
                align = trained.settings.align and settings.detector != "given"
                settings = replace(settings, align=align, margin=trained.settings.margin)
            croppers.append(FaceCropper(settings, cropping.open_detector, size_wh, resize))
        return croppers

    def _store(self, name: str, part: Dataset, crop: Cropping, embedder: Embedder) -> EmbeddingStore:
        options = StoreOptions(self.options.cache_dir, name, batch_size=self.options.batch_size)
        try:
            return embed_dataset(part, embedder, crop, options, workers=self.options.workers)[0]
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            # Another data set of this name is in the cache: this one is called after its place too.
            own = f"{name}-{fingerprint(str(part.root.resolve()))[:6]}"
            options = replace(options, name=own)
            return embed_dataset(part, embedder, crop, options, workers=self.options.workers)[0]
