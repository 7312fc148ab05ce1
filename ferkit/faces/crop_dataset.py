"""Crop a whole data set: the resumable loop of ``fer crop``, its journal, tables and contact sheets.

The journal gets a line an image, written after its crops, so that a killed run can be gone on with.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ferkit.core.console import map_ahead, progress
from ferkit.core.errors import DataError, FerkitError, ImageError, SettingsMismatchError
from ferkit.core.files import (
    differing_keys,
    exclusive_lock,
    settings_dict,
    why_not_written,
    write_atomically,
    write_csv,
    write_json,
)
from ferkit.core.style import can_draw, open_font
from ferkit.core.types import FaceDetector
from ferkit.datasets.dataset import NO_MEDIA, Dataset, FileSource, Sample
from ferkit.datasets.export import write_manifest
from ferkit.datasets.formats.annotated import Annotated
from ferkit.datasets.images import resized
from ferkit.datasets.tables import read_table
from ferkit.faces.crop_image import (
    SHEETS,
    CropOutcome,
    CropRunSettings,
    LazyImage,
    PlannedImage,
    Status,
    coarsest,
    crop_image,
    folder_name,
    plan_crops,
)
from ferkit.faces.cropping import FaceCropper, square_crop
from ferkit.faces.detectors import YuNetDetector, open_detector

FOLDER = ".crop"
"""Within the output folder; readers of folders pass over names that begin with a dot."""

VERSION = 1


@dataclass(frozen=True, slots=True)
class FaceRecord:
    """One face: what became of it, and the file of its crop with its size in bytes, if there is one."""

    outcome: CropOutcome
    output: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image.

    Attributes:
        path: of its sample.
        key: changes with the image's content, its boxes and its crops' names; empty if it could not be read, so
            that it is tried again.
        faces: one or more.
    """

    path: str
    key: str
    faces: tuple[FaceRecord, ...]

    def line(self) -> bytes:
        faces = [[*asdict(face.outcome).values(), face.output, face.size] for face in self.faces]
        text = json.dumps([self.path, self.key, faces], ensure_ascii=False, separators=(",", ":"))
        # Names that are not UTF-8 stay the bytes they are.
        return text.encode("utf-8", "surrogateescape") + b"\n"

    @staticmethod
    def from_line(line: bytes) -> "ImageRecord":
        path, key, faces = json.loads(line.decode("utf-8", "surrogateescape"))
        records = []
        for status, reason, mark, box, score, sharpness, output, size in faces:
            outcome = CropOutcome(Status(status), reason, mark, box and tuple(box), score, sharpness)
            records.append(FaceRecord(outcome, output, size))
        return ImageRecord(path, key, tuple(records))


@dataclass
class Journal:
    """The records of one output folder; made by :func:`open_journal`.

    Attributes:
        out: the output folder.
        records: by the images' paths, the latest of each.
        outputs: every crop that was ever written and not removed.
    """

    out: Path
    records: dict[str, ImageRecord] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)

    def is_current(self, path: str, key: str) -> bool:
        """Whether an image's crops are there, as this key would make them."""
        record = self.records.get(path)
        return record is not None and record.key == key and all(self._is_whole(f) for f in record.faces)

    def write_crop(self, output: str, content: bytes) -> None:
        """Put a crop in its place, whole or not at all.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        path, temporary = self.out / output, self.out / FOLDER / "unfinished"
        try:
            temporary.write_bytes(content)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without waiting for the disk: after a power cut the file's size tells, and it is made again.
            os.replace(temporary, path)
        except OSError as error:
            raise FerkitError(why_not_written(path, error)) from error

    def add(self, record: ImageRecord) -> None:
        """Remember an image, whose crops are written.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        try:
            with (self.out / FOLDER / "journal").open("ab") as file:
                file.write(record.line())
        except OSError as error:
            raise FerkitError(why_not_written(self.out / FOLDER / "journal", error)) from error
        self._take(record)

    def keep_only(self, paths: Iterable[str]) -> int:
        """Forget all images but these, and remove crops that none of these has; gives how many were removed.

        Raises:
            FerkitError: the disk is full, or the folder cannot be written.
        """
        wanted = set(paths)
        kept = {path: record for path, record in self.records.items() if path in wanted}
        valid = {face.output for record in kept.values() for face in record.faces if face.output}
        stale = [self.out / output for output in sorted(self.outputs - valid)]
        for file in stale:
            file.unlink(missing_ok=True)
        if stale or len(kept) < len(self.records):
            lines = b"".join(record.line() for record in kept.values())
            write_atomically(self.out / FOLDER / "journal", lambda file: file.write(lines))
        self.records, self.outputs = kept, valid
        return len(stale)

    def _is_whole(self, face: FaceRecord) -> bool:
        if face.output is None:
            return True
        try:
            return (self.out / face.output).stat().st_size == face.size
        except OSError:
            return False

    def _take(self, record: ImageRecord) -> None:
        self.records[record.path] = record
        self.outputs.update(face.output for face in record.faces if face.output)

    def _load(self) -> None:
        file = self.out / FOLDER / "journal"
        content = file.read_bytes() if file.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a line that a kill tore
            os.truncate(file, whole)
        for line in content[:whole].splitlines():
            with contextlib.suppress(ValueError, TypeError, IndexError):  # a power cut may leave zeros
                self._take(ImageRecord.from_line(line))


@contextlib.contextmanager
def open_journal(
    out: Path, settings: CropRunSettings, source: Path, *, redo: bool = False
) -> Iterator[Journal]:
    """The journal of ``out``, which nobody else writes to meanwhile.

    Args:
        out: an output folder; new, empty, or one that was made by cropping.
        settings: what it was, or will be, made with.
        source: what it is made from.
        redo: where it was made with other settings or from something else, begin again.

    Raises:
        DataError: the folder holds something else.
        SettingsMismatchError: it was made with other settings or from something else.
        FerkitError: it cannot be written.
    """
    folder = out / FOLDER
    if out.exists() and not folder.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"expected a new or empty folder, or one that 'fer crop' made, found other files in {out}; choose another"
        )
    with exclusive_lock(folder / "lock", "cropping into"):
        described = {"version": VERSION, "source": str(source.resolve()), **settings_dict(settings)}
        journal = Journal(out)
        try:
            journal._load()
            if redo:
                journal.keep_only(())
            elif (differing := _differences(folder / "settings.json", described)) and journal.records:
                raise SettingsMismatchError(
                    f"the crops in {out} were made with another {', '.join(differing)}; choose another folder, or add "
                    "--redo to make all of them again"
                )
        except OSError as error:
            raise FerkitError(why_not_written(Path(error.filename or folder), error)) from error
        write_json(folder / "settings.json", described)
        yield journal


def _differences(file: Path, described: dict[str, Any]) -> list[str]:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        return ["version"]
    return differing_keys(before, json.loads(json.dumps(described)))


TABLE_COLUMNS = (
    "path", "output", "status", "reason", "left", "top", "right", "bottom", "score", "sharpness", "label",
)  # fmt: skip
ORIGINAL = "original"
"""The attribute of a crop that says which image it was cut from."""


def write_tables(annotated: Annotated, plan: list[PlannedImage], journal: Journal) -> tuple[Path, Path]:
    """Write both into the journal's folder; without any crop there is no ``labels.csv``.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    table, report = journal.out / "labels.csv", journal.out / "crops.csv"
    crops: list[Sample] = []

    def rows() -> Iterator[Sequence[object]]:
        for path, reason in sorted(annotated.problems):
            yield path, "", Status.ANNOTATION.value, reason, *[""] * 7
        for image in plan:
            for number, face in enumerate(journal.records[image.path].faces):
                outcome, planned = face.outcome, image.face(face.outcome.mark, number)
                sample = planned.sample
                reason = "; ".join(filter(None, (outcome.reason, planned.note if face.output else "")))
                yield [
                    image.path, face.output, outcome.status.value, reason, *(outcome.box or [""] * 4),
                    outcome.score, outcome.sharpness, sample.label,
                ]  # fmt: skip
                if face.output is not None:
                    attributes = {**sample.attributes, ORIGINAL: image.path}
                    crops.append(replace(sample, path=face.output, box=None, attributes=attributes))

    write_csv(report, TABLE_COLUMNS, rows())
    if crops:
        write_manifest(table, Dataset(journal.out.name, journal.out, tuple(crops), FileSource(journal.out)))
    else:
        table.unlink(missing_ok=True)
    return table, report


SHEET_COLUMNS, MOST = 12, 96
TILE, GAP, HEAD, FOOT = 96, 4, 40, 16
"""Pixels: side of an image, space between two, height of the heading, and of a line below an image."""

LEFT_OUT = "_left out.jpg"

_SHOWN = (
    Status.FACELESS, Status.SEVERAL, Status.SMALL, Status.DOUBTFUL, Status.BLURRED, Status.NOT_LARGEST,
)  # fmt: skip
"""What is worth a look: the others hold nothing that could be shown."""

Tile = tuple[np.ndarray, str]
"""uint8 RGB (h, w, 3), at most ``TILE`` large, and a word to put below it, empty for none."""

Item = TypeVar("Item")


def write_contact_sheets(journal: Journal, table: Path, source: FileSource) -> tuple[Path, ...]:
    """Write ``contact-sheets/<class>.jpg`` and one of what was left out; sheets of old are replaced.

    Each shows up to 96 images, evenly chosen.

    Args:
        journal: of the run.
        table: the data set of the crops.
        source: the images that were cropped.

    Raises:
        FerkitError: the disk is full or the folder cannot be written.
    """
    folder = journal.out / SHEETS
    write_atomically(folder / NO_MEDIA, lambda file: None)  # sheets are no faces
    sheets: dict[str, Image.Image] = {}
    dataset = read_table(table)
    by_class: dict[str | None, list[Sample]] = {}
    for sample in dataset.samples:
        by_class.setdefault(sample.label, []).append(sample)
    for label, samples in sorted(by_class.items(), key=lambda item: (item[0] is None, item[0] or "")):
        tiles = _tiles(_evenly(samples), lambda sample: (_small(dataset.read(sample)), ""))
        name = f"{folder_name(label) or '_no label'}.jpg"
        sheets[name] = _sheet(label or "no label", f"{len(samples):,} crops", tiles, 0)
    left_out = [
        (record.path, face.outcome)
        for status in _SHOWN
        for record in journal.records.values()
        for face in record.faces
        if face.outcome.status == status
    ]
    if left_out:
        tiles = _tiles(_evenly(left_out), lambda item: (_look(source, *item), item[1].status.value))
        sheets[LEFT_OUT] = _sheet("left out", f"{len(left_out):,} faces and images", tiles, FOOT)
    for name, sheet in sheets.items():
        write_atomically(folder / name, lambda file, sheet=sheet: sheet.save(file, "JPEG", quality=90))  # type: ignore[misc]
    for old in folder.glob("*.jpg"):
        if old.name not in sheets:
            old.unlink()
    return tuple(folder / name for name in sheets)


def _evenly(items: Sequence[Item]) -> list[Item]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, MOST).astype(int))]


def _tiles(items: Sequence[Item], tile: Callable[[Item], Tile]) -> list[Tile]:
    tiles = []
    for item in items:
        try:
            tiles.append(tile(item))
        except (ImageError, OSError):  # it was there a moment ago
            continue
    return tiles


def _look(source: FileSource, path: str, outcome: CropOutcome) -> np.ndarray:
    """A face with some of its surroundings, or the whole image where none was found."""
    image = LazyImage(source.read(path))
    if outcome.box is None:
        return _small(image.within(TILE, 8))
    side = max(outcome.box[2] - outcome.box[0], outcome.box[3] - outcome.box[1])
    rgb = image.at(coarsest(side, TILE))
    return _small(square_crop(rgb, np.array(outcome.box) * (rgb.shape[1] / image.size_wh[0]), margin=0.25))


def _small(rgb: np.ndarray) -> np.ndarray:
    scale = TILE / max(rgb.shape[:2])
    width, height = (max(1, round(side * scale)) for side in rgb.shape[1::-1])
    return resized(rgb, (width, height))


def _sheet(title: str, count: str, tiles: Sequence[Tile], foot: int) -> Image.Image:
    columns, rows = min(SHEET_COLUMNS, max(6, len(tiles))), -(-len(tiles) // SHEET_COLUMNS)
    pitch = TILE + GAP + foot
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, HEAD + rows * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    text = f"{title}   {count}" if can_draw([title]) else count
    draw.text((GAP + 2, HEAD / 2), text, "black", open_font([text], 20), anchor="lm")
    font = open_font([""], 11)
    for i, (rgb, word) in enumerate(tiles):
        left, top = (i % SHEET_COLUMNS) * (TILE + GAP) + GAP, HEAD + (i // SHEET_COLUMNS) * pitch
        height, width = rgb.shape[:2]
        sheet.paste(Image.fromarray(rgb), (left + (TILE - width) // 2, top + (TILE - height) // 2))
        if word:
            draw.text((left + TILE / 2, top + TILE + foot / 2), word, "black", font, anchor="mm")
    return sheet


_USUAL_SCORE = 0.6
"""Faces from here on are known to the detector even where more is asked for, so that they are listed as doubtful."""


@dataclass(frozen=True)
class CropSummary:
    """What a run did.

    Attributes:
        n_images: of the data set.
        n_done: images that this run read.
        n_crops: crops in the output folder.
        n_removed: crops of earlier runs whose images are gone or have other names now.
        statuses: faces and images by what became of them, over all runs.
        table: the data set of the crops, that every command reads.
        report: every face and image with its reason.
        sheets: contact sheets, one a class, and one of what was left out.
    """

    n_images: int
    n_done: int
    n_crops: int
    n_removed: int
    statuses: Mapping[str, int]
    table: Path
    report: Path
    sheets: tuple[Path, ...]


_Result = tuple[ImageRecord, list[tuple[str, bytes]]]
"""What became of an image, and the files of its crops with their content."""


def crop_dataset(
    annotated: Annotated,
    out: Path,
    settings: CropRunSettings,
    *,
    weights: Path | None = None,
    workers: int | None = None,
    redo: bool = False,
) -> CropSummary:
    """Crop what is missing in ``out``. Killed at any moment and run again, it gives the same files.

    Args:
        annotated: the images, with the boxes that are known.
        out: the output folder; new, empty, or one of an earlier run with the same settings.
        settings: how.
        weights: the detector's file, where it needs one.
        workers: threads; one a core if None.
        redo: throw away what was made with other settings.

    Raises:
        DataError: the images lie in no files of their own, ``out`` holds something else or is part of the data, or
            not one image gave a crop.
        SettingsMismatchError: ``out`` was made with other settings.
        WeightsError, DependencyError: the detector cannot be opened.
        FerkitError: the disk is full, or ``out`` cannot be written or is being written by somebody else.
    """
    source = annotated.dataset.source
    if not isinstance(source, FileSource):
        raise DataError(
            f"the images of {annotated.dataset.root} lie inside that one file and are crops already; "
            "'fer dataset export' writes them out"
        )
    _refuse_within_data(annotated, source.root, out)
    plan = plan_crops(annotated)
    opener = functools.partial(_open_detector, settings, weights)
    worker = _Worker(settings, source, FaceCropper(settings.faces, opener, settings.size_wh, "stretch"))
    with open_journal(out, settings, annotated.dataset.root, redo=redo) as journal:
        todo = [image for image in plan if not journal.is_current(image.path, worker.key(image))]
        with progress("cropping", len(plan), done=len(plan) - len(todo)) as shown:
            for record, files in map_ahead(worker, todo, workers=workers):
                for output, content in files:
                    journal.write_crop(output, content)
                journal.add(record)
                shown.update(1, failures=0 if files else 1)
        n_removed = journal.keep_only(image.path for image in plan)
        table, report = write_tables(annotated, plan, journal)
        outcomes = [face.outcome for record in journal.records.values() for face in record.faces]
        if not journal.outputs:
            raise DataError(
                f"none of the {len(plan)} images gave a crop; the first: {outcomes[0].reason}; the others' reasons "
                f"are in {report}"
            )
        sheets = write_contact_sheets(journal, table, source)
    statuses = dict(Counter(str(outcome.status) for outcome in outcomes).most_common())
    n_crops = len(journal.outputs)
    return CropSummary(len(plan), len(todo), n_crops, n_removed, statuses, table, report, sheets)


class _Worker:
    """What one thread does with one image; nothing is written here."""

    def __init__(self, settings: CropRunSettings, source: FileSource, cropper: FaceCropper) -> None:
        self._settings, self._source, self._cropper = settings, source, cropper

    def __call__(self, image: PlannedImage) -> _Result:
        key = self.key(image)  # before the image is read: if it changes meanwhile, it is read again next time
        try:
            cuts = crop_image(self._source.read(image.path), image.marks, self._cropper, self._settings)
        except (ImageError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            return ImageRecord(image.path, key, (FaceRecord(CropOutcome(Status.UNREADABLE, reason)),)), []
        faces: list[FaceRecord] = []
        files: list[tuple[str, bytes]] = []
        for number, cut in enumerate(cuts):
            if cut.rgb is None:
                faces.append(FaceRecord(cut.outcome))
                continue
            output = f"{image.face(cut.outcome.mark, number).stem}.{self._settings.format}"
            content = encode(cut.rgb, self._settings)
            files.append((output, content))
            faces.append(FaceRecord(cut.outcome, output, len(content)))
        return ImageRecord(image.path, key, tuple(faces)), files

    def key(self, image: PlannedImage) -> str:
        """Changes when anything that the crops of an image depend on may have; empty if it cannot be read."""
        try:
            stamp = self._source.stamp(image.path)
        except OSError:
            return ""
        parts = (stamp, [face.stem for face in image.faces], image.marks)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _open_detector(settings: CropRunSettings, weights: Path | None) -> FaceDetector:
    name, least = settings.faces.detector, settings.min_score
    if name == "yunet" and weights is not None:
        # It scales down by itself, by default further than was asked for.
        return YuNetDetector(weights, min(_USUAL_SCORE, least or _USUAL_SCORE), settings.detect_size)
    return open_detector(name, weights, None if least is None else min(_USUAL_SCORE, least))


def encode(rgb: np.ndarray, settings: CropRunSettings) -> bytes:
    """The file's bytes of a crop, uint8 RGB (h, w, 3)."""
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY if settings.gray else cv2.COLOR_RGB2BGR)
    key = {"jpg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}.get(settings.format)
    options = [] if key is None else [key, settings.quality]
    _, content = cv2.imencode(f".{settings.format}", pixels, options)
    return content.tobytes()


def _refuse_within_data(annotated: Annotated, root: Path, out: Path) -> None:
    """Crops among the images would be images of the next run."""
    resolved, data = out.resolve(), root.resolve()
    folders = {sample.path.rpartition("/")[0] for sample in annotated.dataset.samples}
    with_images = {Path(os.path.normpath(data / folder)) for folder in folders}
    inside = annotated.dataset.root.is_dir() and (resolved == data or data in resolved.parents)
    if inside or any(folder.is_relative_to(resolved) for folder in with_images):
        raise DataError(
            f"expected a folder apart from the images, found {out} and {root}; choose one next to it"
        )
