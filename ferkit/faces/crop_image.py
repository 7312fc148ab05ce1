"""Crop one image: what is asked, where each crop goes, and what became of it."""

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Literal

import cv2
import numpy as np

from ferkit.core.errors import DataError
from ferkit.core.types import Faces
from ferkit.datasets.dataset import Box, Sample, split_named
from ferkit.datasets.formats.annotated import Annotated
from ferkit.datasets.images import decode_image, read_header
from ferkit.faces.cropping import CropSettings, FaceCropper, fit_to
from ferkit.faces.detectors import sharpness
from ferkit.faces.tracking import box_overlap

FORMATS = ("jpg", "png", "webp")


@dataclass(frozen=True, kw_only=True)
class CropRunSettings:
    """How crops are made. What was cropped with some settings is only gone on with under the same.

    Attributes:
        faces: detector, alignment, margin, and what becomes of images without a face.
        use_boxes: where the data set knows the box, take it instead of a detector's.
        box_frame: ``upright`` boxes are in the image as it is seen; ``stored`` ones in the pixels as stored,
            before the EXIF rotation; ``auto`` decides by the size that the annotations claim, else by where the box
            fits.
        which: of several faces in an image take the ``largest`` or ``all``, or ``skip`` the image.
        detect_size: the detector sees images scaled down to this longer side, in pixels.
        min_size: faces whose box has a shorter side below it are left out, in pixels of the image.
        min_score: faces that the detector is less sure of are left out, 0..1; None for the detector's own limit.
        min_sharpness: crops that are more blurred are left out, 0..1; see :func:`ferkit.faces.detectors.sharpness`.
        size_wh: of the crops, in pixels.
        gray: one channel instead of three.
        format: of the files: ``jpg``, ``png`` or ``webp``.
        quality: of ``jpg`` and ``webp``, 1..100.

    Raises:
        DataError: a value out of range.
    """

    faces: CropSettings
    use_boxes: bool = True
    box_frame: Literal["auto", "upright", "stored"] = "auto"
    which: Literal["largest", "all", "skip"] = "largest"
    detect_size: int = 640
    min_size: float = 24.0
    min_score: float | None = None
    min_sharpness: float = 0.0
    size_wh: tuple[int, int] = (224, 224)
    gray: bool = False
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.detect_size < 64 or min(self.size_wh) < 8 or max(self.size_wh) > 4096:
            raise DataError(
                "expected crops of 8 to 4096 pixels and a detector's image of 64 or more, found "
                f"{self.size_wh[0]}x{self.size_wh[1]} and {self.detect_size}"
            )
        if self.format not in FORMATS or not 1 <= self.quality <= 100:
            raise DataError(
                f"expected a format out of {', '.join(FORMATS)} and a quality of 1 to 100, found {self.format} and "
                f"{self.quality}"
            )


REDUCTIONS = (8, 4, 2, 1)
"""What JPEG decoders can do on the way, by leaving out the finer half of each block's frequencies."""


class LazyImage:
    """The content of an image file.

    Args:
        content: the file's bytes.

    Attributes:
        size_wh: width and height, upright, in pixels.
        stored_wh: the same before the EXIF rotation.

    Raises:
        ImageError: it is no image.
    """

    def __init__(self, content: bytes) -> None:
        header = read_header(content)
        self.size_wh, self.stored_wh = header.size_wh, header.stored_wh
        self._orientation = header.orientation
        self._content = content
        self._decoded: dict[int, np.ndarray] = {}

    def at(self, reduce: int) -> np.ndarray:
        """The image at ``1 / reduce`` of its size, upright: uint8 RGB (H, W, 3).

        Raises:
            ImageError: damaged.
        """
        if reduce not in self._decoded:
            rgb = self._decoded[1] if 1 in self._decoded else decode_image(self._content, reduce)
            height, width = (-(-side // reduce) for side in reversed(self.size_wh))
            if rgb.shape[0] > height or rgb.shape[1] > width:  # a format that is only decoded whole
                self._decoded[1] = rgb
                rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
            self._decoded[reduce] = rgb
        return self._decoded[reduce]

    def no_coarser(self, reduce: int) -> np.ndarray:
        """The image at ``1 / reduce`` of its size or finer, whichever is at hand."""
        decoded = [have for have in self._decoded if have <= reduce]
        return self.at(max(decoded, default=reduce))

    def within(self, side: int, reduce: int) -> np.ndarray:
        """The image with a longer side of ``side`` pixels, made from ``1 / reduce``; smaller ones unchanged."""
        longest = max(self.size_wh)
        rgb = self.at(min(reduce, coarsest(longest, side)))
        if longest <= side:
            return rgb
        width, height = (max(1, round(value * side / longest)) for value in self.size_wh)
        return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)

    def upright(self, box: Box) -> Box:
        """A box in stored pixels as one in the upright image."""
        width, height = self.stored_wh
        x0, y0, x1, y1 = box
        if self._orientation in (2, 3, 7, 8):  # the stored x axis runs backwards
            x0, x1 = width - x1, width - x0
        if self._orientation in (3, 4, 6, 7):  # the stored y axis runs backwards
            y0, y1 = height - y1, height - y0
        return (y0, x0, y1, x1) if self._orientation >= 5 else (x0, y0, x1, y1)


def coarsest(have: float, need: float) -> int:
    """The largest reduction that leaves ``need`` of ``have`` pixels; 1 if there are too few anyway."""
    return next((reduce for reduce in REDUCTIONS if have / reduce >= need), 1)


class Status(StrEnum):
    """In one word, for ``crops.csv`` and for counting; the reason next to it says more."""

    CROPPED = "cropped"
    WHOLE = "whole"
    """Cropped as well: the whole image, for want of a face."""
    FACELESS = "faceless"
    SMALL = "small"
    DOUBTFUL = "doubtful"
    BLURRED = "blurred"
    OUTSIDE = "outside"
    NOT_LARGEST = "not largest"
    SEVERAL = "several"
    UNREADABLE = "unreadable"
    ANNOTATION = "annotation"
    """A remark on the annotations; the image itself may be cropped all the same."""


@dataclass(frozen=True, slots=True)
class CropOutcome:
    """One face.

    Attributes:
        status: what became of it.
        reason: why it was left out, or what is noteworthy; empty if nothing is.
        mark: which of the boxes that were known, counted from the largest; None for a face that was found.
        box: left, top, right, bottom in pixels of the upright image; None for none.
        score: the detector's confidence, 0..1; None for boxes that were known.
        sharpness: of the crop, 0..1; None without a crop.
    """

    status: Status
    reason: str = ""
    mark: int | None = None
    box: Box | None = None
    score: float | None = None
    sharpness: float | None = None

    @property
    def kept(self) -> bool:
        """Whether there is a crop."""
        return self.status in (Status.CROPPED, Status.WHOLE)


@dataclass(frozen=True)
class CropResult:
    """An outcome, and its crop, uint8 RGB (h, w, 3), where there is one."""

    outcome: CropOutcome
    rgb: np.ndarray | None = None


_SAME_FACE = 0.3
"""Intersection over union from which a face that was found gives its points to a box that was known."""

_USUAL_SHARE = 0.2
"""Of a photo's shorter side, that most faces in it take at least."""

_LOOK_AGAIN = 320
"""Pixels that a box and its surroundings are looked at in for points."""


@dataclass(frozen=True)
class KnownBoxes:
    """Boxes that the data set knows of one image, the largest first; empty if there are none.

    Attributes:
        boxes: in pixels.
        claimed_wh: the image's size according to the annotations; None if they do not say.
    """

    boxes: tuple[Box, ...] = ()
    claimed_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Candidate:
    """A face in pixels of the upright image, and what is known of it so far."""

    outcome: CropOutcome
    keypoints: np.ndarray | None = None

    @property
    def box(self) -> Box:
        assert self.outcome.box is not None
        return self.outcome.box

    def left_out(self, status: Status, reason: str) -> CropResult:
        return CropResult(replace(self.outcome, status=status, reason=reason))


def crop_image(
    content: bytes, marks: KnownBoxes, cropper: FaceCropper, settings: CropRunSettings
) -> list[CropResult]:
    """All faces of an image with what becomes of them, crops first; one entry at least.

    Args:
        content: of the image file.
        marks: boxes to take instead of a detector's.
        cropper: finds and cuts out faces; for the detector ``none`` it is only asked to cut.
        settings: which faces are wanted.

    Raises:
        ImageError: the content is no image, or damaged.
    """
    image = LazyImage(content)
    left_out: list[CropResult] = []
    if settings.use_boxes and marks.boxes:
        candidates = _marked(image, marks, settings, left_out)
    else:
        candidates = _found(image, cropper, settings)
    wanted = _choose(_large_and_sure(candidates, settings, left_out), settings, left_out)
    crops: list[CropResult] = []
    for candidate in wanted:
        cut = _cut(image, candidate, cropper, settings)
        (crops if cut.outcome.kept else left_out).append(cut)
    if not candidates and not left_out:
        crops = [_without_face(image, cropper)]
    return crops + left_out


def _marked(
    image: LazyImage, marks: KnownBoxes, settings: CropRunSettings, left_out: list[CropResult]
) -> list[_Candidate]:
    """Known boxes, turned upright with their image and cut off at its borders."""
    width, height = image.size_wh
    candidates = []
    for mark, box in enumerate(marks.boxes):
        reason = ""
        if _is_stored(box, image, marks.claimed_wh, settings.box_frame):
            box, reason = image.upright(box), "the box was turned upright with the image"
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height))
        if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
            reason = f"the box lies outside the {width}x{height} image"
            left_out.append(CropResult(CropOutcome(Status.OUTSIDE, reason, mark, box)))
            continue
        if max(abs(a - b) for a, b in zip(inside, box, strict=True)) > 1:
            reason = "; ".join(filter(None, (reason, f"the box reached out of the {width}x{height} image")))
        candidates.append(_Candidate(CropOutcome(Status.CROPPED, reason, mark, inside)))
    return candidates


def _is_stored(box: Box, image: LazyImage, claimed_wh: tuple[int, int] | None, frame: str) -> bool:
    if frame != "auto" or image.stored_wh == image.size_wh:
        return frame == "stored"
    if claimed_wh in (image.stored_wh, image.size_wh):
        return claimed_wh == image.stored_wh

    def fits(size_wh: tuple[int, int]) -> bool:
        return box[2] <= size_wh[0] + 1 and box[3] <= size_wh[1] + 1

    return fits(image.stored_wh) and not fits(image.size_wh)


def _found(image: LazyImage, cropper: FaceCropper, settings: CropRunSettings) -> list[_Candidate]:
    """Faces that the detector finds, the largest first."""
    if settings.faces.detector == "none":
        return []
    # Decoding takes nearly as long for a quarter of the size as for half of it: better once, fine enough for the crop.
    expected = _USUAL_SHARE * min(image.size_wh) * (1 + 2 * settings.faces.margin)
    rgb = image.within(settings.detect_size, coarsest(expected, max(settings.size_wh)))
    faces = cropper.faces(rgb).scaled(_ratio(image.size_wh, rgb.shape[1::-1]))
    candidates = []
    for i in range(len(faces)):
        left, top, right, bottom = (round(float(value), 1) for value in faces.xyxy[i])
        score = round(float(faces.confidence[i]), 4)
        points = None if faces.keypoints is None else faces.keypoints[i]
        outcome = CropOutcome(Status.CROPPED, "", None, (left, top, right, bottom), score)
        candidates.append(_Candidate(outcome, points))
    return candidates


def _large_and_sure(
    candidates: list[_Candidate], settings: CropRunSettings, left_out: list[CropResult]
) -> list[_Candidate]:
    kept = []
    for candidate in candidates:
        x0, y0, x1, y1 = candidate.box
        side, score = min(x1 - x0, y1 - y0), candidate.outcome.score
        if side < settings.min_size:
            reason = f"the face is {side:.0f} px large, less than {settings.min_size:g}"
            left_out.append(candidate.left_out(Status.SMALL, reason))
        elif score is not None and settings.min_score is not None and score < settings.min_score:
            reason = f"the detector's score {score:.2f} is below {settings.min_score:g}"
            left_out.append(candidate.left_out(Status.DOUBTFUL, reason))
        else:
            kept.append(candidate)
    return kept


def _choose(
    candidates: list[_Candidate], settings: CropRunSettings, left_out: list[CropResult]
) -> list[_Candidate]:
    if settings.which == "all" or len(candidates) <= 1:
        return candidates
    if settings.which == "skip":
        reason = f"{len(candidates)} faces are in the image"
        left_out += [candidate.left_out(Status.SEVERAL, reason) for candidate in candidates]
        return []
    reason = f"another of {len(candidates)} faces is larger"
    left_out += [candidate.left_out(Status.NOT_LARGEST, reason) for candidate in candidates[1:]]
    return candidates[:1]


def _cut(
    image: LazyImage, candidate: _Candidate, cropper: FaceCropper, settings: CropRunSettings
) -> CropResult:
    outcome, points = candidate.outcome, candidate.keypoints
    if settings.faces.align and points is None:
        points = _points_of_marked(image, candidate.box, cropper)
        if points is None:
            reason = "not turned upright: its eyes, nose and mouth were not found"
            outcome = replace(outcome, reason="; ".join(filter(None, (outcome.reason, reason))))
    x0, y0, x1, y1 = candidate.box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * settings.faces.margin)
    rgb = image.no_coarser(coarsest(side, max(settings.size_wh)))
    keypoints = None if points is None else points[None]
    face = Faces(np.array([candidate.box], np.float32), np.ones(1, np.float32), keypoints)
    crop = cropper.crops(rgb, face.scaled(_ratio(rgb.shape[1::-1], image.size_wh)))[0]
    outcome = replace(outcome, sharpness=round(sharpness(crop), 4))
    if outcome.sharpness is not None and outcome.sharpness < settings.min_sharpness:
        reason = f"its sharpness {outcome.sharpness:.2f} is below {settings.min_sharpness:g}"
        return CropResult(replace(outcome, status=Status.BLURRED, reason=reason))
    return CropResult(outcome, crop)


def _points_of_marked(image: LazyImage, box: Box, cropper: FaceCropper) -> np.ndarray | None:
    """Five points (5, 2), in pixels of the image, of the face that a known box is about; None if not found."""
    if cropper.settings.detector == "none":
        return None
    x0, y0, x1, y1 = box
    around = max(x1 - x0, y1 - y0) / 2
    rgb = image.no_coarser(coarsest(4 * around, _LOOK_AGAIN))
    scale = rgb.shape[1] / image.size_wh[0]
    left, top = (max(0, int((value - around) * scale)) for value in (x0, y0))
    part = rgb[top : round((y1 + around) * scale), left : round((x1 + around) * scale)]
    faces = cropper.faces(np.ascontiguousarray(part))
    if len(faces) == 0 or faces.keypoints is None:
        return None
    known = (np.array([box]) * scale - (left, top, left, top)).astype(np.float32)
    overlap = box_overlap(faces.xyxy, known)[:, 0]
    best = int(overlap.argmax())
    return (faces.keypoints[best] + (left, top)) / scale if overlap[best] >= _SAME_FACE else None


def _without_face(image: LazyImage, cropper: FaceCropper) -> CropResult:
    name = cropper.settings.detector
    reason = f"no face found by {name}"
    if name == "none":
        reason = "its box is not known, and no detector was asked"
    if cropper.settings.no_face == "skip":
        return CropResult(CropOutcome(Status.FACELESS, reason))
    rgb = image.at(coarsest(min(image.size_wh), max(cropper.size_wh)))
    crop = fit_to(rgb, cropper.size_wh, cropper.resize)
    return CropResult(CropOutcome(Status.WHOLE, reason, sharpness=round(sharpness(crop), 4)), crop)


def _ratio(to_wh: tuple[int, ...], from_wh: tuple[int, ...]) -> np.ndarray:
    return np.array(to_wh, np.float32) / np.array(from_wh, np.float32)


SHEETS = "contact-sheets"
"""Folder of the contact sheets, whose name no class can have."""

_FACE = re.compile(r"~face\d+$")
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_MOST_BYTES = 250
"""Of a file's name; most file systems take 255."""


@dataclass(frozen=True)
class PlannedFace:
    """One face: the sample it is about, and the path of its crop below the output folder, without suffix.

    ``note`` says why that path is not the one to be expected; empty if it is.
    """

    sample: Sample
    stem: str
    note: str = ""


@dataclass(frozen=True)
class PlannedImage:
    """One image; ``faces`` are in the order of ``marks``, the first also stands for what is found."""

    path: str
    faces: tuple[PlannedFace, ...]
    marks: KnownBoxes

    def face(self, mark: int | None, number: int) -> PlannedFace:
        """The face of a known box, or else the ``number``-th, from 0, of those that were found."""
        if mark is not None:
            return self.faces[mark]
        first = self.faces[0]
        return replace(first, stem=_with_tail(first.stem, f"~face{number + 1}"), note="") if number else first


def plan_crops(annotated: Annotated) -> list[PlannedImage]:
    """Images in the order of the data set.

    A crop keeps its image's place where that is in a folder called like its class; otherwise it goes to
    ``<split>/<class>/``. Two that would have one name, were upper and lower case or the composition of letters
    ignored, are told apart by ``~2``, ``~3``.
    """
    further: dict[str, list[Sample]] = {}
    for sample in annotated.further:
        further.setdefault(sample.path, []).append(sample)
    taken: set[str] = set()
    planned = []
    for sample in annotated.dataset.samples:
        samples = [sample, *further.get(sample.path, ())]
        faces = tuple(_planned_face(one, number, taken) for number, one in enumerate(samples))
        # The readers sort boxes by size, those without one last: positions in both lists are the same.
        boxes = tuple(one.box for one in samples if one.box is not None)
        marks = KnownBoxes(boxes, annotated.sizes_wh.get(sample.path))
        planned.append(PlannedImage(sample.path, faces, marks))
    return planned


def _planned_face(sample: Sample, number: int, taken: set[str]) -> PlannedFace:
    folder, name = _place(sample)
    stem = os.path.splitext(name)[0]
    wanted = str(folder / stem)
    if number:
        stem = _with_tail(stem, f"~face{number + 1}")
    elif _FACE.search(stem):  # such names are for further faces
        stem = _with_tail(stem, "~")
    path, n = str(folder / stem), 1
    while (key := unicodedata.normalize("NFC", path).casefold()) in taken:
        n += 1
        path = str(folder / _with_tail(stem, f"~{n}"))
    taken.add(key)
    renamed = path != wanted and not (number and n == 1)
    note = f"called {PurePosixPath(path).name}: the name was taken" if renamed else ""
    return PlannedFace(sample, path, note)


def _place(sample: Sample) -> tuple[PurePosixPath, str]:
    """Folder and name of a crop."""
    path = PurePosixPath(sample.path)
    above = path.parts[:-1]
    name = path.name.replace("\\", "_")
    split, *rest = above if above and split_named(above[0]) else ("", *above)
    named_split = split_named(split)
    in_class = bool(rest) and unicodedata.normalize("NFC", rest[0]) == sample.label
    if in_class and named_split == sample.split and ".." not in above:
        return path.parent, name
    parts = [part for part in (sample.split, folder_name(sample.label)) if part]
    if not parts:
        name = name.lstrip()
    return PurePosixPath(*parts), name


def folder_name(label: str | None) -> str | None:
    """A class as the name of a folder on any system; the table keeps the true one."""
    if label is None:
        return None
    name = _UNSAFE.sub("_", label).strip(" .") or "_"
    return f"{name}_" if name.casefold() == SHEETS else name


def _with_tail(stem: str, tail: str) -> str:
    """``stem + tail``, the stem cut off where the name would be longer than file systems take."""
    folder, slash, name = stem.rpartition("/")
    while len(os.fsencode(name + tail)) > _MOST_BYTES - 5:
        name = name[:-1]
    return f"{folder}{slash}{name}{tail}"
