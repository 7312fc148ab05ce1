"""Decide how faces are taken out of images, and take them out."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ferkit.core.errors import DataError, ImageError, WeightsError
from ferkit.core.files import file_sha256
from ferkit.core.types import FaceDetector, Faces, TakesCrops
from ferkit.core.weights import weights_file
from ferkit.datasets.dataset import Dataset
from ferkit.faces.detectors import open_detector

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the image."""

DetectorName = str
"""``none``, ``given``, ``haar``, ``yunet``, ``mediapipe``, ``mtcnn``, or ``deepface:<name>``."""


@dataclass(frozen=True)
class FaceSettings:
    """Everything about cropping that changes a pixel.

    Attributes:
        detector: ``none`` takes each image whole, as the crop it is; ``given`` takes the box that the data set has
            for it (:attr:`ferkit.datasets.dataset.Sample.box`), and looks for nothing.
        detector_sha256: digest of the detector's weights, None where it has none.
        align: turn the face by its five points onto the ArcFace template, where the detector gives points.
        margin: what is added around the face on each side, as a share of its box (or template).
        faceless: what becomes of an image without a face, or without a given box: ``skip`` records a failure,
            ``whole`` takes it whole.
    """

    detector: DetectorName = "none"
    detector_sha256: str | None = None
    align: bool = True
    margin: float = 0.1
    faceless: Literal["skip", "whole"] = "skip"

    @staticmethod
    def whole() -> "FaceSettings":
        """Images that are crops already: nothing is looked for, so nothing else matters."""
        return FaceSettings("none", None, align=False, margin=0.0, faceless="whole")

    def box_for(self, box: Box | None) -> Box | None:
        """The box that a crop rests on, to a tenth of a pixel, where these settings take given ones."""
        if self.detector != "given" or box is None:
            return None
        left, top, right, bottom = (round(float(value), 1) for value in box)
        return left, top, right, bottom


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
    if (width, height) == size_wh:
        return rgb
    shrinks = width >= size_wh[0] and height >= size_wh[1]
    return cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


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


SAMPLE_SIZE = 40
FILLED = 0.65
"""A face whose box is at least this share of the image's shorter side fills it: the image is a crop already."""
SMALL_SIDE = 256
"""Images up to this many pixels are taken to be crops when hardly any face can be found in them."""


@dataclass(frozen=True)
class CropChoice:
    """Whether images are face crops already, and the sentence that says why."""

    whole: bool
    reason: str


def choose_cropping(dataset: Dataset, detector: FaceDetector) -> CropChoice:
    """Look at up to 40 images, spread evenly over the sorted paths, so that the answer is always the same."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, SAMPLE_SIZE).astype(int))
    shares, sides = [], []
    for position in positions:
        try:
            rgb = dataset.read(dataset.samples[position])
        except (ImageError, OSError):
            continue
        shares.append(face_share(rgb, detector))
        sides.append(max(rgb.shape[:2]))
    if not sides:
        return CropChoice(True, "no image of the sample could be read")
    found = [share for share in shares if share > 0]
    if len(found) * 4 >= len(shares):
        share = float(np.median(found))
        seen = f"faces fill {share:.0%} of the side in {len(found)} of {len(shares)} images looked at"
        return CropChoice(share >= FILLED, seen)
    side = int(np.median(sides))
    seen = f"faces found in {len(found)} of {len(shares)} images looked at, which are {side} px large"
    return CropChoice(side <= SMALL_SIDE, seen)


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


@dataclass(frozen=True)
class Crop:
    """A crop of the asked size, uint8 RGB (h, w, 3), and the face's box in the image (None: the whole image)."""

    rgb: np.ndarray
    xyxy: tuple[float, float, float, float] | None


class FaceCropper:
    """Takes faces out of images. May be used from many threads: each gets a detector of its own.

    Args:
        settings: how.
        open_detector: makes a detector; called once a thread, never for the detectors ``none`` and ``given``.
        size_wh: size of the crops.
        resize: how boxes are fitted to that size, see :func:`ferkit.faces.cropping.fit_to`.
    """

    def __init__(
        self,
        settings: FaceSettings,
        open_detector: Callable[[], FaceDetector],
        size_wh: tuple[int, int],
        resize: str,
    ) -> None:
        self.settings = settings
        self.size_wh = size_wh
        self.resize = resize
        self._open_detector = open_detector
        self._own = threading.local()

    def faces(self, rgb: np.ndarray) -> Faces:
        """All faces in ``rgb``, the largest first."""
        if not hasattr(self._own, "detector"):
            self._own.detector = self._open_detector()
        return self._own.detector.detect(rgb).largest_first()

    def largest(self, rgb: np.ndarray, box: Box | None = None) -> Crop:
        """The crop of the largest face, of the given box, or of the whole image, as the settings say.

        Args:
            rgb: uint8 (H, W, 3).
            box: that the data set has for the image; it counts where the settings take given ones.

        Raises:
            ImageError: there is no face, and the settings say to skip such images; or the box lies outside.
        """
        if self.settings.detector == "none":
            return Crop(fit_to(rgb, self.size_wh, self.resize), None)
        if self.settings.detector == "given":
            given = self.settings.box_for(box)
            faces = (
                Faces.none()
                if given is None
                else Faces(np.array([given], np.float32), np.ones(1, np.float32))
            )
        else:
            faces = self.faces(rgb)[:1]
        if len(faces) == 0:
            if self.settings.faceless == "whole":
                return Crop(fit_to(rgb, self.size_wh, self.resize), None)
            if self.settings.detector == "given":
                raise ImageError("the data set has no box for it")
            raise ImageError(f"no face found by {self.settings.detector}")
        x0, y0, x1, y1 = (round(float(value), 1) for value in faces.xyxy[0])
        return Crop(self.crops(rgb, faces)[0], (x0, y0, x1, y1))

    def crops(self, rgb: np.ndarray, faces: Faces) -> np.ndarray:
        """Crops (n, h, w, 3) uint8 of the given faces of ``rgb``."""
        align, margin = self.settings.align, self.settings.margin
        return crop_faces(rgb, faces, self.size_wh, align=align, margin=margin, resize=self.resize)


_WEIGHTS = {"yunet": "yunet", "mediapipe": "blaze_face"}


@dataclass(frozen=True)
class ResolvedDetector:
    """Settled: how faces are found and cut out.

    Attributes:
        settings: of the crops.
        weights: file of the detector, None where it has none.
        look_first: images that a face fills are taken whole.
        reason: the sentence that says why.
    """

    settings: FaceSettings
    weights: Path | None
    look_first: bool
    reason: str

    def open(self, min_confidence: float | None = None) -> FaceDetector:
        """A new detector; for ``none`` one that is never asked.

        Raises:
            WeightsError, DependencyError: see :func:`ferkit.faces.detectors.open_detector`.
        """
        name = "haar" if self.settings.detector == "none" else self.settings.detector
        return open_detector(name, self.weights, min_confidence)


def resolve_faces(
    trained: FaceSettings, detector: str = "auto", weights: Path | None = None
) -> ResolvedDetector:
    """Choose the detector for a model.

    Args:
        trained: how faces were taken out of the images that the model was trained on.
        detector: ``auto`` takes the one that the model was trained with, and for a model that was trained on
            whole crops or on given boxes the best that is there; ``none`` takes everything whole.
        weights: a file for the detector.

    Raises:
        WeightsError: the weights of a named detector, or of the one trained with, are missing.
    """
    if detector == "none":
        return ResolvedDetector(
            FaceSettings.whole(), None, False, "images are taken whole, as the crops they are"
        )
    if detector != "auto":
        name, reason = detector, f"as asked: {detector}"
    elif trained.detector not in ("none", "given"):
        name, reason = trained.detector, f"as in training: {trained.detector}"
    else:
        name, weights = best_detector(weights)
        reason = f"{name}; the model was trained on crops, so images that a face fills are taken whole"
        if trained.detector == "given":
            reason = f"{name}; the model was trained on the boxes of its data set"
        if name == "haar":
            reason += (
                " (YuNet finds more, but its weights are neither here nor to be had; see --detector-weights)"
            )
    if name in _WEIGHTS:
        weights = _weights(name, weights)
    look_first = trained.detector == "none" and detector == "auto"
    return ResolvedDetector(_settings(trained, name), weights, look_first, f"faces: {reason}")


def _weights(name: str, given: Path | None) -> Path:
    try:
        return weights_file(_WEIGHTS[name], given=given)
    except WeightsError as error:
        if given is not None:
            raise
        raise WeightsError(
            f"{error}; or name such a file with --detector-weights, or take --detector haar"
        ) from None


def _settings(trained: FaceSettings, detector: str) -> FaceSettings:
    # The digest is left out: nothing here is stored under it.
    if trained.detector == "none":
        # FER2013's crops are as wide as the longer side of a detector's box (median over 500 of them: 0.97 times
        # YuNet's, 1.02 times Haar's), and not turned upright. BlazeFace's boxes are smaller, 0.84 of them.
        margin = 0.09 if detector == "mediapipe" else 0.0
        return FaceSettings(detector, None, align=False, margin=margin, faceless="skip")
    return FaceSettings(detector, None, trained.align, trained.margin, trained.faceless)


@dataclass(frozen=True)
class CropOptions:
    """How a user wants faces taken out of images; ``auto`` looks at some images first.

    Attributes:
        detector: see :mod:`ferkit.faces.detectors`; ``given`` takes the boxes that the data set has, and ``auto`` does
            so too where it has some and its other images are crops.
        weights: a file for the detector to take instead of the one that would be fetched.
        align, margin, faceless: see :class:`ferkit.faces.cropping.FaceSettings`.
    """

    detector: Literal["auto", "none", "given", "haar", "yunet", "mediapipe"] = "auto"
    weights: Path | None = None
    align: bool = True
    margin: float = 0.1
    faceless: Literal["skip", "whole"] = "skip"


@dataclass(frozen=True)
class Cropping:
    """Settled: the settings, the detector's weights, and the sentence that says why."""

    settings: FaceSettings
    weights: Path | None
    reason: str


def resolve_cropping(dataset: Dataset, options: CropOptions) -> Cropping:
    """What ``auto`` becomes for these images.

    Raises:
        WeightsError: the named detector's weights are missing; ``auto`` takes Haar then.
        DataError: ``given``, and no image has a box.
    """
    unmarked = [sample for sample in dataset.samples if sample.box is None]
    n_marked = len(dataset) - len(unmarked)
    if options.detector == "given":
        return _given(options, n_marked, len(dataset), dataset.root)
    if options.detector != "auto":
        return _cropping(options, options.detector, f"faces: detector {options.detector}")
    if not unmarked:
        return _given(options, n_marked, len(dataset), dataset.root)
    detector, weights = best_detector(options.weights)
    choice = choose_cropping(dataset.subset(unmarked), open_detector(detector, weights))
    if choice.whole and n_marked:
        crops = replace(options, faceless="whole")
        return _given(crops, n_marked, len(dataset), dataset.root)
    if choice.whole:
        return _cropping(
            options, "none", f"faces: images are taken whole, as the crops they are ({choice.reason})"
        )
    reason = f"faces: detector {detector} ({choice.reason})"
    if n_marked:
        reason += (
            f"; only {n_marked:,} of {len(dataset):,} images have a box, so that none is used (--detector given "
            "takes those alone)"
        )
    return _cropping(options, detector, reason)


def best_detector(given: Path | None = None) -> tuple[Literal["haar", "yunet"], Path | None]:
    """YuNet if its weights can be had, or else Haar, which needs none.

    Raises:
        WeightsError: the given file is missing.
    """
    try:
        return "yunet", weights_file("yunet", given=given)
    except WeightsError:
        if given is not None:
            raise
        return "haar", None


def open_cropper(cropping: Cropping, network: TakesCrops) -> FaceCropper:
    """The cropper that feeds ``network``."""
    settings, weights = cropping.settings, cropping.weights
    return FaceCropper(
        settings, lambda: open_detector(settings.detector, weights), network.input_size_wh, network.resize
    )


def _given(options: CropOptions, n_marked: int, n: int, root: Path) -> Cropping:
    if not n_marked:
        raise DataError(
            f"expected images with boxes (columns left, top, right, bottom) in {root}, found none; name a detector"
        )
    reason = f"faces: the boxes of the data set, {n_marked:,} of {n:,} images have one"
    if n_marked < n:
        others = "taken whole, as the crops they are" if options.faceless == "whole" else "left out"
        reason += f", the others are {others}"
    # People who draw boxes draw no points to turn a face by.
    settings = FaceSettings("given", None, align=False, margin=options.margin, faceless=options.faceless)
    return Cropping(settings, None, reason)


def _cropping(
    options: CropOptions, detector: Literal["none", "haar", "yunet", "mediapipe"], reason: str
) -> Cropping:
    if detector == "none":
        return Cropping(FaceSettings.whole(), None, reason)
    names = {"yunet": "yunet", "mediapipe": "blaze_face"}
    weights = weights_file(names[detector], given=options.weights) if detector in names else None
    digest = file_sha256(weights) if weights is not None else None
    return Cropping(
        FaceSettings(detector, digest, options.align, options.margin, options.faceless), weights, reason
    )
