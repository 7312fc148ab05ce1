"""Samples and where their pixels come from."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ferkit.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Attributes:
        path: its name within the data set: a POSIX path below the root, or ``train/000123`` for array data.
        label: class name, or None if unknown.
        split: ``train``, ``val`` or ``test``, or None if the data set makes no difference.
        group: who is shown, so that one person never lies on both sides of a split; None if unknown.
        box: the face as left, top, right, bottom in pixels of the picture; None if unknown, or a crop.
        attributes: what else is known, by column name: ``sex``, ``age``, ``place``, ``source`` …
    """

    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None
    box: tuple[float, float, float, float] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells cheaply whether content may have changed: its size in bytes, and when it last changed."""

    size: int
    changed_ns: int


class ImageSource(Protocol):
    """Where the pixels of samples come from."""

    def stamp(self, path: str) -> Stamp:
        """Size and time of the last change. Raises OSError if the content is gone."""
        ...

    def read(self, path: str) -> bytes:
        """The content, for hashing and decoding. Raises OSError if it cannot be read."""
        ...

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3) of what :meth:`read` gave. Raises ImageError if it is no picture."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Samples sorted by path, and their pixels.

    Attributes:
        name: short name for folders and tables.
        root: the folder or file it was read from.
        samples: sorted by path, paths distinct.
        source: gives the pixels.
        left_out: path and reason of each file or row that was found and not taken; what follows a colon in a reason
            is detail.

    Raises:
        DataError: no samples, or two of one path.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    source: ImageSource
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            why = f" but {': '.join(self.left_out[0])}" if self.left_out else ""
            raise DataError(
                f"expected pictures in {self.root}, found none{why}; see 'fer embed --help' for the layouts"
            )
        object.__setattr__(self, "samples", tuple(sorted(self.samples, key=lambda sample: sample.path)))
        for a, b in zip(self.samples, self.samples[1:], strict=False):
            if a.path == b.path:
                raise DataError(
                    f"expected distinct pictures in {self.root}, found {a.path} twice; remove one entry"
                )

    def __len__(self) -> int:
        return len(self.samples)

    @functools.cached_property
    def paths(self) -> np.ndarray:
        """Paths of all samples, (n,) of str."""
        return self._column("path")

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Classes of all samples, (n,) of str or None."""
        return self._column("label")

    @functools.cached_property
    def splits(self) -> np.ndarray:
        """Parts of all samples, (n,) of ``train``, ``val``, ``test`` or None."""
        return self._column("split")

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Persons of all samples, (n,) of str or None."""
        return self._column("group")

    def _column(self, name: str) -> np.ndarray:
        column = np.empty(len(self.samples), object)
        column[:] = [getattr(sample, name) for sample in self.samples]
        return column

    def read(self, sample: Sample) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageError: it is no picture.
            OSError: it cannot be read.
        """
        return self.source.decode(self.source.read(sample.path))

    def class_counts(self) -> dict[str, int]:
        """Number of samples of each class, classes sorted by name; samples without label are not counted."""
        return dict(sorted(Counter(s.label for s in self.samples if s.label is not None).items()))

    def subset(self, keep: "list[Sample] | tuple[Sample, ...]") -> "Dataset":
        """The same data set with only these samples."""
        return Dataset(self.name, self.root, tuple(keep), self.source)
