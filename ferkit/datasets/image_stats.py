"""What images are, in a few numbers kept so that they are made once, and what a data set is, for people."""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from ferkit.core.console import Progress, map_ahead, n_cores, progress
from ferkit.core.errors import DataError
from ferkit.core.files import Arrays, cached_arrays, fingerprint
from ferkit.core.labels import LabelSet
from ferkit.core.style import GRID, INK, MUTED, SERIES, drawable_names, drawable_text, set_fonts
from ferkit.datasets.archives import ArraySource
from ferkit.datasets.dataset import Dataset, FileSource, Sample, left_out_counts, map_images, why_unread
from ferkit.datasets.export import attribute_names
from ferkit.datasets.images import ImageHeader, read_header, resized
from ferkit.datasets.tables import SOURCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 48
"""Width and height of a thumbnail, in pixels."""

COLOR_SIDE = 12
"""The same of what is kept of the colours."""

_FORMAT = 2
_ROWS = 2048
"""Images a file of the cache: the most that an interrupt can lose."""

_COLUMNS = ("content", "pixels", "thumbs", "colors", "size_wh", "contrast", "sharpness")


@dataclass(frozen=True)
class ImageStats:
    """What ``n`` images are, row by row in the order of the data set; 2.8 kB an image.

    Attributes:
        content: (n,) S32, digest of the file's bytes; empty where it could not be read.
        pixels: (n,) S32, digest of size and pixels; empty where it could not be decoded.
        thumbs: uint8 (n, SIDE, SIDE), gray, the whole image stretched; zeros where it could not be decoded.
        colors: int8 (n, COLOR_SIDE, COLOR_SIDE, 2), a* and b* of CIELAB, likewise.
        size_wh: int32 (n, 2), pixels.
        contrast: float32 (n,), standard deviation of the thumbnail's gray levels, 0..128.
        sharpness: float32 (n,), standard deviation of the Laplacian of the image at ``SIDE`` pixels, over
            its contrast.
        errors: row number to the reason why there is no image.
    """

    content: np.ndarray
    pixels: np.ndarray
    thumbs: np.ndarray
    colors: np.ndarray
    size_wh: np.ndarray
    contrast: np.ndarray
    sharpness: np.ndarray
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, rows: np.ndarray) -> "ImageStats":
        """The rows at these positions."""
        at = {int(row): i for i, row in enumerate(rows)}
        errors = {at[row]: reason for row, reason in self.errors.items() if row in at}
        return ImageStats(**{name: getattr(self, name)[rows] for name in _COLUMNS}, errors=errors)

    def joined(self, other: "ImageStats") -> "ImageStats":
        """These rows and then those of ``other``."""
        errors = {**self.errors, **{row + len(self): reason for row, reason in other.errors.items()}}
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS}
        return ImageStats(**columns, errors=errors)

    @property
    def digest(self) -> str:
        """Of all the images' pixels, in their order."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


def image_stats(dataset: Dataset, cache_dir: Path | None = None, *, workers: int | None = None) -> ImageStats:
    """Look at every image once.

    Args:
        dataset: the images.
        cache_dir: where what was seen is kept, in ``images/``; images that have not been touched since are
            not read again. None keeps nothing.
        workers: threads that read; one a core if None.

    Raises:
        FerkitError: the cache cannot be written.
    """

    def file_of(rows: np.ndarray) -> Path | None:
        if cache_dir is None:
            return None
        return cache_dir / "pictures" / f"{_key(dataset, [dataset.samples[row] for row in rows])}.npz"

    joined = cached_rows(
        len(dataset),
        _ROWS,
        f"reading {dataset.name}",
        file_of,
        functools.partial(_look, dataset, workers),
        _fits,
    )
    reasons = joined.pop("errors")
    return ImageStats(**joined, errors={int(i): str(reasons[i]) for i in np.flatnonzero(reasons != "")})


def content_digest(content: bytes) -> str:
    """What tells contents apart, 32 letters."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def cached_rows(
    n: int,
    size: int,
    doing: str,
    file_of: Callable[[np.ndarray], Path | None],
    make: Callable[[np.ndarray, Progress], Arrays],
    fits: Callable[[np.ndarray, Arrays], bool],
    unit: str = "images",
) -> dict[str, np.ndarray]:
    """Make arrays for ``n`` rows part by part, each part kept in a file of its own: an interrupt loses one at most.

    Args:
        n: how many rows there are, 1 or more.
        size: rows of a part.
        doing, unit: what is done and counted, for the progress that is shown.
        file_of: where the part of these rows is kept; None keeps nothing.
        make: makes the part of these rows, and counts them.
        fits: whether what a file held is the part of these rows.

    Returns:
        The arrays of all parts, one after the other.

    Raises:
        FerkitError: a file cannot be written.
    """
    parts = []
    with progress(doing, n, unit=unit) as shown:
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            part, was_there = cached_arrays(
                file_of(rows), functools.partial(make, rows, shown), functools.partial(fits, rows)
            )
            if was_there:
                shown.update(len(rows))
            parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _key(dataset: Dataset, samples: list[Sample]) -> str:
    stamps = []
    for sample in samples:
        try:
            stamp = dataset.source.stamp(sample.path)
            stamps.append([sample.path, stamp.size, stamp.changed_ns])
        except OSError:
            stamps.append([sample.path, -1, -1])
    return fingerprint([_FORMAT, SIDE, str(dataset.root.resolve()), stamps])[:32]


def _look(dataset: Dataset, workers: int | None, rows: np.ndarray, shown: Progress) -> Arrays:
    n = len(rows)
    samples = [dataset.samples[row] for row in rows]
    part = {
        "content": np.zeros(n, "S32"),
        "pixels": np.zeros(n, "S32"),
        "thumbs": np.zeros((n, SIDE, SIDE), np.uint8),
        "colors": np.zeros((n, COLOR_SIDE, COLOR_SIDE, 2), np.int8),
        "size_wh": np.zeros((n, 2), np.int32),
        "contrast": np.zeros(n, np.float32),
        "sharpness": np.zeros(n, np.float32),
    }
    reasons = [""] * n
    see = functools.partial(_see, dataset)
    for i, (image, reason) in enumerate(map_ahead(see, samples, workers=workers)):
        for name, value in image.items():
            part[name][i] = value
        reasons[i] = reason
        shown.update(1, failures=bool(reason))
    return {**part, "errors": np.array(reasons, np.str_)}


def _see(dataset: Dataset, sample: Sample) -> tuple[dict[str, object], str]:
    """What the columns get, and the reason if there is no image."""
    seen: dict[str, object] = {}
    try:
        content = dataset.source.read(sample.path)
        seen["content"] = content_digest(content)
        rgb = dataset.source.decode(content)
    except (DataError, OSError) as error:
        return seen, why_unread(error)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    thumb = resized(gray, (SIDE, SIDE))
    contrast = float(thumb.std())
    seen |= {
        "pixels": content_digest(np.array(rgb.shape, np.int64).tobytes() + rgb.tobytes()),
        "thumbs": thumb,
        "colors": _colors(rgb),
        "size_wh": (rgb.shape[1], rgb.shape[0]),
        "contrast": contrast,
        "sharpness": float(cv2.Laplacian(thumb, cv2.CV_32F).std()) / max(contrast, 1.0),
    }
    return seen, ""


def _colors(rgb: np.ndarray) -> np.ndarray:
    small = cv2.resize(rgb, (COLOR_SIDE, COLOR_SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.clip(np.rint(lab[..., 1:]), -127, 127).astype(np.int8)


def _fits(rows: np.ndarray, part: Arrays) -> bool:
    return part.keys() == {*_COLUMNS, "errors"} and all(len(column) == len(rows) for column in part.values())


LOOKED_AT = 1000
"""Images whose headers are read, unless all are asked for."""
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
        n_unknown: images of nobody known.
        fewest, median, most: images a person.
        in_several_parts: persons with images in more than one of train, val and test.
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
    """What images have in one attribute.

    Attributes:
        n: images that have it.
        n_values: different values.
        range: smallest, mean and largest value where all are numbers; else None.
        counts: images by value, the most frequent first; empty for numbers and where there are more than twelve.
    """

    n: int
    n_values: int
    range: tuple[float, float, float] | None
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """A data set in figures.

    Attributes:
        name, root: of the data set.
        n: images.
        counts: images by class, source and part; empty texts where unknown.
        persons: who is shown.
        n_boxes: images with the box of a face.
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
        """Images by some of class (0), source (1) and part (2), sorted."""
        found: Counter[tuple[str, ...]] = Counter()
        for key, n in self.counts.items():
            found[tuple(key[axis] for axis in axes)] += n
        return dict(sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["root"] = str(self.root)
        values["counts"] = [
            {"class": cls or None, "source": source or None, "split": part or None, "n": n}
            for (cls, source, part), n in sorted(self.counts.items())
        ]
        values["headers"]["sizes_wh"] = [[*size, n] for size, n in self.headers.sizes_wh.items()]
        return values


def summarize(dataset: Dataset, *, everything: bool = False, workers: int | None = None) -> Summary:
    """Count, and look at the headers of 1,000 images spread over the data set, or of all.

    Args:
        dataset: labelled or not.
        everything: look at every header: a file that cannot be read is found for sure.
        workers: threads that read; two a core if None, since they wait for the disk.
    """
    counts = Counter((s.label or "", s.attributes.get(SOURCE, ""), s.split or "") for s in dataset.samples)
    names = [name for name in attribute_names(dataset.samples) if name != SOURCE]
    return Summary(
        dataset.name,
        dataset.root,
        len(dataset),
        dict(counts),
        _persons(dataset),
        sum(sample.box is not None for sample in dataset.samples),
        {name: _values(dataset, name) for name in names},
        _headers(dataset, everything, workers),
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
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():  # texts, or "nan" among numbers
        counts = dict(found.most_common()) if len(found) <= _MANY else {}
        return Values(found.total(), len(found), None, counts)
    mean = float(np.average(numbers, weights=list(found.values())))
    return Values(found.total(), len(found), (float(numbers.min()), mean, float(numbers.max())), {})


def _headers(dataset: Dataset, everything: bool, workers: int | None) -> Headers:
    n = len(dataset) if everything else min(len(dataset), LOOKED_AT)
    positions = np.unique(np.linspace(0, len(dataset) - 1, n).astype(int)).tolist()
    sizes: Counter[tuple[int, int]] = Counter()
    channels: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    n_bytes = 0

    def look(sample: Sample) -> tuple[ImageHeader, int]:
        return header_of(dataset, sample), dataset.source.stamp(sample.path).size

    samples = [dataset.samples[position] for position in positions]
    workers = workers or 2 * n_cores()  # they wait for the disk
    for _, (header, length) in map_images(look, samples, unreadable, "looking", workers):
        sizes[header.size_wh] += 1
        channels[_CHANNELS.get(header.mode, "colour")] += 1
        formats[header.format] += 1
        n_bytes += length
    return Headers(
        len(samples),
        dict(sizes.most_common()),
        dict(channels.most_common()),
        dict(formats.most_common()),
        n_bytes,
        tuple(unreadable),
    )


def header_of(dataset: Dataset, sample: Sample) -> ImageHeader:
    """What an image's file says of it, or its array.

    Raises:
        ImageError: it is no image.
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


_MOST = 30
_NONE = "unknown"


def plot_summary(description: Summary, language: str | None = None) -> "Figure":
    """Images by class, in colours by part and by source where there are several, and the sizes of the files.

    Args:
        description: of the data set.
        language: ``en`` or ``ko`` for the names of classes; None leaves them unchanged, or takes English
            where no font can draw them.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = [cls for (cls,) in description.by(0)]
    names = _names(classes, language)
    panels = [("by part", 2)] if len(description.by(2)) > 1 or len(description.by(1)) < 2 else []
    panels += [("by source", 1)] if len(description.by(1)) > 1 else []
    height = 1.5 + 0.32 * max(4, min(len(classes), _MOST))
    size = (10, height * len(panels) + 2.6)
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels) + 1, 1, height_ratios=[height] * len(panels) + [2.2])
    for axes, (title, axis) in zip(rows, panels, strict=False):
        _classes(axes, description, classes[:_MOST], names[:_MOST], axis, title)
    _sizes(rows[-1], description)
    persons = f", {description.persons.n:,} persons" if description.persons.n else ""
    title = f"{description.name}: {description.n:,} images{persons}"
    figure.suptitle(drawable_text(title), x=0.01, ha="left", fontsize=14, color=INK)
    set_fonts(figure)
    return figure


def _classes(
    axes: "Axes", description: Summary, classes: list[str], names: list[str], axis: int, title: str
) -> None:
    counts = description.by(0, axis)
    values = [value for (value,) in description.by(axis)]
    if axis == 2:
        values.sort(key=lambda part: ("train", "val", "test").index(part) if part else 3)
    at, left = np.arange(len(classes)), np.zeros(len(classes))
    for i, value in enumerate(values):
        width = np.array([counts.get((cls, value), 0) for cls in classes], float)
        colour = SERIES[(i + 3 * (axis == 1)) % len(SERIES)]  # a source is no part
        axes.barh(at, width, left=left, color=colour, height=0.72, label=value or _NONE)
        left += width
    for y, total in enumerate(left.tolist()):
        axes.text(total, y, f" {int(total):,}", va="center", fontsize=9, color=MUTED)
    axes.set_yticks(at, names)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(0, left.max() * 1.12)
    title = f"Images of each class, {title}" if len(values) > 1 else "Images of each class"
    axes.set_title(drawable_text(title), loc="left", fontsize=11, color=INK)
    if len(values) > 1:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _plain(axes, "x")
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _sizes(axes: "Axes", description: Summary) -> None:
    headers = description.headers
    sides = np.repeat([max(size) for size in headers.sizes_wh], list(headers.sizes_wh.values()))
    title = f"Longer side of {len(sides):,} files looked at, pixels"
    if headers.unreadable:
        title += f"; {len(headers.unreadable):,} more could not be read"
    axes.set_title(drawable_text(title), loc="left", fontsize=11, color=INK)
    if not len(sides):
        axes.set_axis_off()
        return
    values, counts = np.unique(sides, return_counts=True)
    if len(values) <= 8:
        at = np.arange(len(values))
        axes.bar(at, counts, 0.6, color=SERIES[0])
        axes.set_xticks(at, [f"{value:,}" for value in values])
        axes.set_xlim(-1, max(len(values), 5))
    else:
        bins = np.geomspace(values[0] * 0.98, values[-1] * 1.02, 41)
        axes.hist(sides, bins.tolist(), color=SERIES[0])
        axes.set_xscale("log")
        ticks = [t for t in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if bins[0] <= t <= bins[-1]]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
    _plain(axes, "y")
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _names(classes: list[str], language: str | None) -> list[str]:
    named = [cls for cls in classes if cls]
    if named:
        named = list(drawable_names(LabelSet(tuple(named)), language or "en"))
    return [_NONE, *named] if "" in classes else named


def _plain(axes: "Axes", grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, linewidth=0.7)
    axes.tick_params(length=0, labelsize=9)
