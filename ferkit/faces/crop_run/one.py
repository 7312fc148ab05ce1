"""One picture: which of its faces become crops, from no more pixels than they need."""

from dataclasses import dataclass, replace

import numpy as np

from ferkit.core.faces import Faces
from ferkit.faces.crop import fit_to
from ferkit.faces.crop_run.outcome import Cut, Outcome, Status
from ferkit.faces.crop_run.picture import Box, Picture, coarsest
from ferkit.faces.crop_run.settings import CropRunSettings
from ferkit.faces.cropping import FaceCropper
from ferkit.faces.quality import sharpness
from ferkit.faces.tracking import box_overlap

_SAME_FACE = 0.3
"""Intersection over union from which a face that was found gives its points to a box that was known."""

_USUAL_SHARE = 0.2
"""Of a photo's shorter side, that most faces in it take at least."""

_LOOK_AGAIN = 320
"""Pixels that a box and its surroundings are looked at in for points."""


@dataclass(frozen=True)
class Marks:
    """Boxes that the data set knows of one picture, the largest first; empty if there are none.

    Attributes:
        boxes: in pixels.
        claimed_wh: the picture's size according to the annotations; None if they do not say.
    """

    boxes: tuple[Box, ...] = ()
    claimed_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Candidate:
    """A face in pixels of the upright picture, and what is known of it so far."""

    outcome: Outcome
    keypoints: np.ndarray | None = None

    @property
    def box(self) -> Box:
        assert self.outcome.box is not None
        return self.outcome.box

    def left_out(self, status: Status, reason: str) -> Cut:
        return Cut(replace(self.outcome, status=status, reason=reason))


def crop_picture(content: bytes, marks: Marks, cropper: FaceCropper, settings: CropRunSettings) -> list[Cut]:
    """All faces of a picture with what becomes of them, crops first; one entry at least.

    Args:
        content: of the picture file.
        marks: boxes to take instead of a detector's.
        cropper: finds and cuts out faces; for the detector ``none`` it is only asked to cut.
        settings: which faces are wanted.

    Raises:
        ImageError: the content is no picture, or damaged.
    """
    picture = Picture(content)
    left_out: list[Cut] = []
    if settings.use_boxes and marks.boxes:
        candidates = _marked(picture, marks, settings, left_out)
    else:
        candidates = _found(picture, cropper, settings)
    wanted = _choose(_large_and_sure(candidates, settings, left_out), settings, left_out)
    crops: list[Cut] = []
    for candidate in wanted:
        cut = _cut(picture, candidate, cropper, settings)
        (crops if cut.outcome.kept else left_out).append(cut)
    if not candidates and not left_out:
        crops = [_without_face(picture, cropper)]
    return crops + left_out


def _marked(
    picture: Picture, marks: Marks, settings: CropRunSettings, left_out: list[Cut]
) -> list[_Candidate]:
    """Known boxes, turned upright with their picture and cut off at its borders."""
    width, height = picture.size_wh
    candidates = []
    for mark, box in enumerate(marks.boxes):
        reason = ""
        if _is_stored(box, picture, marks.claimed_wh, settings.box_frame):
            box, reason = picture.upright(box), "the box was turned upright with the picture"
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height))
        if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
            reason = f"the box lies outside the {width}x{height} picture"
            left_out.append(Cut(Outcome(Status.OUTSIDE, reason, mark, box)))
            continue
        if max(abs(a - b) for a, b in zip(inside, box, strict=True)) > 1:
            reason = "; ".join(filter(None, (reason, f"the box reached out of the {width}x{height} picture")))
        candidates.append(_Candidate(Outcome(Status.CROPPED, reason, mark, inside)))
    return candidates


def _is_stored(box: Box, picture: Picture, claimed_wh: tuple[int, int] | None, frame: str) -> bool:
    if frame != "auto" or picture.stored_wh == picture.size_wh:
        return frame == "stored"
    if claimed_wh in (picture.stored_wh, picture.size_wh):
        return claimed_wh == picture.stored_wh

    def fits(size_wh: tuple[int, int]) -> bool:
        return box[2] <= size_wh[0] + 1 and box[3] <= size_wh[1] + 1

    return fits(picture.stored_wh) and not fits(picture.size_wh)


def _found(picture: Picture, cropper: FaceCropper, settings: CropRunSettings) -> list[_Candidate]:
    """Faces that the detector finds, the largest first."""
    if settings.faces.detector == "none":
        return []
    # Decoding takes nearly as long for a quarter of the size as for half of it: better once, fine enough for the crop.
    expected = _USUAL_SHARE * min(picture.size_wh) * (1 + 2 * settings.faces.margin)
    rgb = picture.within(settings.detect_size, coarsest(expected, max(settings.size_wh)))
    faces = cropper.faces(rgb).scaled(_ratio(picture.size_wh, rgb.shape[1::-1]))
    candidates = []
    for i in range(len(faces)):
        left, top, right, bottom = (round(float(value), 1) for value in faces.xyxy[i])
        score = round(float(faces.confidence[i]), 4)
        points = None if faces.keypoints is None else faces.keypoints[i]
        candidates.append(
            _Candidate(Outcome(Status.CROPPED, "", None, (left, top, right, bottom), score), points)
        )
    return candidates


def _large_and_sure(
    candidates: list[_Candidate], settings: CropRunSettings, left_out: list[Cut]
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


def _choose(candidates: list[_Candidate], settings: CropRunSettings, left_out: list[Cut]) -> list[_Candidate]:
    if settings.which == "all" or len(candidates) <= 1:
        return candidates
    if settings.which == "skip":
        reason = f"{len(candidates)} faces are in the picture"
        left_out += [candidate.left_out(Status.SEVERAL, reason) for candidate in candidates]
        return []
    reason = f"another of {len(candidates)} faces is larger"
    left_out += [candidate.left_out(Status.NOT_LARGEST, reason) for candidate in candidates[1:]]
    return candidates[:1]


def _cut(picture: Picture, candidate: _Candidate, cropper: FaceCropper, settings: CropRunSettings) -> Cut:
    outcome, points = candidate.outcome, candidate.keypoints
    if settings.faces.align and points is None:
        points = _points_of_marked(picture, candidate.box, cropper)
        if points is None:
            reason = "not turned upright: its eyes, nose and mouth were not found"
            outcome = replace(outcome, reason="; ".join(filter(None, (outcome.reason, reason))))
    x0, y0, x1, y1 = candidate.box
    side = max(x1 - x0, y1 - y0) * (1 + 2 * settings.faces.margin)
    rgb = picture.no_coarser(coarsest(side, max(settings.size_wh)))
    face = Faces(
        np.array([candidate.box], np.float32),
        np.ones(1, np.float32),
        None if points is None else points[None],
    )
    crop = cropper.crops(rgb, face.scaled(_ratio(rgb.shape[1::-1], picture.size_wh)))[0]
    outcome = replace(outcome, sharpness=round(sharpness(crop), 4))
    if outcome.sharpness is not None and outcome.sharpness < settings.min_sharpness:
        reason = f"its sharpness {outcome.sharpness:.2f} is below {settings.min_sharpness:g}"
        return Cut(replace(outcome, status=Status.BLURRED, reason=reason))
    return Cut(outcome, crop)


def _points_of_marked(picture: Picture, box: Box, cropper: FaceCropper) -> np.ndarray | None:
    """Five points (5, 2), in pixels of the picture, of the face that a known box is about; None if not found."""
    if cropper.settings.detector == "none":
        return None
    x0, y0, x1, y1 = box
    around = max(x1 - x0, y1 - y0) / 2
    rgb = picture.no_coarser(coarsest(4 * around, _LOOK_AGAIN))
    scale = rgb.shape[1] / picture.size_wh[0]
    left, top = (max(0, int((value - around) * scale)) for value in (x0, y0))
    part = rgb[top : round((y1 + around) * scale), left : round((x1 + around) * scale)]
    faces = cropper.faces(np.ascontiguousarray(part))
    if len(faces) == 0 or faces.keypoints is None:
        return None
    known = (np.array([box]) * scale - (left, top, left, top)).astype(np.float32)
    overlap = box_overlap(faces.xyxy, known)[:, 0]
    best = int(overlap.argmax())
    return (faces.keypoints[best] + (left, top)) / scale if overlap[best] >= _SAME_FACE else None


def _without_face(picture: Picture, cropper: FaceCropper) -> Cut:
    name = cropper.settings.detector
    reason = (
        "its box is not known, and no detector was asked" if name == "none" else f"no face found by {name}"
    )
    if cropper.settings.no_face == "skip":
        return Cut(Outcome(Status.FACELESS, reason))
    rgb = picture.at(coarsest(min(picture.size_wh), max(cropper.size_wh)))
    crop = fit_to(rgb, cropper.size_wh, cropper.resize)
    return Cut(Outcome(Status.WHOLE, reason, sharpness=round(sharpness(crop), 4)), crop)


def _ratio(to_wh: tuple[int, ...], from_wh: tuple[int, ...]) -> np.ndarray:
    return np.array(to_wh, np.float32) / np.array(from_wh, np.float32)
