"""The examples of a teacher: faces with their class, take and person, and a way back from every change."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.types import check_crops, check_features

MAX_LABEL = 40
"""Characters of a class's name."""

RESERVED = ("unsure",)
"""Names that mean something else wherever a label is shown."""

_UNDO = 100
_SIDE = 224
_QUALITY = 90


@dataclass(frozen=True)
class TeachLimits:
    """How much one teacher holds.

    Attributes:
        max_examples: faces of all classes together.
        max_classes: classes.
        max_example_bytes: embeddings and images together.
    """

    max_examples: int = 5_000
    max_classes: int = 20
    max_example_bytes: int = 200_000_000


@dataclass(frozen=True, eq=False)
class Example:
    """One face.

    Attributes:
        id: a number of its own.
        label: its class.
        take: what it was recorded with: a burst, a video, a photo. Two takes are independent of each other.
        person: who is shown, None where unknown.
        vector: float32 (dim,), its embedding.
        image: JPEG of the crop; empty where none is kept.
        digest: SHA-256 of what it was made from, as hexadecimal digits.
    """

    id: int
    label: str
    take: str
    person: str | None
    vector: np.ndarray = field(repr=False)
    image: bytes = field(repr=False)
    digest: str = field(repr=False)

    @property
    def n_bytes(self) -> int:
        """What it takes of the memory."""
        return self.vector.nbytes + len(self.image)


def clean_label(name: object) -> str:
    """A class's name, composed (NFC) and without spaces around it.

    Raises:
        DataError: it is empty, longer than 40 characters, not printable, or taken for something else.
    """
    text = unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else ""
    if not text or len(text) > MAX_LABEL or not text.isprintable() or text.lower() in RESERVED:
        raise DataError(
            f"expected a name of 1 to {MAX_LABEL} printable characters for a class, other than "
            f"{', '.join(RESERVED)}, found {name!r}"
        )
    return text


class Examples:
    """All examples, and the classes in the order in which they came; every change can be undone.

    Args:
        limits: how much is held.
    """

    def __init__(self, limits: TeachLimits | None = None) -> None:
        self.limits = limits or TeachLimits()
        self.labels: tuple[str, ...] = ()
        self.version = 0
        self._rows: tuple[Example, ...] = ()
        self._past: list[tuple[tuple[str, ...], tuple[Example, ...]]] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> tuple[Example, ...]:
        """The examples, the oldest first."""
        return self._rows

    @property
    def n_bytes(self) -> int:
        """What all of them take of the memory."""
        return sum(row.n_bytes for row in self._rows)

    def counts(self) -> dict[str, int]:
        """Examples of each class."""
        return dict.fromkeys(self.labels, 0) | Counter(row.label for row in self._rows)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Embeddings float32 (n, dim), and class, take and person (None where unknown) of each, (n,) objects."""
        X = np.stack([row.vector for row in self._rows]) if self._rows else np.zeros((0, 0), np.float32)
        named = ([getattr(row, name) for row in self._rows] for name in ("label", "take", "person"))
        y, takes, persons = (np.array([*values, None], object)[:-1] for values in named)
        return X, y, takes, persons

    def add_label(self, name: str) -> str:
        """Add a class without examples, and give its name; one that is there stays.

        Raises:
            DataError: no such name, or too many classes.
        """
        label = clean_label(name)
        if label not in self.labels:
            self._change(self._labels_with(label), self._rows)
        return label

    def add(
        self,
        vectors: np.ndarray,
        label: str,
        *,
        take: str,
        person: str | None = None,
        crops: np.ndarray | None = None,
        digests: Sequence[str] | None = None,
    ) -> list[int]:
        """Add faces to a class, which is made where there is none; those that it has already are passed over.

        Args:
            vectors: embeddings, float (n, dim).
            label: the class.
            take: see :class:`Example`.
            person: who is shown.
            crops: uint8 RGB (n, h, w, 3), kept as small JPEGs; None keeps none.
            digests: SHA-256 of the files that they come from; those of the crops if None.

        Returns:
            The ids of those that were added.

        Raises:
            DataError: other shapes, no such name, or more than is held.
        """
        label = clean_label(label)
        dim = len(self._rows[0].vector) if self._rows else None
        vectors = check_features(np.asarray(vectors, np.float32), dim)
        if crops is not None and len(check_crops(crops)) != len(vectors):
            raise DataError(
                f"expected a crop for each embedding, found {len(crops)} crops and {len(vectors)} embeddings"
            )
        known = {row.digest for row in self._rows if row.label == label}
        new: list[Example] = []
        for i, vector in enumerate(vectors):
            content = vector if crops is None else np.ascontiguousarray(crops[i])
            digest = digests[i] if digests is not None else hashlib.sha256(content.data).hexdigest()
            if digest not in known:
                known.add(digest)
                image = b"" if crops is None else _jpeg(crops[i])
                new.append(Example(self._next + len(new), label, take, person, vector.copy(), image, digest))
        self._check_room(new)
        joins = bool(self._rows) and self._rows[-1].take == take
        self._change(self._labels_with(label), (*self._rows, *new), joins)
        self._next += len(new)
        return [row.id for row in new]

    def remove(self, ids: Collection[int]) -> int:
        """Remove examples, and say how many there were of them."""
        gone = set(ids)
        kept = tuple(row for row in self._rows if row.id not in gone)
        n = len(self._rows) - len(kept)
        if n:
            self._change(self.labels, kept)
        return n

    def remove_take(self, take: str) -> int:
        """Remove all examples of a take."""
        return self.remove([row.id for row in self._rows if row.take == take])

    def remove_label(self, label: str) -> None:
        """Remove a class with its examples."""
        kept = tuple(row for row in self._rows if row.label != label)
        self._change(tuple(name for name in self.labels if name != label), kept)

    def rename(self, old: str, new: str) -> None:
        """Give a class another name.

        Raises:
            DataError: no class is called so, or one is called so already.
        """
        self._check_known(old)
        name = clean_label(new)
        if name in self.labels and name != old:
            raise DataError(f"there is a class {name} already; choose another name")
        labels = tuple(name if label == old else label for label in self.labels)
        rows = (replace(row, label=name) if row.label == old else row for row in self._rows)
        self._change(labels, tuple(rows))

    def move(self, ids: Collection[int], label: str) -> None:
        """Put examples into another class.

        Raises:
            DataError: there is no such class.
        """
        self._check_known(label)
        chosen = set(ids)
        rows = (replace(row, label=label) if row.id in chosen else row for row in self._rows)
        self._change(self.labels, tuple(rows))

    def without_images(self) -> "Examples":
        """A copy that has neither images nor a way back."""
        plain = Examples(self.limits)
        plain.labels, plain._rows = self.labels, tuple(replace(row, image=b"") for row in self._rows)
        return plain

    def undo(self) -> bool:
        """Take back the last change; False where there is none."""
        if not self._past:
            return False
        self.labels, self._rows = self._past.pop()
        self.version += 1
        return True

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._past)

    def conflicts(self) -> list[tuple[int, ...]]:
        """Ids of the examples that are one and the same image in several classes."""
        same: dict[str, list[Example]] = {}
        for row in self._rows:
            same.setdefault(row.digest, []).append(row)
        return [tuple(row.id for row in rows) for rows in same.values() if len({r.label for r in rows}) > 1]

    def _change(self, labels: tuple[str, ...], rows: tuple[Example, ...], joins: bool = False) -> None:
        # The frames of a burst come one by one, and are taken back together.
        if not (joins and self._past and len(rows) > len(self._rows)):
            self._past = [*self._past, (self.labels, self._rows)][-_UNDO:]
        self.labels, self._rows = labels, rows
        self.version += 1

    def _labels_with(self, label: str) -> tuple[str, ...]:
        if label not in self.labels and len(self.labels) >= self.limits.max_classes:
            raise DataError(f"expected at most {self.limits.max_classes} classes; remove one first")
        return self.labels if label in self.labels else (*self.labels, label)

    def _check_known(self, label: str) -> None:
        if label not in self.labels:
            raise DataError(f"no class is called {label!r}; there are {', '.join(self.labels) or 'none'}")

    def _check_room(self, new: list[Example]) -> None:
        limits = self.limits
        if len(self._rows) + len(new) > limits.max_examples:
            raise DataError(
                f"expected at most {limits.max_examples:,} examples, found {len(self._rows) + len(new):,}; remove "
                "some, or use 'fer embed' and 'fer fit', which have no limit"
            )
        if self.n_bytes + sum(row.n_bytes for row in new) > limits.max_example_bytes:
            raise DataError(
                f"expected at most {limits.max_example_bytes / 1e6:.0f} MB of examples; remove some"
            )


def _jpeg(crop: np.ndarray) -> bytes:
    """A crop as JPEG, at most 224 pixels wide and high."""
    scale = _SIDE / max(crop.shape[:2])
    if scale < 1:
        size_wh = max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale))
        crop = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(
        ".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return content.tobytes()
