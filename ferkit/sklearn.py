"""Use ferkit's embeddings inside scikit-learn: a transformer from images to numbers.

Needs scikit-learn, as the heads do; ``import ferkit`` alone does not import it.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ferkit.core.errors import DataError, checked
from ferkit.core.files import cached_arrays, fingerprint
from ferkit.core.weights import DEFAULT_EDITION
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.load import GivenImages
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.settings import Embedder
from ferkit.faces.cropping import Cropping, resolve_cropping
from ferkit.faces.reading import apply_network, read_crops


class FaceEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turns images of faces into embeddings, for pipelines, cross-validation and grid searches.

    What was embedded is kept in ``cache_dir`` by the images' content, so that a search over a head's settings embeds
    once.

    Args:
        embedder: a backbone such as ``ferkit``, or ``onnx:FILE``.
        layer: an inner layer, such as ``stage4``; None for the network's own output.
        detector: how faces are found. ``none`` takes every image whole: arrays of crops; ``auto`` looks at some images
            in ``fit`` and keeps to what it found.
        no_face: what becomes of an image without a face: ``whole`` takes it whole, ``error`` refuses.
        cache_dir: where embeddings are kept; None for ferkit's folder in the user's cache, False for nowhere.
        batch_size: images a run of the network.

    Attributes:
        cropping_: how faces are taken out.
        n_features_out_: numbers an image.

    >>> import numpy as np
    >>> from ferkit.sklearn import FaceEmbedder
    >>> crops = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    >>> FaceEmbedder("raw", detector="none", cache_dir=False).fit_transform(crops).shape[0]
    4
    """

    def __init__(
        self,
        embedder: str = DEFAULT_EDITION,
        *,
        layer: str | None = None,
        detector: str = "auto",
        no_face: Literal["whole", "error"] = "whole",
        cache_dir: str | os.PathLike[str] | Literal[False] | None = None,
        batch_size: int = 32,
    ) -> None:
        self.embedder = embedder
        self.layer = layer
        self.detector = detector
        self.no_face = no_face
        self.cache_dir = cache_dir
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> "FaceEmbedder":
        """Open the embedder and decide how faces are taken out of such images.

        Args:
            X: paths, or uint8 RGB images as an array (n, H, W, 3) or a list.
            y: is not used.

        Raises:
            DataError: something else was given, here or as a parameter.
        """
        checked(type(self).__init__)(object.__new__(type(self)), **self.get_params())
        given, samples = self._images(X)
        no_face: Literal["skip", "whole"] = "whole" if self.no_face == "whole" else "skip"
        once = {sample.path: sample for sample in samples}  # resampling gives images several times
        dataset = Dataset("given", Path(), tuple(once[path] for path in sorted(once)), given)
        self.cropping_ = resolve_cropping(dataset, Cropping.ask(self.detector, no_face=no_face))
        self.n_features_out_ = self._open().dim
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed: float32 (n, ``n_features_out_``) for the n images of ``X``.

        Raises:
            DataError: an image cannot be read, or has no face where that is an error.
        """
        check_is_fitted(self)
        given, samples = self._images(X)
        embedder = self._open()
        found, _ = cached_arrays(
            self._file(embedder, given),
            lambda: {"X": self._embed(embedder, given, samples)},
            lambda arrays: arrays["X"].shape == (len(samples), embedder.dim),
        )
        return found["X"]

    def _embed(self, embedder: Embedder, given: GivenImages, samples: list[Sample]) -> np.ndarray:
        images = read_crops(given, samples, self.cropping_.cropper(embedder), batch_size=self.batch_size)
        rows = []
        embedded = apply_network(
            images, embedder.embed, embedder.dim, self.batch_size, at_once=embedder.at_once
        )
        for image, vectors in embedded:
            if image.error is not None:
                raise DataError(f"{image.sample.path}: {image.error}")
            rows.append(vectors[0])
        return np.stack(rows).astype(np.float32)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.requires_fit = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_out_)

    def _open(self) -> Embedder:
        return open_embedder(self.embedder, layer=self.layer)

    def _images(self, X: Any) -> tuple[GivenImages, list[Sample]]:
        if isinstance(X, (str, os.PathLike)) or not hasattr(X, "__len__"):
            raise DataError(f"expected a list of paths or images, found {type(X).__name__}")
        given = GivenImages(X)
        if len(given.names) != len(X):
            raise DataError("expected one image for each row; folders and globs hold several")
        return given, [Sample(name) for name in given.names]

    def _file(self, embedder: Embedder, given: GivenImages) -> Path | None:
        if self.cache_dir is False:
            return None
        root = Path(self.cache_dir) if self.cache_dir is not None else _user_cache()
        digests = [_digest(given, name) for name in given.names]
        return root / f"{fingerprint([embedder.fingerprint, self.cropping_.settings, digests])[:24]}.npz"


def _digest(given: GivenImages, name: str) -> str:
    import hashlib

    try:
        content = given.read(name)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from None
    shape = getattr(getattr(content, "rgb", None), "shape", ())
    return hashlib.sha256(content).hexdigest() + str(shape)


def _user_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("ferkit") / "transformed"
