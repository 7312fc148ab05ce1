"""WebDataset: tars in which ``0001.jpg`` has its label next to it, in ``0001.cls`` or ``0001.json``."""

import contextlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferkit.core.errors import DataError
from ferkit.datasets.archives import ArchiveSource, list_archive
from ferkit.datasets.dataset import Dataset, Sample, Stamp, class_name, place_name, split_named
from ferkit.datasets.images import decode_image

_SIDECARS = (".cls", ".txt", ".json")
_LABELS = ("label", "emotion", "expression", "class", "cls")
_PERSONS = ("group", "person", "subject", "identity")


@dataclass(frozen=True)
class TarsSource:
    """Images in the tars of a folder; see :class:`ferkit.datasets.dataset.ImageSource`."""

    root: Path
    tagged = True

    def stamp(self, path: str) -> Stamp:
        """Size of the image; time of its tar."""
        return self._within(path)[0].stamp(self._within(path)[1])

    def read(self, path: str) -> bytes:
        """The content of the image."""
        source, inner = self._within(path)
        return source.read(inner)

    def decode(self, content: bytes) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        return decode_image(content)

    def _within(self, path: str) -> tuple[ArchiveSource, str]:
        tar, _, inner = path.partition(".tar/")
        return ArchiveSource(self.root / f"{tar}.tar"), inner


def tars_in(root: Path) -> list[str]:
    """Names of the tars right in a folder or address, sorted; none where most of what lies there is something else."""
    with contextlib.suppress(OSError):  # it is named when it is listed
        paths = root.iterdir()
        some = [path.name for path in itertools.islice(paths, 64)]
        if any(name.endswith(".tar") for name in some):
            some += [path.name for path in paths]
            return _mostly_tars(some)
    return []


def _mostly_tars(found: list[str]) -> list[str]:
    names = sorted(name for name in found if not name.startswith("."))
    tars = [name for name in names if name.endswith(".tar")]
    return tars if tars and len(tars) >= len(names) / 2 else []


def read_webdataset(root: Path, tars: list[str]) -> Dataset:
    """Read tars of samples: the label is what ``.cls``, ``.txt`` or the ``.json`` next to an image says.

    A split is what the name of a tar begins with, as in ``train-0000.tar``.

    Raises:
        DataError: a tar cannot be read, or holds no image.
    """
    samples: list[Sample] = []
    left_out: list[tuple[str, str]] = []
    for tar in tars:
        listing = list_archive(root / tar)
        notes = {path for path, _ in listing.left_out if path.endswith(_SIDECARS)}
        left_out += [(f"{tar}/{path}", reason) for path, reason in listing.left_out if path not in notes]
        split = split_named(tar.rpartition(".")[0].split("-")[0])
        for path in listing.paths:
            label, group = _noted(listing.source, path.rpartition(".")[0], notes)
            samples.append(Sample(f"{tar}/{path}", label, split, group))
    return Dataset(place_name(root), root, tuple(samples), TarsSource(root), tuple(left_out))


def _noted(source: object, key: str, notes: set[str]) -> tuple[str | None, str | None]:
    assert isinstance(source, ArchiveSource)
    label = group = None
    for suffix in _SIDECARS:
        if key + suffix not in notes:
            continue
        text = source.read(key + suffix).decode("utf-8", "replace").strip()
        if suffix != ".json":
            label = label or (class_name(text) if text else None)
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError(f"{key}.json in {source.root} is no JSON") from None
        if isinstance(values, dict):
            label = label or next(
                (class_name(str(values[k])) for k in _LABELS if values.get(k) is not None), None
            )
            group = next((class_name(str(values[k])) for k in _PERSONS if values.get(k) is not None), None)
    return label, group
