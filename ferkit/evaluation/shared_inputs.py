"""What candidates share: the rows, embeddings made once, crops of the same images, and the measure of their cost."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from ferkit.core.console import progress
from ferkit.core.errors import DataError, StoreError
from ferkit.core.files import fingerprint, settings_dict
from ferkit.core.labels import LabelSet, same_meaning
from ferkit.core.types import Predict
from ferkit.datasets.dataset import Dataset, Sample, Stamp
from ferkit.datasets.image_stats import image_stats
from ferkit.embedder.extract import StoreOptions, embed_dataset, open_for_store
from ferkit.embedder.settings import Embedder
from ferkit.embedder.store import EmbeddingStore
from ferkit.evaluation.comparison import DataUsed
from ferkit.faces.cropping import Cropping, CropSettings, FaceCropper, resolve_cropping
from ferkit.faces.detectors import memory_mb
from ferkit.faces.reading import apply_network, read_crops

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadDataset:
    """A data set of which every labelled image was read once.

    Attributes:
        dataset: as it was loaded.
        content: digest of each labelled image that can be decoded, by path.
        failures: path and reason of the others.
    """

    dataset: Dataset
    content: Mapping[str, str]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EvaluationData:
    """Rows of a comparison.

    Attributes:
        name: for titles.
        dataset: the rows as a data set: sorted by path, labels in those of the comparison. Paths begin with the
            name of the data set where there are several.
        parts: the data sets as they were loaded, which embedding stores mirror.
        names: of the data sets, distinct.
        source: (n,) int64, the data set of each row.
        own_paths: (n,) the path of each row within its data set.
        content: (n,) digest of each image.
        labels: the classes, sorted.
        notes: what was left out, in sentences.
    """

    name: str
    dataset: Dataset
    parts: tuple[Dataset, ...]
    names: tuple[str, ...]
    source: np.ndarray
    own_paths: tuple[str, ...]
    content: tuple[str, ...]
    labels: LabelSet
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> np.ndarray:
        """uint8 RGB (H, W, 3) of a row."""
        return self.dataset.read(self.dataset.samples[row])

    @property
    def y(self) -> np.ndarray:
        """(n,) str objects, class names."""
        return self.dataset.labels

    @property
    def groups(self) -> np.ndarray:
        """(n,) str objects, who is shown; None where unknown."""
        return self.dataset.groups

    @functools.cached_property
    def attributes(self) -> dict[str, np.ndarray]:
        """By column, (n,) str objects; with several data sets also ``data set``."""
        found = attribute_columns(self.dataset.samples)
        if len(self.parts) > 1:
            found["data set"] = np.array([self.names[i] for i in self.source], object)
        return found

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of everything about ``rows`` that a result may depend on."""
        facts = [(self.own_paths[i], self.content[i], self.y[i], self.groups[i]) for i in rows]
        return fingerprint(facts)

    def used(self, parts: Sequence[str]) -> tuple[DataUsed, ...]:
        """The data sets for the record; ``parts`` says what each was used for."""
        return tuple(
            DataUsed(
                name,
                str(dataset.root.resolve()),
                part,
                int((self.source == i).sum()),
                self.digest(np.flatnonzero(self.source == i)),
            )
            for i, (name, dataset, part) in enumerate(zip(self.names, self.parts, parts, strict=True))
        )


def attribute_columns(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The attributes of samples: by column, (n,) str objects, None where a sample has no such attribute."""
    columns = sorted({name for sample in samples for name in sample.attributes})
    return {name: np.array([sample.attributes.get(name) for sample in samples], object) for name in columns}


def check_columns(known: Collection[str], by: Sequence[str]) -> None:
    """The columns to compare groups ``by`` are among the ``known`` ones. Raises DataError if not."""
    unknown = [column for column in by if column not in known]
    if unknown:
        listed = ", ".join(sorted(known)) or "none"
        raise DataError(f"the data have no column {', '.join(unknown)}; they have {listed}")


def read_labelled(dataset: Dataset, cache_dir: Path | None, *, workers: int | None = None) -> ReadDataset:
    """Read and decode every labelled image once; what was seen is kept in the cache, for the leak check too.

    Raises:
        DataError: no image has a label, or none can be read.
    """
    labelled = [sample for sample in dataset.samples if sample.label is not None]
    if not labelled:
        raise DataError(
            f"expected labelled images in {dataset.root}, found none; lay them out as <class>/*.jpg"
        )
    seen = image_stats(dataset.subset(labelled), cache_dir, workers=workers)
    digests = {
        sample.path: seen.content[i].decode() for i, sample in enumerate(labelled) if i not in seen.errors
    }
    failures = tuple((labelled[i].path, reason) for i, reason in sorted(seen.errors.items()))
    if not digests:
        raise DataError(
            f"none of the {len(labelled)} labelled images of {dataset.root} can be read; the first: "
            f"{': '.join(failures[0])}"
        )
    return ReadDataset(dataset, digests, failures)


def build_evaluation_data(
    read: Sequence[ReadDataset],
    *,
    name: str | None = None,
    relabel: Sequence[Callable[[str], str | None]] | None = None,
    notes: Sequence[str] = (),
) -> EvaluationData:
    """The rows of one data set, or of several in one.

    Args:
        read: the data sets.
        name: for titles; None takes that of the data set.
        relabel: for each data set, what becomes of a label; an image whose label becomes None is left out.
        notes: sentences to keep.

    Raises:
        DataError: fewer than two classes are left, or two names mean one class.
    """
    names = _distinct([one.dataset.name for one in read])
    several = len(read) > 1
    rows: list[tuple[str, int, str, Sample, str]] = []
    notes = list(notes)
    for i, one in enumerate(read):
        for sample in one.dataset.samples:
            label = sample.label
            if label is not None and relabel is not None:
                label = relabel[i](label)
            if label is None or sample.path not in one.content:
                continue
            path = f"{names[i]}/{sample.path}" if several else sample.path
            changed = replace(sample, path=path, label=label)
            rows.append((path, i, sample.path, changed, one.content[sample.path]))
        if one.failures:
            path, reason = one.failures[0]
            notes.append(
                f"{len(one.failures)} images of {names[i]} cannot be read and are left out for all; the first: "
                f"{path}: {reason}"
            )
    rows.sort(key=lambda row: row[0])
    classes = sorted({str(row[3].label) for row in rows})
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise DataError(
            f"expected at least two classes to tell apart, found {found}; check the folder names or the label column"
        )
    labels = LabelSet.from_names(classes)
    for name, other, *_ in same_meaning(labels.names).values():
        raise DataError(f"{name!r} and {other!r} are two names of one class; give the images one of them")
    first = read[0].dataset
    source = _Merged({names[i]: one.dataset for i, one in enumerate(read)}) if several else first.source
    title = name or " + ".join(names)
    return EvaluationData(
        title,
        Dataset(title, first.root, tuple(row[3] for row in rows), source),
        tuple(one.dataset for one in read),
        names,
        np.array([row[1] for row in rows], np.int64),
        tuple(row[2] for row in rows),
        tuple(row[4] for row in rows),
        labels,
        tuple(notes),
    )


class _Content(bytes):
    """The bytes of an image, which know how to be decoded: data sets differ in that."""

    decode_with: Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class _Merged:
    """Several data sets behind paths that begin with their names."""

    datasets: Mapping[str, Dataset]

    def stamp(self, path: str) -> Stamp:
        dataset, own = self._find(path)
        return dataset.source.stamp(own)

    def read(self, path: str) -> bytes:
        dataset, own = self._find(path)
        content = _Content(dataset.source.read(own))
        content.decode_with = dataset.source.decode
        return content

    def decode(self, content: bytes) -> np.ndarray:
        assert isinstance(content, _Content)
        return content.decode_with(content)

    def _find(self, path: str) -> tuple[Dataset, str]:
        name, _, own = path.partition("/")
        return self.datasets[name], own


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    last = [Path(name).name for name in names]
    earlier = [last[:i].count(name) for i, name in enumerate(last)]
    return tuple(f"{name}-{n + 1}" if n else name for name, n in zip(last, earlier, strict=True))


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
        out: folder of the comparison, where its results and networks go.
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
