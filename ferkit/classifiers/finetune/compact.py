"""A small residual network for 48x48 faces that trains on a laptop's processor.

Full 3x3 convolutions on few, small maps: on processors they reach several times the arithmetic rate of
depthwise ones (measured, see ``docs/finetune.md``), so that for the same time the network may be wider. The
stem halves the picture at once, pooling halves it twice more, and identity shortcuts (He et al. 2016) pass
over every second convolution.
"""

from typing import Any

import keras
from keras import layers

WIDTH = 48
FEATURES = 4 * WIDTH


def compact(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/8, W/8, 192) from images (H, W, C) of about -2..2; 0.65 million weights."""
    images = keras.Input(input_shape)
    x = convolution(images, WIDTH, "stem", kernel=5, strides=2)
    x = _residual(x, WIDTH, "stage1")
    for i, width in enumerate((2 * WIDTH, FEATURES), start=2):
        x = layers.MaxPooling2D(2, padding="same", name=f"stage{i}_pool")(x)
        x = convolution(x, width, f"stage{i}_widen")
        x = _residual(x, width, f"stage{i}")
    return keras.Model(images, x, name="backbone")


def _residual(x: Any, width: int, name: str) -> Any:
    y = convolution(x, width, name, relu=False)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))


def convolution(
    x: Any, width: int, name: str, kernel: int = 3, strides: int = 1, *, relu: bool = True
) -> Any:
    """Convolution, batch normalisation and, as a rule, ReLU."""
    x = layers.Conv2D(
        width, kernel, strides, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(momentum=0.95, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x
