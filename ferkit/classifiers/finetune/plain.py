"""A plain convolutional network, the kind a course begins with: the floor that deeper networks must beat."""

import keras
from keras import layers

WIDTHS = (32, 64, 128)
FEATURES = WIDTHS[-1]


def plain(input_shape: tuple[int, int, int]) -> keras.Model:
    """Maps of (H/8, W/8, 128) from images (H, W, C) of about -2..2; 93 thousand weights."""
    images = x = keras.Input(input_shape)
    for block, width in enumerate(WIDTHS, start=1):
        x = layers.Conv2D(
            width, 3, padding="same", kernel_initializer="he_normal", name=f"block{block}_conv"
        )(x)
        x = layers.ReLU(name=f"block{block}_relu")(x)
        x = layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
        x = layers.BatchNormalization(momentum=0.95, name=f"block{block}_bn")(x)
    return keras.Model(images, x, name="backbone")
