"""What candidates share: embeddings made once for all heads, and crops of the same images."""

import itertools
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.console import Progress, map_ahead
from ferkit.core.errors import DataError, ImageError, StoreError
from ferkit.core.files import fingerprint
from ferkit.core.types import ExpressionClassifier, Predict
from ferkit.datasets.dataset import Dataset
from ferkit.embedder.embedders import Embedder, open_embedder
from ferkit.embedder.extract import StoreOptions, embed_dataset
from ferkit.embedder.store import EmbeddingStore
from ferkit.evaluation.cost import TIMING_S
from ferkit.evaluation.protocol import EvaluationData
from ferkit.faces.cropping import CropOptions, Cropping, FaceCropper, FaceSettings, resolve_cropping
from ferkit.faces.detectors import open_detector


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
        quiet: no progress.
    """

    cache_dir: Path = Path("cache")
    out: Path = Path("comparison")
    models_dir: Path = Path("models")
    crop: CropOptions = field(default_factory=lambda: CropOptions(faceless="whole"))
    batch_size: int = 32
    workers: int | None = None
    timing_s: float = TIMING_S
    quiet: bool = False


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone as it was named: ``ferkit``, ``onnx:FILE``; a tap within it; how a spatial tap is averaged."""

    backbone: str
    tap: str | None = None
    pool_hw: tuple[int, int] | None = None


class SharedInputs:
    """Embeddings and crops of the images, made when they are asked for.

    Args:
        images: the rows.
        options: where things are.
        say: takes sentences for the user.
    """

    def __init__(self, images: EvaluationData, options: CompareOptions, say: Callable[[str], None]) -> None:
        self.images = images
        self.options = options
        self.say = say
        self.croppings: tuple[Cropping, ...] = tuple(
            resolve_cropping(part, options.crop) for part in images.parts
        )
        for name, cropping in zip(images.names, self.croppings, strict=True):
            say(f"{name}: {cropping.reason}")
        self._embedder: tuple[BackboneSpec, Embedder] | None = None
        self._table: tuple[BackboneSpec, np.ndarray] | None = None

    def faces(self) -> list[dict[str, Any]]:
        """How faces are taken out of each data set, as JSON values."""
        return [asdict(cropping.settings) for cropping in self.croppings]

    def crop_options(self, part: int) -> CropOptions:
        """How faces are taken out of one data set, with nothing left to choose."""
        settings, weights = self.croppings[part].settings, self.croppings[part].weights
        return CropOptions(
            settings.detector,  # type: ignore[arg-type]
            weights,
            settings.align,
            settings.margin,
            settings.faceless,
        )

    def embedder(self, spec: BackboneSpec) -> Embedder:
        """The open backbone; the last one is kept.

        Raises:
            WeightsError: its weights are missing.
            DataError: there is no such backbone or tap.
        """
        if self._embedder is None or self._embedder[0] != spec:
            self._embedder = None
            self._embedder = spec, open_embedder(spec.backbone, tap=spec.tap, pool_hw=spec.pool_hw)
        return self._embedder[1]

    def embeddings(self, spec: BackboneSpec) -> np.ndarray:
        """float (n, dim) of all rows, NaN where there is none; the last backbone's are kept.

        Raises:
            FerkitError: see :func:`ferkit.embedder.extract.embed_dataset`.
        """
        if self._table is not None and self._table[0] == spec:
            return self._table[1]
        self._table = None  # taps are large: let go of the last ones first
        embedder = self.embedder(spec)
        X: np.ndarray | None = None
        for i, part in enumerate(self.images.parts):
            store = self._store(self.images.names[i], part, self.crop_options(i), embedder)
            table = store.load("float16" if store.dim > 2_000 else "float32")
            if X is None:
                X = np.full((len(self.images), store.dim), np.nan, table.X.dtype)
            at = {path: row for row, path in enumerate(table.paths)}
            mine = np.flatnonzero(self.images.source == i)
            found = np.array([at.get(self.images.own_paths[row], -1) for row in mine])
            X[mine[found >= 0]] = table.X[found[found >= 0]]
        assert X is not None
        self._table = spec, X
        return X

    def predict_rows(
        self,
        rows: np.ndarray,
        size_wh: tuple[int, int],
        resize: str,
        faces: FaceSettings | None,
        predict: Predict,
    ) -> np.ndarray:
        """float32 (len(rows), k) of ``predict`` on the crops of ``rows``.

        Args:
            rows: row numbers.
            size_wh, resize: how crops are made.
            faces: how the model's own faces were taken out, which counts where the images are not crops yet.
            predict: crops to probabilities.
        """
        croppers = self._croppers(size_wh, resize, faces)
        samples = self.images.dataset.samples

        def crop(row: int) -> np.ndarray:
            cropper, sample = croppers[self.images.source[row]], samples[row]
            try:
                return cropper.largest(self.images.dataset.read(sample), sample.box).rgb
            except (ImageError, OSError) as error:
                raise DataError(f"{samples[row].path} was readable before and is not now: {error}") from None

        workers = self.options.workers or os.cpu_count() or 1
        size = self.options.batch_size
        parts = []
        with Progress("scoring", quiet=self.options.quiet) as progress:
            progress.start(len(rows))
            crops = map_ahead(crop, rows.tolist(), workers=workers, ahead=max(2 * size, 4 * workers))
            while batch := list(itertools.islice(crops, size)):
                parts.append(np.asarray(predict(np.stack(batch)), np.float32))
                progress.update(len(batch))
        return np.concatenate(parts)

    def classify_rows(
        self, rows: np.ndarray, classifier: ExpressionClassifier, faces: FaceSettings | None
    ) -> np.ndarray:
        """:meth:`predict_rows` of a model."""
        return self.predict_rows(
            rows, classifier.input_size_wh, classifier.resize, faces, classifier.predict_proba
        )

    def some_crops(self, rows: np.ndarray, size_wh: tuple[int, int], n: int = 32) -> np.ndarray:
        """uint8 RGB (n, h, w, 3): real crops for timing, repeated where there are fewer rows."""
        croppers = self._croppers(size_wh, "stretch", None)
        chosen = np.resize(rows[:n], n)
        read = self.images.dataset.read
        samples = self.images.dataset.samples
        return np.stack(
            [
                croppers[self.images.source[row]].largest(read(samples[row]), samples[row].box).rgb
                for row in chosen
            ]
        )

    def _croppers(
        self, size_wh: tuple[int, int], resize: str, faces: FaceSettings | None
    ) -> list[FaceCropper]:
        """One a data set: images that are crops already are taken whole whatever a model was trained on."""
        croppers = []
        for cropping in self.croppings:
            settings, weights = cropping.settings, cropping.weights
            if faces is not None and "none" not in (faces.detector, settings.detector):
                align = faces.align and settings.detector != "given"
                settings = replace(settings, align=align, margin=faces.margin)
            croppers.append(_cropper(settings, weights, size_wh, resize))
        return croppers

    def _store(self, name: str, part: Dataset, crop: CropOptions, embedder: Embedder) -> EmbeddingStore:
        options = StoreOptions(self.options.cache_dir, name, batch_size=self.options.batch_size)
        with Progress(f"embedding {name} by {embedder.name}", quiet=self.options.quiet) as progress:

            def embed(options: StoreOptions) -> EmbeddingStore:
                return embed_dataset(
                    part,
                    embedder,
                    crop,
                    options,
                    workers=self.options.workers,
                    progress=progress,
                    say=_nothing,
                )[0]

            try:
                return embed(options)
            except StoreError as error:
                if type(error) is not StoreError:
                    raise
                # Another data set of this name is in the cache: this one is called after its place too.
                own = f"{name}-{fingerprint(str(part.root.resolve()))[:6]}"
                return embed(replace(options, name=own))


def _cropper(
    settings: FaceSettings, weights: Path | None, size_wh: tuple[int, int], resize: str
) -> FaceCropper:
    return FaceCropper(settings, lambda: open_detector(settings.detector, weights), size_wh, resize)


def _nothing(_: str) -> None:
    """What a store says of itself is of no interest here."""
