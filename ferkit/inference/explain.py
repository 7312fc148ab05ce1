"""Where in a face the answer comes from: what happens to it when a part is hidden."""

import cv2
import numpy as np

from ferkit.core.arrays import check_crops
from ferkit.core.errors import DataError
from ferkit.core.protocols import ExpressionClassifier

_BATCH = 32


def occlusion_map(
    classifier: ExpressionClassifier, crop: np.ndarray, target: int, *, patch: float = 0.22, steps: int = 14
) -> np.ndarray:
    """How much the log-odds of a class fall when a patch around each place is blurred away (after Zeiler and
    Fergus, ECCV 2014, who covered it in gray: blur hides what is there without adding an edge).

    Works for any classifier, since it only asks.

    Args:
        classifier: takes the crop.
        crop: uint8 RGB (h, w, 3) of the classifier's input size.
        target: position of the class.
        patch: side of the patch, as a share of the crop's.
        steps: places along each side; ``steps ** 2`` crops are classified.

    Returns:
        float32 (h, w): positive where the class is supported, negative where something speaks against it.

    Raises:
        DataError: a crop of another size, or no such class.
    """
    check_crops(crop[None], classifier.input_size_wh)
    if not 0 <= target < len(classifier.labels):
        raise DataError(f"expected a class from 0 to {len(classifier.labels) - 1}, found {target}")
    height, width = crop.shape[:2]
    sigma = patch * max(height, width) / 2
    hidden = cv2.GaussianBlur(crop, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    masks = _soft_patches(height, width, patch, steps)
    drops = []
    whole = _log_odds(classifier.predict_proba(crop[None]))[0, target]
    for first in range(0, len(masks), _BATCH):
        part = masks[first : first + _BATCH, ..., None]
        covered = np.round(crop * (1 - part) + hidden * part).astype(np.uint8)
        drops.append(whole - _log_odds(classifier.predict_proba(covered))[:, target])
    weights = np.concatenate(drops)
    total = np.tensordot(weights, masks, axes=1)
    return (total / np.maximum(masks.sum(axis=0), 1e-6)).astype(np.float32)


def _soft_patches(height: int, width: int, patch: float, steps: int) -> np.ndarray:
    """float32 (steps ** 2, height, width), 0..1: round patches with soft edges, over the whole crop."""
    radius = patch * max(height, width) / 2
    ys, xs = np.linspace(0, height - 1, steps), np.linspace(0, width - 1, steps)
    down = (np.arange(height) - ys[:, None]) ** 2
    across = (np.arange(width) - xs[:, None]) ** 2
    squared = down[:, None, :, None] + across[None, :, None, :]
    return np.exp(-((squared / radius**2) ** 2) / 2).astype(np.float32).reshape(-1, height, width)


def _log_odds(proba: np.ndarray) -> np.ndarray:
    clipped = np.clip(proba.astype(np.float64), 1e-5, 1 - 1e-5)
    return np.log(clipped / (1 - clipped))


def heat(rgb: np.ndarray, importance: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """``rgb`` (h, w, 3) with importance (H, W) laid over it: red supports, blue speaks against, gray is neither."""
    size_wh = rgb.shape[1], rgb.shape[0]
    scaled = cv2.resize(importance.astype(np.float32), size_wh, interpolation=cv2.INTER_CUBIC)
    top = float(np.percentile(np.abs(scaled), 99.5))
    share = np.clip(scaled / top, -1, 1)[..., None] if top > 1e-6 else np.zeros((*scaled.shape, 1))
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.float32)
    color = np.where(share > 0, np.array([235, 40, 20]), np.array([30, 90, 240]))
    alpha = np.abs(share) * strength
    return np.clip(gray * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)
