"""Draw batches, augmented and mixed.

Each layer draws from its own seed generator, whose state is a variable of the model: saved with a
checkpoint, so that a resumed run draws what the undisturbed one would have.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ferkit.classifiers.finetune.recipe import AugmentationSettings, SamplingSettings

VALUE_RANGE = (0, 255)
ERASED_AREA = (0.02, 0.2)  # part of the image a rectangle covers: a hand or a mask, never most of the face


class RandomGeometry(layers.Layer):
    """Flip, shift, rotate and zoom in one resampling: cheaper and sharper than one layer after the other."""

    def __init__(self, settings: AugmentationSettings, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        height, width = images.shape[1:3]
        u = keras.random.uniform((5, ops.shape(images)[0]), -1.0, 1.0, seed=self.seed_generator)
        angle = u[0] * math.radians(self.settings.rotate)
        scale = 1.0 + u[1] * self.settings.zoom
        mirror = ops.where(u[2] < 0, -1.0, 1.0) if self.settings.flip else ops.ones_like(angle)
        shift_x, shift_y = u[3] * self.settings.shift * width, u[4] * self.settings.shift * height
        # Output pixel -> input pixel, about the centre.
        cos, sin = ops.cos(angle) * scale, ops.sin(angle) * scale
        a, b, c, d = cos * mirror, -sin * mirror, sin, cos
        cx, cy = (width - 1) / 2, (height - 1) / 2
        x0 = cx - a * cx - b * cy + shift_x
        y0 = cy - c * cx - d * cy + shift_y
        zero = ops.zeros_like(a)
        matrix = ops.stack([a, b, x0, c, d, y0, zero, zero], axis=1)
        return ops.image.affine_transform(images, matrix, interpolation="bilinear", fill_mode="nearest")


class RandomLight(layers.Layer):
    """Brightness and contrast about mid-gray, and noise, in one pass."""

    def __init__(self, settings: AugmentationSettings, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any) -> Any:
        s, n = self.settings, ops.shape(images)[0]
        u = keras.random.uniform((2, n, 1, 1, 1), -1.0, 1.0, seed=self.seed_generator)
        out = (images - 127.5) * (1.0 + u[0] * s.contrast) + (127.5 + 255.0 * s.brightness * u[1])
        if s.noise:
            out = out + keras.random.normal(ops.shape(images), 0.0, s.noise, seed=self.seed_generator)
        return ops.clip(out, *VALUE_RANGE)


class RandomMix(layers.Layer):
    """MixUp for some batches, CutMix for others, neither for the rest."""

    def __init__(self, settings: AugmentationSettings, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.mixup = layers.MixUp(settings.mixup_alpha, seed=seed, dtype="float32")
        self.cutmix = layers.CutMix(settings.cutmix_alpha, seed=seed + 1, dtype="float32")
        self.seed_generator = keras.random.SeedGenerator(seed + 2)

    def build(self, images_shape: Any, targets_shape: Any) -> None:
        self.built = True  # the mixing layers have no weights to make

    def call(self, images: Any, targets: Any) -> Any:
        s = self.settings
        u = keras.random.uniform((), seed=self.seed_generator)
        chances = (
            (self.mixup, 0.0, s.mixup_probability),
            (self.cutmix, s.mixup_probability, s.cutmix_probability),
        )
        mixed_images, mixed_targets = images, targets
        for layer, start, probability in chances:
            if probability:
                mixed = layer({"images": images, "labels": targets})
                chosen = ops.logical_and(u >= start, u < start + probability)
                mixed_images = ops.where(
                    chosen, ops.reshape(mixed["images"], ops.shape(images)), mixed_images
                )
                mixed_targets = ops.where(chosen, mixed["labels"], mixed_targets)
        return mixed_images, mixed_targets


class Augmentation(layers.Layer):
    """All of a stage's changes: images float32 (n, H, W, C) in 0..255, targets float32 (n, k) or (n, 1)."""

    def __init__(
        self, settings: AugmentationSettings, channels: int, seed: int, mix: bool, **kwargs: Any
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        s = settings
        steps: list[layers.Layer] = []
        if s.flip or s.shift or s.rotate or s.zoom:
            steps.append(RandomGeometry(s, seed + 10))
        if (s.hue or s.saturation) and channels == 3:
            # Keras' saturation runs from 0 (gray) over 0.5 (as it is) to 1.
            saturation = (0.5 - s.saturation / 2, 0.5 + s.saturation / 2) if s.saturation else None
            steps.append(
                layers.RandomColorJitter(
                    VALUE_RANGE,
                    saturation_factor=saturation,
                    hue_factor=s.hue or None,
                    seed=seed + 20,
                    dtype="float32",
                )
            )
        if s.brightness or s.contrast or s.noise:
            steps.append(RandomLight(s, seed + 30))
        if s.randaugment:
            steps.append(
                layers.RandAugment(
                    VALUE_RANGE, s.randaugment, s.randaugment_magnitude, seed=seed + 40, dtype="float32"
                )
            )
        if s.erase:
            steps.append(
                layers.RandomErasing(
                    (s.erase, s.erase), ERASED_AREA, fill_value=127.5, seed=seed + 50, dtype="float32"
                )
            )
        self.steps = steps
        self.mix = RandomMix(s, seed + 60) if mix and (s.mixup_probability or s.cutmix_probability) else None

    def call(self, images: Any, targets: Any) -> Any:
        for step in self.steps:
            images = step(images)
        return self.mix(images, targets) if self.mix is not None else (images, targets)


ORDER, BALANCE, REPEAT = 0, 1, 2  # streams of random numbers, so that one choice never shifts another


def epoch_order(y: np.ndarray, sampling: SamplingSettings, seed: int, epoch: int) -> np.ndarray:
    """Row numbers in the order of ``epoch``: every row once, or as the sampling says.

    Args:
        y: class numbers (n,).
        sampling: balancing or oversampling.
        seed: of the run.
        epoch: counted over all stages, from 0.

    Returns:
        int64 (m,); m is n, or larger with ``target_per_class``.
    """
    n = len(y)
    if sampling.balanced:
        rng = np.random.default_rng([seed, BALANCE, epoch])
        classes, sizes = np.unique(y, return_counts=True)
        share = 1 / (len(classes) * sizes)
        return rng.choice(n, n, p=share[np.searchsorted(classes, y)])
    rows = np.arange(n)
    if sampling.target_per_class:
        rng = np.random.default_rng([seed, REPEAT, epoch])
        extra = [rows]
        for label in np.unique(y):
            own = np.flatnonzero(y == label)
            missing = sampling.target_per_class - len(own)
            if missing > 0:  # whole rounds first, so that no image is shown much oftener than another
                rounds, rest = divmod(missing, len(own))
                extra += [np.repeat(own, rounds), rng.choice(own, rest, replace=False)]
        rows = np.concatenate(extra)
    return np.random.default_rng([seed, ORDER, epoch]).permutation(rows)


class TrainingBatches(keras.utils.PyDataset):
    """Batches of one epoch: ``{"images": uint8 (b, H, W, C), "targets": float32 (b, k)}``.

    Of several accelerators each gets an equal part of a batch, so that an epoch may leave out the last few images
    of its order. The epoch is set from outside, by :class:`ferkit.classifiers.finetune.training.EpochStart`; the last
    batch may be smaller than the others.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        y: np.ndarray,
        sampling: SamplingSettings,
        batch_size: int,
        seed: int,
        devices: int = 1,
    ) -> None:
        super().__init__(workers=1)
        self._images, self._targets, self._y = images, targets, y
        self._sampling, self._batch_size, self._seed, self._devices = sampling, batch_size, seed, devices
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Show the images in the order of ``epoch`` from now on."""
        order = epoch_order(self._y, self._sampling, self._seed, epoch)
        self._order = order[: len(order) - len(order) % self._devices]

    @property
    def images_per_epoch(self) -> int:
        """Images shown in one epoch."""
        return len(self._order)

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, Any]]:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return ({"images": self._images[rows], "targets": self._targets[rows]},)
