"""Data sets written as one file: ``.npz`` for NumPy, ``.parquet`` for pandas and Hugging Face."""

import itertools
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from ferkit.core.errors import DataError, DependencyError, ImageError
from ferkit.core.files import write_atomically
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import Progress
from ferkit.datasets.arrays import ArraySource
from ferkit.datasets.columns import BOX
from ferkit.datasets.dataset import Dataset, Sample
from ferkit.datasets.files import FileSource
from ferkit.datasets.manifest import attribute_names, relocated

Failures = tuple[tuple[str, str], ...]
_ROWS = 512


def export_npz(
    dataset: Dataset,
    out: Path,
    *,
    size_wh: tuple[int, int] | None = None,
    gray: bool = False,
    progress: Progress,
) -> Failures:
    """Write ``images`` uint8 (n, H, W[, 3]), ``labels``, and ``split`` and ``groups`` where known; no more of it is in
    memory at a time than a few hundred pictures.

    Args:
        dataset: pictures of one size, unless ``size_wh`` is given.
        out: the ``.npz`` file.
        size_wh: to resize all pictures to, without regard to their proportions.
        gray: one channel instead of three.
        progress: is told of every picture.

    Returns:
        Path and reason of pictures that could not be read, which are left out.

    Raises:
        DataError: pictures of several sizes, or none that can be read.
        FerkitError: the disk is full.
    """
    failures: list[tuple[str, str]] = []
    kept: list[Sample] = []

    def load(sample: Sample) -> tuple[Sample, np.ndarray | str]:
        try:
            return sample, _fitted(dataset.read(sample), size_wh, gray)
        except (ImageError, OSError) as error:
            return sample, str(error)

    def write(file: IO[bytes]) -> None:
        progress.start(len(dataset))
        shape: tuple[int, ...] | None = None
        # How many can be read is known at the end but stands at the beginning of an array.
        with tempfile.TemporaryFile(dir=out.parent) as pixels:
            for sample, image in map_ahead(load, dataset.samples, workers=4, ahead=_ROWS):
                progress.update(1, failures=isinstance(image, str))
                if isinstance(image, str):
                    failures.append((sample.path, image))
                    continue
                shape = shape or image.shape
                if image.shape != shape:
                    raise DataError(
                        f"expected pictures of one size, found {_size(shape)} and {_size(image.shape)} "
                        f"({sample.path}); resize them with --size, or cut faces out first with 'fer crop'"
                    )
                pixels.write(image.tobytes())
                kept.append(sample)
            if shape is None:
                raise DataError(
                    f"no picture of {dataset.root} can be read; the first: {': '.join(failures[0])}"
                )
            pixels.seek(0)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                with archive.open("images.npy", "w", force_zip64=True) as array:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(kept), *shape)}
                    np.lib.format.write_array_header_2_0(array, header)
                    shutil.copyfileobj(pixels, array, 1 << 20)
                for name, column in _columns(kept).items():
                    with archive.open(f"{name}.npy", "w") as array:
                        np.lib.format.write_array(array, np.array(column), allow_pickle=False)

    write_atomically(out, write)
    return tuple(failures)


def export_parquet(dataset: Dataset, out: Path, *, images: bool = False, progress: Progress) -> Failures:
    """Write one row a picture: path, label, split, group, box, attributes; and with ``images`` the files themselves.

    Paths are relative to the folder of ``out``. The column ``image`` is what Hugging Face's ``datasets`` calls an
    Image feature: ``load_dataset("parquet", data_files=…)`` decodes it.

    Returns:
        Path and reason of pictures that could not be read, which are left out.

    Raises:
        DependencyError: pyarrow is not installed.
        DataError: pictures in an array, and no ``images``.
        FerkitError: the disk is full.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DependencyError(
            "writing .parquet needs the package pyarrow; install it with: pip install 'ferkit[parquet]'"
        ) from None
    in_files = isinstance(dataset.source, FileSource)
    if not in_files and not images:
        raise DataError(
            f"the pictures of {dataset.root} have no files to refer to; take them along with --images"
        )
    samples = relocated(dataset, out.parent) if in_files else list(dataset.samples)
    names = attribute_names(samples)
    text, number = pa.string(), pa.float32()
    fields = [(name, text) for name in ("path", "label", "split", "group")]
    fields += [(name, number) for name in BOX] + [(name, text) for name in names]
    features = {name: {"dtype": str(kind), "_type": "Value"} for name, kind in fields}
    if images:
        fields.insert(0, ("image", pa.struct([("bytes", pa.binary()), ("path", text)])))
        features = {"image": {"_type": "Image"}, **features}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=metadata)
    failures: list[tuple[str, str]] = []

    def load(pair: tuple[Sample, Sample]) -> tuple[dict[str, Any], str]:
        old, new = pair
        row = _row(new, names)
        try:
            if images:
                row["image"] = {"bytes": _file(dataset, old), "path": new.path.rpartition("/")[2]}
        except (ImageError, OSError) as error:
            return row, str(error)
        return row, ""

    def write(file: IO[bytes]) -> None:
        progress.start(len(dataset))
        loaded = map_ahead(load, zip(dataset.samples, samples, strict=True), workers=4, ahead=_ROWS)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := list(itertools.islice(loaded, _ROWS)):
                failed = [(row["path"], reason) for row, reason in batch if reason]
                failures.extend(failed)
                rows = [row for row, reason in batch if not reason]
                writer.write_table(pa.Table.from_pylist(rows, schema))
                progress.update(len(batch), failures=len(failed))

    write_atomically(out, write)
    return tuple(failures)


def _row(sample: Sample, names: list[str]) -> dict[str, Any]:
    # Bytes of names that are not UTF-8 cannot stand in a column of text.
    path = sample.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    row: dict[str, Any] = {"path": path, "label": sample.label, "split": sample.split, "group": sample.group}
    row.update(zip(BOX, sample.box or (None,) * 4, strict=True))
    row.update((name, sample.attributes.get(name)) for name in names)
    return row


def _file(dataset: Dataset, sample: Sample) -> bytes:
    if not isinstance(dataset.source, ArraySource):
        return dataset.source.read(sample.path)
    done, content = cv2.imencode(".png", dataset.read(sample)[..., ::-1])
    if not done:
        raise ImageError("it cannot be written as PNG")
    return content.tobytes()


def _fitted(rgb: np.ndarray, size_wh: tuple[int, int] | None, gray: bool) -> np.ndarray:
    image = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if gray else rgb
    if size_wh is None or (image.shape[1], image.shape[0]) == size_wh:
        return image
    shrinks = image.shape[1] >= size_wh[0] and image.shape[0] >= size_wh[1]
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _columns(samples: list[Sample]) -> dict[str, list[str]]:
    columns = {"labels": [s.label or "" for s in samples], "split": [s.split or "" for s in samples],
               "groups": [s.group or "" for s in samples]}  # fmt: skip
    return {name: column for name, column in columns.items() if name == "labels" or any(column)}


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
