"""The loop of ``fer crop``: plan, crop what is missing, then write the tables and the contact sheets."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError
from ferkit.core.parallel import map_ahead
from ferkit.core.progress import progress
from ferkit.core.protocols import FaceDetector
from ferkit.datasets.annotations.annotated import Annotated
from ferkit.datasets.files import FileSource
from ferkit.faces.crop_run.journal import FaceRecord, Journal, PictureRecord, open_journal
from ferkit.faces.crop_run.one import crop_picture
from ferkit.faces.crop_run.outcome import Outcome, Status
from ferkit.faces.crop_run.plan import PlannedPicture, plan_crops
from ferkit.faces.crop_run.settings import CropRunSettings
from ferkit.faces.crop_run.sheets import write_sheets
from ferkit.faces.crop_run.tables import write_tables
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.detectors import YuNetDetector, open_detector

_USUAL_SCORE = 0.6
"""Faces from here on are known to the detector even where more is asked for, so that they are listed as doubtful."""


@dataclass(frozen=True)
class CropSummary:
    """What a run did.

    Attributes:
        n_pictures: of the data set.
        n_done: pictures that this run read.
        n_crops: crops in the output folder.
        n_removed: crops of earlier runs whose pictures are gone or have other names now.
        statuses: faces and pictures by what became of them, over all runs.
        table: the data set of the crops, that every command reads.
        report: every face and picture with its reason.
        sheets: contact sheets, one a class, and one of what was left out.
    """

    n_pictures: int
    n_done: int
    n_crops: int
    n_removed: int
    statuses: Mapping[str, int]
    table: Path
    report: Path
    sheets: tuple[Path, ...]


@dataclass(frozen=True)
class _Result:
    record: PictureRecord
    files: tuple[tuple[str, bytes], ...]


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
        annotated: the pictures, with the boxes that are known.
        out: the output folder; new, empty, or one of an earlier run with the same settings.
        settings: how.
        weights: the detector's file, where it needs one.
        workers: threads; one a core if None.
        redo: throw away what was made with other settings.

    Raises:
        DataError: the pictures lie in no files of their own, ``out`` holds something else or is part of the data, or
            not one picture gave a crop.
        SettingsMismatchError: ``out`` was made with other settings.
        WeightsError, DependencyError: the detector cannot be opened.
        FerkitError: the disk is full, or ``out`` cannot be written or is being written by somebody else.
    """
    source = annotated.dataset.source
    if not isinstance(source, FileSource):
        raise DataError(
            f"the pictures of {annotated.dataset.root} lie inside that one file and are crops already; "
            "'fer dataset export' writes them out"
        )
    _refuse_within_data(annotated, source.root, out)
    plan = plan_crops(annotated)
    opener = functools.partial(_open_detector, settings, weights)
    worker = _Worker(settings, source, FaceCropper(settings.faces, opener, settings.size_wh, "stretch"))
    with open_journal(out, settings, annotated.dataset.root, redo=redo) as journal:
        todo = [picture for picture in plan if not journal.is_current(picture.path, worker.key(picture))]
        workers = workers or os.cpu_count() or 1
        with progress("cropping", len(plan), done=len(plan) - len(todo)) as shown:
            for result in map_ahead(worker, todo, workers=workers, ahead=4 * workers):
                for output, content in result.files:
                    journal.write_crop(output, content)
                journal.add(result.record)
                shown.update(1, failures=0 if result.files else 1)
        n_removed = journal.keep_only(picture.path for picture in plan)
        return _finish(annotated, plan, journal, source, len(todo), n_removed)


class _Worker:
    """What one thread does with one picture; nothing is written here."""

    def __init__(self, settings: CropRunSettings, source: FileSource, cropper: FaceCropper) -> None:
        self._settings, self._source, self._cropper = settings, source, cropper

    def __call__(self, picture: PlannedPicture) -> _Result:
        key = self.key(
            picture
        )  # before the picture is read: if it changes meanwhile, it is read again next time
        try:
            cuts = crop_picture(self._source.read(picture.path), picture.marks, self._cropper, self._settings)
        except (ImageError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            return _Result(
                PictureRecord(picture.path, key, (FaceRecord(Outcome(Status.UNREADABLE, reason)),)), ()
            )
        faces, files = [], []
        for number, cut in enumerate(cuts):
            if cut.rgb is None:
                faces.append(FaceRecord(cut.outcome))
                continue
            output = f"{picture.face(cut.outcome.mark, number).stem}.{self._settings.format}"
            content = encode(cut.rgb, self._settings)
            files.append((output, content))
            faces.append(FaceRecord(cut.outcome, output, len(content)))
        return _Result(PictureRecord(picture.path, key, tuple(faces)), tuple(files))

    def key(self, picture: PlannedPicture) -> str:
        """Changes when anything that the crops of a picture depend on may have; empty if it cannot be read."""
        try:
            stamp = self._source.stamp(picture.path)
        except OSError:
            return ""
        parts = (stamp, [face.stem for face in picture.faces], picture.marks)
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
    quality = {
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, settings.quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, settings.quality],
        "png": [],
    }
    _, content = cv2.imencode(f".{settings.format}", pixels, quality[settings.format])
    return content.tobytes()


def _refuse_within_data(annotated: Annotated, root: Path, out: Path) -> None:
    """Crops among the pictures would be pictures of the next run."""
    resolved, data = out.resolve(), root.resolve()
    folders = {sample.path.rpartition("/")[0] for sample in annotated.dataset.samples}
    with_pictures = {Path(os.path.normpath(data / folder)) for folder in folders}
    inside = annotated.dataset.root.is_dir() and (resolved == data or data in resolved.parents)
    if inside or any(folder.is_relative_to(resolved) for folder in with_pictures):
        raise DataError(
            f"expected a folder apart from the pictures, found {out} and {root}; choose one beside it"
        )


def _finish(
    annotated: Annotated,
    plan: list[PlannedPicture],
    journal: Journal,
    source: FileSource,
    n_done: int,
    n_removed: int,
) -> CropSummary:
    table, report = write_tables(annotated, plan, journal)
    statuses = Counter(str(face.outcome.status) for r in journal.records.values() for face in r.faces)
    if not journal.outputs:
        first = next(face.outcome.reason for r in journal.records.values() for face in r.faces)
        raise DataError(
            f"none of the {len(plan)} pictures gave a crop; the first: {first}; the others' reasons are in {report}"
        )
    sheets = write_sheets(journal, table, source)
    return CropSummary(
        len(plan),
        n_done,
        len(journal.outputs),
        n_removed,
        dict(statuses.most_common()),
        table,
        report,
        sheets,
    )
