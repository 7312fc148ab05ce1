"""What a data set consists of: counts, persons, sizes, and what cannot be read."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.errors import ImageError
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.datasets.arrays import ArraySource
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource, left_out_counts
from ferkit.datasets.images import ImageHeader, read_header
from ferkit.datasets.manifest import SOURCE, attribute_names

LOOKED_AT = 1000
"""Pictures whose headers are read, unless all are asked for."""
_CHANNELS = {
    **dict.fromkeys(("1", "L", "I", "F", "I;16", "I;16B", "I;16L"), "gray"),
    **{"LA": "gray with transparency", "RGBA": "colour with transparency", "CMYK": "CMYK"},
}
"""Pillow's modes in words; all others are colour."""
_MANY = 12


@dataclass(frozen=True)
class Persons:
    """Who is shown.

    Attributes:
        n: different persons.
        n_unknown: pictures of nobody known.
        fewest, median, most: pictures a person.
        in_several_parts: persons with pictures in more than one of train, val and test.
    """

    n: int
    n_unknown: int
    fewest: int
    median: float
    most: int
    in_several_parts: int


@dataclass(frozen=True)
class Headers:
    """What the files say of themselves, without decoding them.

    Attributes:
        n: files looked at.
        sizes_wh: number of files by width and height, the most frequent first.
        channels: number of files by kind of colour.
        formats: number of files by format.
        n_bytes: of all files looked at.
        unreadable: path and reason of the others.
    """

    n: int
    sizes_wh: Mapping[tuple[int, int], int]
    channels: Mapping[str, int]
    formats: Mapping[str, int]
    n_bytes: int
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Values:
    """What pictures have in one attribute.

    Attributes:
        n: pictures that have it.
        n_values: different values.
        range: smallest, mean and largest value where all are numbers; else None.
        counts: pictures by value, the most frequent first; empty for numbers and where there are more than twelve.
    """

    n: int
    n_values: int
    range: tuple[float, float, float] | None
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Description:
    """A data set in figures.

    Attributes:
        name, root: of the data set.
        n: pictures.
        counts: pictures by class, source and part; empty texts where unknown.
        persons: who is shown.
        n_boxes: pictures with the box of a face.
        attributes: by name.
        headers: sizes and colours.
        left_out: files or rows that were found and not taken, by reason.
    """

    name: str
    root: Path
    n: int
    counts: Mapping[tuple[str, str, str], int]
    persons: Persons
    n_boxes: int
    attributes: Mapping[str, Values]
    headers: Headers
    left_out: Mapping[str, int]

    def by(self, *axes: int) -> dict[tuple[str, ...], int]:
        """Pictures by some of class (0), source (1) and part (2), sorted."""
        found: Counter[tuple[str, ...]] = Counter()
        for key, n in self.counts.items():
            found[tuple(key[axis] for axis in axes)] += n
        return dict(sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [
            {"class": cls or None, "source": source or None, "split": part or None, "n": n}
            for (cls, source, part), n in sorted(self.counts.items())
        ]
        headers = self.headers
        return {
            "name": self.name,
            "root": str(self.root),
            "n": self.n,
            "counts": rows,
            "persons": vars(self.persons),
            "n_boxes": self.n_boxes,
            "left_out": dict(self.left_out),
            "attributes": {name: vars(values) for name, values in self.attributes.items()},
            "headers": {
                "n": headers.n,
                "sizes_wh": [[*size, n] for size, n in headers.sizes_wh.items()],
                "channels": dict(headers.channels),
                "formats": dict(headers.formats),
                "n_bytes": headers.n_bytes,
                "unreadable": [list(entry) for entry in headers.unreadable],
            },
        }


def describe(
    dataset: Dataset, *, everything: bool = False, workers: int | None = None, progress: Progress
) -> Description:
    """Count, and look at the headers of 1,000 pictures spread over the data set, or of all.

    Args:
        dataset: labelled or not.
        everything: look at every header: a file that cannot be read is found for sure.
        workers: threads that read; two a core if None, since they wait for the disk.
        progress: is told of every header.
    """
    counts = Counter((s.label or "", s.attributes.get(SOURCE, ""), s.split or "") for s in dataset.samples)
    names = [name for name in attribute_names(dataset.samples) if name != SOURCE]
    return Description(
        dataset.name,
        dataset.root,
        len(dataset),
        dict(counts),
        _persons(dataset),
        sum(sample.box is not None for sample in dataset.samples),
        {name: _values(dataset, name) for name in names},
        _headers(dataset, everything, workers, progress),
        left_out_counts(dataset.left_out),
    )


def _persons(dataset: Dataset) -> Persons:
    parts: dict[str, set[str | None]] = {}
    counts: Counter[str] = Counter()
    for sample in dataset.samples:
        if sample.group is not None:
            counts[sample.group] += 1
            parts.setdefault(sample.group, set()).add(sample.split)
    sizes = sorted(counts.values()) or [0]
    several = sum(len(found) > 1 for found in parts.values())
    n_unknown = len(dataset) - counts.total()
    return Persons(len(counts), n_unknown, sizes[0], float(np.median(sizes)), sizes[-1], several)


def _values(dataset: Dataset, name: str) -> Values:
    found = Counter(s.attributes[name] for s in dataset.samples if name in s.attributes)
    try:
        numbers = np.array([float(value) for value in found])
        mean = float(np.average(numbers, weights=list(found.values())))
        low, high = float(numbers.min()), float(numbers.max())
    except ValueError:
        counts = dict(found.most_common()) if len(found) <= _MANY else {}
        return Values(found.total(), len(found), None, counts)
    return Values(found.total(), len(found), (low, mean, high), {})


def _headers(dataset: Dataset, everything: bool, workers: int | None, progress: Progress) -> Headers:
    n = len(dataset) if everything else min(len(dataset), LOOKED_AT)
    positions = np.unique(np.linspace(0, len(dataset) - 1, n).astype(int)).tolist()
    sizes: Counter[tuple[int, int]] = Counter()
    channels: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    n_bytes = 0

    def look(position: int) -> tuple[Sample, ImageHeader | None, int, str]:
        sample = dataset.samples[position]
        try:
            return sample, header_of(dataset, sample), dataset.source.stamp(sample.path).size, ""
        except ImageError as error:
            return sample, None, 0, str(error)
        except OSError as error:
            return sample, None, 0, f"cannot be read: {error.strerror or error}"

    workers = workers or 2 * (os.cpu_count() or 1)
    progress.start(len(positions))
    for sample, header, length, reason in map_ahead(look, positions, workers=workers, ahead=16 * workers):
        if header is None:
            unreadable.append((sample.path, reason))
        else:
            sizes[header.size_wh] += 1
            channels[_CHANNELS.get(header.mode, "colour")] += 1
            formats[header.format] += 1
            n_bytes += length
        progress.update(1, failures=header is None)
    return Headers(
        len(positions),
        dict(sizes.most_common()),
        dict(channels.most_common()),
        dict(formats.most_common()),
        n_bytes,
        tuple(unreadable),
    )


def header_of(dataset: Dataset, sample: Sample) -> ImageHeader:
    """What a picture's file says of it, or its array.

    Raises:
        ImageError: it is no picture.
        OSError: it cannot be read.
    """
    source = dataset.source
    if isinstance(source, ArraySource):
        height, width = source.images.shape[1:3]
        gray = source.images.ndim == 3 or source.images.shape[3] == 1
        return ImageHeader((width, height), (width, height), 1, "array", "L" if gray else "RGB")
    if isinstance(source, FileSource):
        with source.file(sample.path).open("rb") as file:
            return read_header(file)
    return read_header(source.read(sample.path))
