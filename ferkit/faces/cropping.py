"""Decide how faces are taken out of images, and take them out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError, SettingsMismatchError, WeightsError
from ferkit.core.files import file_sha256
from ferkit.core.types import FaceDetector, Faces, TakesCrops
from ferkit.core.weights import weights_file
from ferkit.datasets.dataset import Box, Dataset
from ferkit.datasets.images import resized
from ferkit.faces.detectors import PREFIX, open_detector

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""Where eyes, nose and mouth corners lie in a 112x112 crop (Deng et al., ArcFace, CVPR 2019)."""


def fit_to(rgb: np.ndarray, size_wh: tuple[int, int], resize: str = "stretch") -> np.ndarray:
    """Resize ``rgb`` (H, W, 3) uint8 to ``size_wh``.

    ``stretch`` ignores the proportions (averaging when it shrinks); ``letterbox`` keeps them, interpolates linearly
    and fills up with black, exactly as DeepFace does for its networks.
    """
    height, width = rgb.shape[:2]
    if resize == "letterbox":
        factor = min(size_wh[1] / height, size_wh[0] / width)
        inner = cv2.resize(rgb, (max(1, int(width * factor)), max(1, int(height * factor))))
        down, right = size_wh[1] - inner.shape[0], size_wh[0] - inner.shape[1]
        return np.pad(inner, ((down // 2, down - down // 2), (right // 2, right - right // 2), (0, 0)))
    if resize != "stretch":
        raise DataError(f"expected 'stretch' or 'letterbox' as resize, found {resize!r}")
    return resized(rgb, size_wh)


def square_crop(rgb: np.ndarray, xyxy: np.ndarray, margin: float) -> np.ndarray:
    """The square around a box, larger by ``margin`` of its side on each side; what lies outside repeats the border.

    Returns:
        uint8 RGB (s, s, 3), s in pixels of the image, at least 1.
    """
    x0, y0, x1, y1 = (float(value) for value in xyxy)
    side = max(x1 - x0, y1 - y0) * (1 + 2 * margin)
    s = max(1, round(side))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    height, width = rgb.shape[:2]
    if left >= width or top >= height or left + s <= 0 or top + s <= 0:
        raise ImageError(
            f"expected a face inside the {width}x{height} image, found the box {[x0, y0, x1, y1]}"
        )
    inside = rgb[max(0, top) : top + s, max(0, left) : left + s]
    before_y, before_x = max(0, -top), max(0, -left)
    after_y, after_x = s - before_y - inside.shape[0], s - before_x - inside.shape[1]
    if before_y or before_x or after_y or after_x:
        return cv2.copyMakeBorder(inside, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)
    return inside


def aligned_crop(
    rgb: np.ndarray, keypoints: np.ndarray, size_wh: tuple[int, int], margin: float
) -> np.ndarray:
    """Turn, scale and shift a face so that its five points lie as in :data:`ARCFACE_TEMPLATE`.

    Args:
        rgb: uint8 (H, W, 3).
        keypoints: (5, 2) in pixels.
        size_wh: size of the crop; the template is centred in it and scaled with its shorter side.
        margin: shrinks the template within the crop, so that more of the surroundings is seen.

    Returns:
        uint8 RGB (h, w, 3) of ``size_wh``.
    """
    scale = min(size_wh) / 112 / (1 + 2 * margin)
    target = (ARCFACE_TEMPLATE - 56) * scale + np.array(size_wh, np.float32) / 2
    matrix = _similarity(keypoints, target)
    return cv2.warpAffine(rgb, matrix, size_wh, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_faces(
    rgb: np.ndarray, faces: Faces, size_wh: tuple[int, int], *, align: bool, margin: float, resize: str
) -> np.ndarray:
    """Crops (n, h, w, 3) uint8 of all ``faces``, aligned where they have points and ``align`` is set."""
    crops = np.empty((len(faces), size_wh[1], size_wh[0], 3), np.uint8)
    for i in range(len(faces)):
        if align and faces.keypoints is not None:
            crops[i] = aligned_crop(rgb, faces.keypoints[i], size_wh, margin)
        else:
            crops[i] = fit_to(square_crop(rgb, faces.xyxy[i], margin), size_wh, resize)
    return crops


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """2x3 matrix of the rotation, uniform scale and shift that maps points best (Umeyama 1991, in the plane)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    s = (source - source_mean) @ np.array([1, 1j])
    t = (target - target_mean) @ np.array([1, 1j])
    # In the plane a rotation with scale is one complex factor, and least squares gives it in closed form.
    spread = float(np.vdot(s, s).real)
    factor = complex(np.vdot(s, t)) / spread if spread > 0 else 1.0 + 0j
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


CropKind = Literal["whole", "crops", "detected"]
"""What a network sees of an image: all of it, a face that was cropped before, or a face that is found in it."""

SAMPLE_SIZE = 40
FILLED = 0.65
"""A face whose box is at least this share of the image's shorter side fills it: the image is a crop already."""
SMALL_SIDE = 256
"""Images up to this many pixels are taken to be crops when hardly any face can be found in them."""
TINY_SIDE = 100
"""Images up to this many pixels are crops without looking: no camera makes them so small."""

_WEIGHTS = {"yunet": "yunet", "mediapipe": "blaze_face"}


@dataclass(frozen=True)
class CropSettings:
    """Everything about cropping that changes a pixel.

    Attributes:
        detector: ``none`` takes each image whole; ``given`` takes the box that the data set has for it
            (:attr:`ferkit.datasets.dataset.Sample.box`), and looks for nothing; else ``haar``, ``yunet``,
            ``mediapipe``, ``mtcnn`` or ``deepface:<name>``. A request may also say ``auto``.
        detector_sha256: digest of the detector's weights, None where it has none.
        align: turn the face by its five points onto the ArcFace template, where the detector gives points.
        margin: what is added around the face on each side, as a share of its box (or template).
        no_face: what becomes of an image without a face, or without a given box: ``skip`` records a failure,
            ``whole`` takes it whole.
    """

    detector: str = "none"
    detector_sha256: str | None = None
    align: bool = True
    margin: float = 0.1
    no_face: Literal["skip", "whole"] = field(default="skip", metadata={"key": "faceless"})

    @staticmethod
    def whole() -> "CropSettings":
        """Images are taken whole: nothing is looked for, so nothing else matters."""
        return CropSettings("none", None, align=False, margin=0.0, no_face="whole")

    def box_for(self, box: Box | None) -> Box | None:
        """The box that a crop rests on, to a tenth of a pixel, where these settings take given ones."""
        if self.detector != "given" or box is None:
            return None
        left, top, right, bottom = (round(float(value), 1) for value in box)
        return left, top, right, bottom


@dataclass(frozen=True)
class Cropping:
    """How faces are taken out of images: what is asked for, and, with a reason, what that became.

    Attributes:
        settings: of the crops; the detector may be ``auto`` until it is resolved.
        weights: a file for the detector to take instead of the one that would be fetched.
        kind: what comes out.
        detect_precropped: take images whole that a face fills, and small ones in which no face is found: for networks
            that were trained on crops and may be given either.
        reason: the sentence that says why; empty until it is resolved.
    """

    settings: CropSettings = field(default_factory=lambda: CropSettings("auto"))
    weights: Path | None = None
    kind: CropKind = "detected"
    detect_precropped: bool = False
    reason: str = ""

    @staticmethod
    def ask(
        detector: str = "auto",
        weights: Path | None = None,
        *,
        align: bool = True,
        margin: float = 0.1,
        no_face: Literal["skip", "whole"] = "skip",
    ) -> "Cropping":
        """What a user asks for; ``auto`` looks at some images first. See :class:`CropSettings`."""
        return Cropping(CropSettings(detector, None, align, margin, no_face), weights)

    def open_detector(self, min_confidence: float | None = None) -> FaceDetector:
        """A new detector; where none is needed, one that is never asked.

        Raises:
            WeightsError, DependencyError: see :func:`ferkit.faces.detectors.open_detector`.
        """
        name = self.settings.detector
        return open_detector("haar" if name in ("none", "given") else name, self.weights, min_confidence)

    def cropper(self, network: TakesCrops) -> "FaceCropper":
        """The cropper that feeds ``network``."""
        return FaceCropper(
            self.settings, self.open_detector, network.input_size_wh, network.resize, self.detect_precropped
        )


class DetectorPool:
    """As many detectors as threads ask at once, since a detector serves one thread at a time."""

    def __init__(self, name: str, open_detector: Callable[[], FaceDetector]) -> None:
        self.name = name
        self._open = open_detector
        self._free: list[FaceDetector] = []

    def detect(self, rgb: np.ndarray) -> Faces:
        """Faces of ``rgb``, uint8 (H, W, 3)."""
        try:
            detector = self._free.pop()  # one step, which needs no lock
        except IndexError:
            detector = self._open()
        try:
            return detector.detect(rgb)
        finally:
            self._free.append(detector)


@dataclass(frozen=True)
class Crops:
    """The faces of one image.

    Attributes:
        xyxy: float32 (n, 4) in pixels of the image, the largest face first; the whole image where that is the face.
        rgb: uint8 (n, h, w, 3), their crops.
        whole: whether the image was taken whole.
    """

    xyxy: np.ndarray
    rgb: np.ndarray
    whole: bool = False


class FaceCropper:
    """Takes faces out of images. May be used from many threads, which take turns with the detectors.

    Args:
        settings: how.
        open_detector: makes a detector; called when all others are in use, never for ``none`` and ``given``.
        size_wh: size of the crops.
        resize: how boxes are fitted to that size, see :func:`ferkit.faces.cropping.fit_to`.
        detect_precropped: see :class:`Cropping`.
    """

    def __init__(
        self,
        settings: CropSettings,
        open_detector: Callable[[], FaceDetector],
        size_wh: tuple[int, int],
        resize: str,
        detect_precropped: bool = False,
    ) -> None:
        self.settings, self.size_wh, self.resize = settings, size_wh, resize
        self.detect_precropped = detect_precropped
        self._detector = DetectorPool(settings.detector, open_detector)

    def faces(self, rgb: np.ndarray) -> Faces:
        """All faces in ``rgb``, uint8 (H, W, 3), the largest first."""
        return self._detector.detect(rgb).largest_first()

    def cut(self, rgb: np.ndarray, box: Box | None = None, most: int | None = None) -> Crops:
        """The crops of all faces, of the given box, or of the whole image, as the settings say.

        Args:
            rgb: uint8 (H, W, 3).
            box: that the data set has for the image; it counts where the settings take given ones.
            most: faces to crop, the largest ones; None for all.
        """
        if self.settings.detector == "none" or (self.detect_precropped and self._is_crop(rgb)):
            return self._whole(rgb)
        if self.settings.detector == "given":
            given = self.settings.box_for(box)
            boxes = np.array([] if given is None else [given], np.float32).reshape(-1, 4)
            faces = Faces(boxes, np.ones(len(boxes), np.float32))
        else:
            faces = self.faces(rgb)[:most]
        small = self.detect_precropped and max(rgb.shape[:2]) <= SMALL_SIDE
        if len(faces) == 0 and (self.settings.no_face == "whole" or small):
            return self._whole(rgb)
        return Crops(faces.xyxy, self.crops(rgb, faces))

    def largest(self, rgb: np.ndarray, box: Box | None = None) -> Crops:
        """The one crop of an image; see :meth:`cut`.

        Raises:
            ImageError: there is no face, and the settings say to skip such images; or the box lies outside.
        """
        found = self.cut(rgb, box, most=1)
        if len(found.rgb) == 0:
            if self.settings.detector == "given":
                raise ImageError("the data set has no box for it")
            raise ImageError(f"no face found by {self.settings.detector}")
        return found

    def crops(self, rgb: np.ndarray, faces: Faces) -> np.ndarray:
        """Crops (n, h, w, 3) uint8 of the given faces of ``rgb``."""
        align, margin = self.settings.align, self.settings.margin
        return crop_faces(rgb, faces, self.size_wh, align=align, margin=margin, resize=self.resize)

    def _is_crop(self, rgb: np.ndarray) -> bool:
        shorter, longer = sorted(rgb.shape[:2])
        # Of the longer side: a portrait in which the face takes the width still shows a neck and shoulders.
        return longer <= TINY_SIDE or face_share(rgb, self._detector) * shorter / longer >= FILLED

    def _whole(self, rgb: np.ndarray) -> Crops:
        height, width = rgb.shape[:2]
        box = np.array([[0, 0, width, height]], np.float32)
        return Crops(box, fit_to(rgb, self.size_wh, self.resize)[None], whole=True)


def resolve_cropping(dataset: Dataset, asked: Cropping) -> Cropping:
    """What is asked for, for these images; what is resolved already stays.

    Raises:
        WeightsError: the named detector's weights are missing; ``auto`` takes Haar then.
        DataError: ``given``, and no image has a box.
    """
    if asked.reason:
        return asked
    detector = asked.settings.detector
    unmarked = [sample for sample in dataset.samples if sample.box is None]
    if detector == "given" or (detector == "auto" and not unmarked):
        return _given(asked, dataset, unmarked)
    if detector == "none":
        kind, seen = look_at(dataset, None)
        how = "as the crops they are" if kind == "crops" else "not as crops of faces"
        return _taken_whole(kind, f"faces: images are taken whole, {how} ({seen})")
    if detector != "auto":
        return _with_detector(asked, detector, asked.weights, f"faces: detector {detector}")
    detector, weights = best_detector(asked.weights)
    kind, seen = look_at(dataset.subset(unmarked), open_detector(detector, weights))
    if kind == "crops" and len(unmarked) < len(dataset):
        return _given(replace(asked, settings=replace(asked.settings, no_face="whole")), dataset, unmarked)
    if kind == "crops":
        return _taken_whole(kind, f"faces: images are taken whole, as the crops they are ({seen})")
    reason = f"faces: detector {detector} ({seen})"
    if len(unmarked) < len(dataset):
        reason += (
            f"; only {len(dataset) - len(unmarked):,} of {len(dataset):,} images have a box, so that none is used "
            "(--detector given takes those alone)"
        )
    return _with_detector(asked, detector, weights, reason)


def cropping_as_planned(settings: CropSettings, kind: CropKind, weights: Path | None = None) -> Cropping:
    """Crop exactly as ``settings`` say, on another machine: nothing else is taken in their place.

    Raises:
        WeightsError: the detector's weights are missing.
        SettingsMismatchError: they are others.
    """
    weights = _weights_of(settings.detector, weights)
    digest = None if weights is None else file_sha256(weights)
    if digest != settings.detector_sha256:
        raise SettingsMismatchError(
            f"expected weights of {settings.detector} with the SHA-256 {settings.detector_sha256}, found {digest}; "
            "name the right file with --set detector_weights=FILE"
        )
    return Cropping(settings, weights, kind, reason=f"faces: detector {settings.detector}, as planned")


def cropping_for_files(asked: Cropping, *, all_known: bool) -> Cropping:
    """How crops that are kept as files are made: ``auto`` asks no detector where every box is known.

    Raises:
        WeightsError: the named detector's weights are missing.
    """
    detector, weights = asked.settings.detector, asked.weights
    if detector == "auto" and all_known:
        return _with_detector(asked, "none", None, "faces: every box is known, no detector is asked")
    reason = f"faces: detector {detector}"
    if detector == "auto":
        detector, weights = best_detector(weights)
        reason = f"faces: detector {detector}, where no box is to be taken"
    return _with_detector(asked, detector, weights, reason)


def cropping_as_trained(
    trained: Cropping, detector: str = "auto", weights: Path | None = None, dataset: Dataset | None = None
) -> Cropping:
    """How faces are taken out of images for a model.

    Args:
        trained: what it was trained on.
        detector: ``auto`` does as in training; for a model that was trained on crops or on given boxes it takes the
            best detector that is there. ``none`` takes everything whole.
        weights: a file for the detector.
        dataset: images that are all alike, to be measured on: ``auto`` looks at some of them first, and an image
            without a face counts.

    Raises:
        WeightsError: the weights of a named detector, or of the one trained with, are missing.
        DataError: ``given``, and no image has a box.
    """
    settings, was = trained.settings, trained.settings.detector
    if detector == "none":
        return _taken_whole("whole", "faces: images are taken whole, as asked")
    if detector == "auto" and trained.kind == "whole":
        return _taken_whole("whole", "faces: images are taken whole, as in training")
    if was == "none":
        # FER2013's crops are as wide as the longer side of a detector's box (median over 500 of them: 0.97 times
        # YuNet's, 1.02 times Haar's), and not turned upright. BlazeFace's boxes are smaller, 0.84 of them.
        margin = 0.09 if detector == "mediapipe" else 0.0
        no_face: Literal["skip", "whole"] = "skip" if dataset is None else "whole"
        settings = CropSettings("auto", None, align=False, margin=margin, no_face=no_face)
    if detector == "auto" and was not in ("none", "given"):
        detector, reason = was, f"as in training: {was}"
    else:
        reason = f"as asked: {detector}"
    if dataset is not None:
        return resolve_cropping(dataset, Cropping(replace(settings, detector=detector), weights))
    detect_precropped = False
    if detector == "auto":
        detector, weights = best_detector(weights)
        detect_precropped = was == "none"
        reason = f"{detector}; the model was trained on the boxes of its data set"
        if was == "none":
            reason = (
                f"{detector}; the model was trained on crops, so images that a face fills are taken whole"
            )
        if detector == "haar":
            reason += (
                " (YuNet finds more, but its weights are neither here nor to be had; see --detector-weights)"
            )
    # The digest is left out: nothing here is stored under it.
    settings = replace(settings, detector=detector, detector_sha256=None)
    weights = _weights_of(detector, weights)
    return Cropping(settings, weights, "detected", detect_precropped, f"faces: {reason}")


def best_detector(given: Path | None = None) -> tuple[Literal["haar", "yunet"], Path | None]:
    """YuNet if its weights can be had, or else Haar, which needs none.

    Raises:
        WeightsError: the given file is missing.
    """
    try:
        return "yunet", weights_file("yunet", given=given, insist=False)
    except WeightsError:
        if given is not None:
            raise
        return "haar", None


def look_at(dataset: Dataset, detector: FaceDetector | None) -> tuple[Literal["whole", "crops"], str]:
    """Whether images are crops of faces, and the sentence that says what was seen.

    Looks at up to 40 of them, spread evenly over the sorted paths, so that the answer is always the same.

    Args:
        dataset: the images.
        detector: finds faces. None asks whether images that are to be taken whole are crops: then small ones without
            a face are none, and the best detector is opened where it is needed.
    """
    as_asked = detector is None
    positions = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE_SIZE).astype(int))
    shares, sides = [], []
    for position in positions:
        try:
            rgb = dataset.read(dataset.samples[position])
        except (ImageError, OSError):
            continue
        sides.append(max(rgb.shape[:2]))
        if as_asked and sides[-1] <= TINY_SIDE:
            continue
        detector = detector or open_detector(*best_detector())
        shares.append(face_share(rgb, detector))
    if not sides:
        return "crops", "no image of the sample could be read"
    side = int(np.median(sides))
    found = [share for share in shares if share > 0]
    if found and len(found) * 4 >= len(sides):
        share = float(np.median(found))
        seen = f"faces fill {share:.0%} of the side in {len(found)} of {len(sides)} images looked at"
        return ("crops" if share >= FILLED else "whole"), seen
    if as_asked and not shares:
        return "crops", f"the {len(sides)} images looked at are {side} px large"
    seen = f"faces found in {len(found)} of {len(sides)} images looked at, which are {side} px large"
    return ("crops" if side <= (TINY_SIDE if as_asked else SMALL_SIDE) else "whole"), seen


def face_share(rgb: np.ndarray, detector: FaceDetector) -> float:
    """Side of the largest face as a share of the image's shorter side; 0 without a face.

    A face that touches the border is no face to a detector, and neither is one of 20 pixels: small images are
    enlarged, and all get a border before the detector looks.
    """
    height, width = rgb.shape[:2]
    scale = min(max(1.0, 200 / min(height, width)), 1000 / max(height, width))
    scaled = cv2.resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale))))
    border = min(scaled.shape[:2]) // 3
    framed = cv2.copyMakeBorder(scaled, border, border, border, border, cv2.BORDER_REPLICATE)
    faces = detector.detect(framed).largest_first()
    if len(faces) == 0:
        return 0.0
    x0, y0, x1, y1 = faces.xyxy[0]
    return float(max(x1 - x0, y1 - y0) / min(scaled.shape[:2]))


def _taken_whole(kind: CropKind, reason: str) -> Cropping:
    return Cropping(CropSettings.whole(), None, kind, reason=reason)


def _given(asked: Cropping, dataset: Dataset, unmarked: list) -> Cropping:
    n_marked = len(dataset) - len(unmarked)
    if not n_marked:
        raise DataError(
            f"expected images with boxes (columns left, top, right, bottom) in {dataset.root}, found none; name a "
            "detector"
        )
    reason = f"faces: the boxes of the data set, {n_marked:,} of {len(dataset):,} images have one"
    if unmarked:
        others = "taken whole, as the crops they are" if asked.settings.no_face == "whole" else "left out"
        reason += f", the others are {others}"
    # People who draw boxes draw no points to turn a face by.
    settings = replace(asked.settings, detector="given", detector_sha256=None, align=False)
    return Cropping(settings, None, "detected", reason=reason)


def _with_detector(asked: Cropping, detector: str, weights: Path | None, reason: str) -> Cropping:
    weights = _weights_of(detector, weights)
    digest = None if weights is None else file_sha256(weights)
    settings = replace(asked.settings, detector=detector, detector_sha256=digest)
    return Cropping(settings, weights, "detected", reason=reason)


def _weights_of(detector: str, given: Path | None) -> Path | None:
    if detector not in _WEIGHTS:
        if detector not in ("none", "haar", "mtcnn") and not detector.startswith(PREFIX):
            known = f"haar, yunet, mediapipe, mtcnn, {PREFIX}NAME, none"
            raise DataError(f"no detector is called {detector!r}; known: {known}")
        return given if ":" in detector or detector == "mtcnn" else None
    try:
        return weights_file(_WEIGHTS[detector], given=given)
    except WeightsError as error:
        if given is not None:
            raise
        raise WeightsError(
            f"{error}; or name such a file with --detector-weights, or take --detector haar"
        ) from None
