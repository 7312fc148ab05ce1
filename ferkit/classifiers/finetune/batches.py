"""Draw batches, augmented and mixed.

Each layer draws from its own seed generator, whose state is a variable of the model: saved with a
checkpoint, so that a resumed run draws what the undisturbed one would have.
"""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ferkit.classifiers.finetune.recipe import AugmentationSettings, SamplingSettings

VALUE_RANGE = (0, 255)
ERASED_AREA = (0.02, 0.2)  # part of the image a rectangle covers: a hand or a mask, never most of the face


class RandomChange(layers.Layer):
    """A change with strengths from the settings, and random numbers of its own."""

    def __init__(self, settings: AugmentationSettings, seed: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.settings = settings
        self.seed_generator = keras.random.SeedGenerator(seed)

    def made_to(self, n: Any, *names: str) -> dict[str, Any]:
        """To which of ``n`` images each of these changes is made, 0 or 1 (n,), by one draw for all of them.

        Where all images are changed nothing is drawn, as before there were probabilities.
        """
        shares = {name: self.settings.probability.get(name, 1.0) for name in names}
        if all(share == 1 for share in shares.values()):
            return dict.fromkeys(names, 1.0)
        u = keras.random.uniform((n,), seed=self.seed_generator)
        return {name: ops.cast(u < share, "float32") for name, share in shares.items()}


class RandomGeometry(RandomChange):
    """Flip, shift, rotate and zoom in one resampling: cheaper and sharper than one layer after the other."""

    def call(self, images: Any) -> Any:
        height, width = images.shape[1:3]
        s, n = self.settings, ops.shape(images)[0]
        u = keras.random.uniform((5, n), -1.0, 1.0, seed=self.seed_generator)
        made = self.made_to(n, "shift", "rotate", "zoom")
        angle = u[0] * made["rotate"] * math.radians(s.rotate)
        scale = 1.0 + u[1] * made["zoom"] * s.zoom
        flipped = 2 * s.probability.get("flip", 0.5) - 1
        mirror = ops.where(u[2] < flipped, -1.0, 1.0) if s.flip else ops.ones_like(angle)
        shift = s.shift * made["shift"]
        shift_x, shift_y = u[3] * shift * width, u[4] * shift * height
        # Output pixel -> input pixel, about the centre.
        cos, sin = ops.cos(angle) * scale, ops.sin(angle) * scale
        a, b, c, d = cos * mirror, -sin * mirror, sin, cos
        cx, cy = (width - 1) / 2, (height - 1) / 2
        x0 = cx - a * cx - b * cy + shift_x
        y0 = cy - c * cx - d * cy + shift_y
        zero = ops.zeros_like(a)
        matrix = ops.stack([a, b, x0, c, d, y0, zero, zero], axis=1)
        return ops.image.affine_transform(images, matrix, interpolation="bilinear", fill_mode="nearest")


class RandomLight(RandomChange):
    """Brightness and contrast about mid-gray, and noise, in one pass."""

    def call(self, images: Any) -> Any:
        s, n = self.settings, ops.shape(images)[0]
        u = keras.random.uniform((2, n, 1, 1, 1), -1.0, 1.0, seed=self.seed_generator)
        made = {name: _per_image(share) for name, share in self.made_to(n, "brightness", "contrast").items()}
        contrast, brightness = s.contrast * made["contrast"], 255.0 * s.brightness * made["brightness"]
        out = (images - 127.5) * (1.0 + u[0] * contrast) + (127.5 + brightness * u[1])
        if s.noise:
            strength = s.noise * _per_image(self.made_to(n, "noise")["noise"])
            out = out + strength * keras.random.normal(ops.shape(images), seed=self.seed_generator)
        if any(s.noise_variance):
            variance = keras.random.uniform((n,), *s.noise_variance, seed=self.seed_generator)
            strength = ops.sqrt(variance) * self.made_to(n, "noise_variance")["noise_variance"]
            out = out + _per_image(strength) * keras.random.normal(
                ops.shape(images), seed=self.seed_generator
            )
        return ops.clip(out, *VALUE_RANGE)


class RandomHsv(RandomChange):
    """Hue, saturation and value shifted, in OpenCV's units."""

    def call(self, images: Any) -> Any:
        n = ops.shape(images)[0]
        u = keras.random.uniform((n, 1, 1, 3), -1.0, 1.0, seed=self.seed_generator)
        strength = np.array(self.settings.hsv_shift, np.float32) / np.array([180, 255, 255], np.float32)
        made = _per_image(self.made_to(n, "hsv_shift")["hsv_shift"])
        hsv = ops.image.rgb_to_hsv(images / 255.0) + u * strength * made
        hue, rest = ops.mod(hsv[..., :1], 1.0), ops.clip(hsv[..., 1:], 0.0, 1.0)
        return 255.0 * ops.image.hsv_to_rgb(ops.concatenate([hue, rest], axis=-1))


class Sometimes(RandomChange):
    """A layer of Keras that changes a part of the images only."""

    def __init__(self, settings: AugmentationSettings, seed: int, change: layers.Layer, *names: str) -> None:
        super().__init__(settings, seed)
        self.change, self.names = change, names

    def call(self, images: Any) -> Any:
        made = self.made_to(ops.shape(images)[0], *self.names)
        chosen = functools.reduce(ops.maximum, made.values())
        return ops.where(_per_image(chosen) > 0, self.change(images), images)


def _per_image(values: Any) -> Any:
    """(n, 1, 1, 1) from (n,); a number stays."""
    return values if isinstance(values, float) else ops.reshape(values, (-1, 1, 1, 1))


class RandomMix(RandomChange):
    """MixUp for some batches, CutMix for others, neither for the rest."""

    def __init__(self, settings: AugmentationSettings, seed: int) -> None:
        super().__init__(settings, seed + 2)
        self.mixup = layers.MixUp(settings.mixup_alpha, seed=seed, dtype="float32")
        self.cutmix = layers.CutMix(settings.cutmix_alpha, seed=seed + 1, dtype="float32")

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

    def __init__(self, settings: AugmentationSettings, channels: int, seed: int, mix: bool) -> None:
        super().__init__(dtype="float32")
        s = settings
        steps: list[layers.Layer] = []
        if s.flip or s.shift or s.rotate or s.zoom:
            steps.append(RandomGeometry(s, seed + 10))
        if any(s.hsv_shift) and channels == 3:
            steps.append(RandomHsv(s, seed + 25))
        if (s.hue or s.saturation) and channels == 3:
            # Keras' saturation runs from 0 (gray) over 0.5 (as it is) to 1.
            saturation = (0.5 - s.saturation / 2, 0.5 + s.saturation / 2) if s.saturation else None
            jitter = layers.RandomColorJitter(
                VALUE_RANGE,
                saturation_factor=saturation,
                hue_factor=s.hue or None,
                seed=seed + 20,
                dtype="float32",
            )
            steps.append(_sometimes(s, seed + 21, jitter, "hue", "saturation"))
        if s.brightness or s.contrast or s.noise or any(s.noise_variance):
            steps.append(RandomLight(s, seed + 30))
        if s.randaugment:
            augment = layers.RandAugment(
                VALUE_RANGE, s.randaugment, s.randaugment_magnitude, seed=seed + 40, dtype="float32"
            )
            steps.append(_sometimes(s, seed + 41, augment, "randaugment"))
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


def _sometimes(settings: AugmentationSettings, seed: int, change: layers.Layer, *names: str) -> layers.Layer:
    used = [name for name in names if getattr(settings, name)]
    given = any(name in settings.probability for name in used)
    return Sometimes(settings, seed, change, *used) if given else change


STRENGTHS = ("shift", "rotate", "zoom", "brightness", "contrast", "hue", "saturation", "hsv_shift", "noise",
             "noise_variance")  # fmt: skip


def scaled(settings: AugmentationSettings, factor: float) -> AugmentationSettings:
    """The same changes, each ``factor`` times as strong and at most as strong as it can be."""
    if factor == 1:
        return settings
    changed: dict[str, Any] = {}
    for name in STRENGTHS:
        value = getattr(settings, name)
        power = factor**2 if name == "noise_variance" else factor
        if isinstance(value, tuple):
            changed[name] = tuple(part * power for part in value)
        else:
            changed[name] = value * power if name in ("rotate", "noise") else min(1.0, value * power)
    return dataclasses.replace(settings, **changed)


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
