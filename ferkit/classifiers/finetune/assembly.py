"""Putting a network together, and the contract of the saved one.

    uint8 RGB crops ──> gray? ──> core: scaling ─> backbone ─> pooling ─> dropout ─> logits ──> softmax or
    sigmoid
                                  └─────────────── what is trained ──────────────────────┘

The whole network takes 0..255 RGB and gives probabilities, so that no caller needs to know its
preprocessing. Only
layers that Keras has itself are used: anybody's Keras can load the file.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np
from keras import layers

from ferkit.classifiers.finetune.backbones import build_backbone, input_shape
from ferkit.classifiers.finetune.settings import NetworkSettings
from ferkit.core.errors import TrainingError, WeightsError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what JPEG, Pillow and OpenCV call gray


def output_units(settings: NetworkSettings, n_classes: int) -> int:
    """Columns of the logits: one for a sigmoid.

    Raises:
        TrainingError: fewer than two classes, or a sigmoid for more.
    """
    if n_classes < 2:
        raise TrainingError(f"expected at least two classes to tell apart, found {n_classes}")
    if settings.output == "sigmoid" and n_classes != 2:
        raise TrainingError(
            f"a sigmoid output tells two classes apart, found {n_classes}; use output = softmax"
        )
    return 1 if settings.output == "sigmoid" else n_classes


def build_core(settings: NetworkSettings, n_classes: int, precision: str = "float32") -> keras.Model:
    """The part that is trained: (n, H, W, 1 or 3) of 0..255 to float32 logits (n, k), or (n, 1) for a
    sigmoid.

    Raises:
        TrainingError: an unknown backbone, or an output that does not fit the classes.
        WeightsError: see :func:`ferkit.classifiers.finetune.backbones.build_backbone`.
    """
    units = output_units(settings, n_classes)
    shape = input_shape(settings)
    with _dtype_policy(precision):
        backbone, preprocessing = build_backbone(settings)
        images = keras.Input((*shape[:2], 1 if settings.color == "gray" else 3), name="images")
        x = (
            layers.Concatenate(name="three_channels")([images] * 3)
            if shape[2] == 3 != images.shape[-1]
            else images
        )
        x = layers.Rescaling(_number(preprocessing.scale), _number(preprocessing.offset), name="scaling")(x)
        maps = backbone(x)
        if len(maps.shape) != 4 or 0 in maps.shape[1:3]:
            raise WeightsError(
                f"{settings.backbone} gives {maps.shape} for images of {shape[:2]}; make --input-size larger"
            )
        x = layers.GlobalAveragePooling2D(name="features")(maps)
        x = layers.Dropout(settings.dropout, name="dropout")(x)
        if settings.hidden:
            x = layers.Dense(settings.hidden, "relu", name="hidden")(x)
            x = layers.Dropout(settings.dropout, name="hidden_dropout")(x)
        logits = layers.Dense(units, dtype="float32", name="logits")(x)
        return keras.Model(images, logits, name="core")


def whole_network(core: keras.Model, settings: NetworkSettings, n_classes: int) -> keras.Model:
    """float32 (n, H, W, 3) RGB 0..255 to probabilities (n, k), or (n, 1) for a sigmoid; always in float32.

    The weights are those of ``core``, copied.
    """
    # Weights trained in mixed precision are kept in float32; only the arithmetic has to be declared anew.
    plain = build_core(_without_weights(settings), n_classes)
    plain.set_weights(core.get_weights())
    height, width, channels = plain.input_shape[1:]
    images = x = keras.Input((height, width, 3), name="images")
    if channels == 1:
        gray = layers.Dense(1, use_bias=False, trainable=False, name="gray")
        x = gray(x)
        gray.set_weights([np.array(LUMA, np.float32)[:, None]])
    activation = "sigmoid" if settings.output == "sigmoid" else "softmax"
    return keras.Model(images, layers.Activation(activation, name="probabilities")(plain(x)), name="network")


def _without_weights(settings: NetworkSettings) -> NetworkSettings:
    return replace(settings, weights="none")


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _number(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)
