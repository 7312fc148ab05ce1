"""Shape and type checks whose messages name what was expected and what was found."""

import numpy as np

from ferkit.core.errors import DataError, ModelError


def check_image(rgb: np.ndarray) -> np.ndarray:
    """Return ``rgb`` if it is an (H, W, 3) uint8 picture with at least one pixel.

    Raises:
        DataError: for any other shape or type.
    """
    if not (
        isinstance(rgb, np.ndarray)
        and rgb.ndim == 3
        and rgb.shape[2] == 3
        and rgb.size
        and rgb.dtype == np.uint8
    ):
        raise DataError(f"expected a uint8 RGB picture of shape (H, W, 3), found {_describe(rgb)}")
    return rgb


def check_crops(crops: np.ndarray, size_wh: tuple[int, int] | None = None) -> np.ndarray:
    """Return ``crops`` if it is an (n, H, W, 3) uint8 array, of width and height ``size_wh`` where given.

    Raises:
        DataError: for any other shape or type.
    """
    wanted = "(n, H, W, 3)" if size_wh is None else f"(n, {size_wh[1]}, {size_wh[0]}, 3)"
    right = (
        isinstance(crops, np.ndarray) and crops.ndim == 4 and crops.shape[3] == 3 and crops.dtype == np.uint8
    )
    if not right or (size_wh is not None and crops.shape[1:3] != (size_wh[1], size_wh[0])):
        raise DataError(f"expected uint8 RGB crops of shape {wanted}, found {_describe(crops)}")
    return crops


def check_features(X: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Return ``X`` if it is an (n, dim) array of finite floats.

    Raises:
        DataError: for another shape or type, or NaN or infinite values.
    """
    right = isinstance(X, np.ndarray) and X.ndim == 2 and np.issubdtype(X.dtype, np.floating)
    if not right or (dim is not None and X.shape[1] != dim):
        raise DataError(f"expected embeddings of shape (n, {dim or 'dim'}), float, found {_describe(X)}")
    # The sum is finite only if every value is (or if infinities cancel, which gives NaN): one cheap pass.
    with np.errstate(invalid="ignore"):
        total = X.sum(dtype=np.float64)
    if not np.isfinite(total):
        bad = int((~np.isfinite(X).all(axis=1)).sum())
        raise DataError(
            f"expected finite embeddings, found NaN or infinity in {bad} of {len(X)} rows; "
            "run 'fer embed' again with --dtype float32, or check the network"
        )
    return X


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__


def check_probabilities(proba: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """Return ``proba`` as float32 (n, k) if its rows are probabilities, within a hundredth.

    Args:
        proba: what a model gave.
        shape: rows and classes expected.
        name: of the model.

    Raises:
        ModelError: another shape, NaN, negative values, or rows that do not sum to 1.
    """
    proba = np.asarray(proba, np.float32)
    if proba.shape != shape:
        raise ModelError(f"the model {name} gives an output of shape {proba.shape}, expected {shape}")
    if not (
        np.isfinite(proba).all() and (proba >= -0.01).all() and (abs(proba.sum(axis=1) - 1) < 0.01).all()
    ):
        raise ModelError(
            f"the model {name} gives values that are no probabilities; train it again or take a copy of it"
        )
    return proba
