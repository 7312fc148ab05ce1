from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest

from ferkit.classifiers.finetune.batches import Augmentation
from ferkit.classifiers.finetune.recipe import AugmentationSettings

OFF = AugmentationSettings(flip=False, shift=0, rotate=0, zoom=0, brightness=0, contrast=0)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 24, 24, 3)).astype(np.float32)
TARGETS = np.eye(4, dtype=np.float32)[np.arange(64) % 4]


def augmented(
    settings: AugmentationSettings, images: np.ndarray = IMAGES, mix: bool = True, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    found, targets = Augmentation(settings, images.shape[-1], seed, mix)(images, TARGETS[: len(images)])
    return keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(targets)


def test_without_changes_images_stay() -> None:
    images, targets = augmented(OFF)
    assert (images == IMAGES).all()
    assert (targets == TARGETS).all()


def test_flip_mirrors_about_half_of_the_images_exactly() -> None:
    images, _ = augmented(replace(OFF, flip=True))
    same = np.isclose(images, IMAGES, atol=1e-2).all((1, 2, 3))
    mirrored = np.isclose(images, IMAGES[:, :, ::-1], atol=1e-2).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 15 < mirrored.sum() < 49


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flip", {"flip": True}), ("shift", {"shift": 0.3}), ("rotate", {"rotate": 40.0}), ("zoom", {"zoom": 0.5}),
        ("brightness", {"brightness": 0.3}), ("contrast", {"contrast": 0.9}), ("noise", {"noise": 9.0}),
        ("noise_variance", {"noise_variance": (50.0, 90.0)}), ("hsv_shift", {"hsv_shift": (9.0, 40.0, 40.0)}),
        ("hue", {"hue": 0.4}), ("saturation", {"saturation": 0.9}), ("randaugment", {"randaugment": 2}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_change_is_made_to_the_share_of_images_that_is_asked_for(
    name: str, change: dict[str, object], share: float
) -> None:
    images, _ = augmented(replace(OFF, **change, probability={name: share}))
    changed = (np.abs(images - IMAGES).max((1, 2, 3)) > 1).sum()
    assert changed == 0 if share == 0 else 2 <= changed <= 32


def test_changes_of_one_kind_are_made_together() -> None:
    gray = np.full_like(IMAGES, 90)
    settings = replace(OFF, brightness=0.3, contrast=0.9, probability={"brightness": 0.5, "contrast": 0.5})
    both = augmented(settings, gray)[0].std((1, 2, 3)), augmented(settings, gray)[0].mean((1, 2, 3))
    assert 16 < (np.abs(both[1] - 90) > 1e-3).sum() < 48  # apart, three of four images would change


def test_hsv_shifts_are_in_the_units_of_opencv() -> None:
    images, _ = augmented(replace(OFF, hsv_shift=(5.0, 10.0, 10.0)))
    changed, before = (
        np.stack([cv2.cvtColor(i.clip(0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV) for i in x]).astype(int)
        for x in (images, IMAGES)
    )
    free = (before[..., 1] > 40) & (before[..., 1] < 200) & (before[..., 2] > 60) & (before[..., 2] < 230)
    hue = np.abs((changed - before)[..., 0] + 90) % 180 - 90
    assert 3 <= np.abs(hue[free]).max() <= 7  # and rounding
    for channel in (1, 2):
        difference = np.abs(changed - before)[..., channel][free]
        assert 7 <= difference.max() <= 13


def test_the_variance_of_noise_is_drawn_between_two_values() -> None:
    noisy, _ = augmented(replace(OFF, noise_variance=(10.0, 50.0)), np.full_like(IMAGES, 128))
    variance = noisy.var((1, 2, 3))
    assert 8 < variance.min() < 20
    assert 40 < variance.max() < 56


@pytest.mark.parametrize("change", [{"shift": 0.25}, {"rotate": 40.0}, {"zoom": 0.4}])
def test_geometry_moves_a_centred_disc_as_little_as_its_setting_says(change: dict[str, float]) -> None:
    yy, xx = np.mgrid[:25, :25] - 12
    disc = np.repeat(((yy**2 + xx**2 < 16) * 255.0)[None, :, :, None], 64, axis=0).astype(np.float32)
    images, _ = augmented(replace(OFF, **change), disc)
    mass = images[..., 0].sum((1, 2))
    centre_x = (images[..., 0] * xx).sum((1, 2)) / mass
    size = mass / disc[0].sum()
    if "shift" in change:
        assert 4 < np.abs(centre_x).max() <= 0.25 * 25 + 0.1
        assert size == pytest.approx(np.ones(64), abs=0.02)
    else:
        assert np.abs(centre_x).max() < 0.2
    if "zoom" in change:
        assert size.min() < 0.7  # at most 1 / 1.4^2 and 1 / 0.6^2
        assert 1.5 < size.max() < 2.9


def test_light_keeps_the_range_and_noise_has_its_strength() -> None:
    images, _ = augmented(replace(OFF, brightness=0.5, contrast=0.9))
    assert images.min() >= 0
    assert images.max() <= 255
    assert np.abs(images.mean((1, 2, 3)) - IMAGES.mean((1, 2, 3))).max() > 40
    gray = np.full_like(IMAGES, 128)
    noisy, _ = augmented(replace(OFF, noise=6.0), gray)
    assert noisy.std() == pytest.approx(6.0, rel=0.05)


def test_erasing_fills_rectangles_with_gray_in_the_given_part_of_the_images() -> None:
    images, _ = augmented(replace(OFF, erase=0.5), np.zeros_like(IMAGES))
    area = (images[..., 0] == 127.5).mean((1, 2))
    assert 18 <= (area > 0).sum() <= 46
    assert area.max() < 0.25


def test_colour_changes_leave_gray_images_alone() -> None:
    settings = replace(OFF, hue=0.3, saturation=0.8)
    images, _ = augmented(settings)
    assert np.abs(images - IMAGES).mean() > 5
    gray = IMAGES[..., :1]
    assert (augmented(settings, gray)[0] == gray).all()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_targets_as_it_mixes_images(kind: str) -> None:
    plain = np.repeat(np.argmax(TARGETS, axis=1)[:, None, None, None] * 60.0, 24, axis=1).astype(np.float32)
    plain = np.repeat(plain, 24, axis=2)
    settings = replace(OFF, **{f"{kind}_probability": 1.0, f"{kind}_alpha": 1.0})
    images, targets = augmented(settings, plain)
    assert targets.sum(axis=1) == pytest.approx(np.ones(64), abs=1e-5)
    assert (targets.max(axis=1) < 0.99).sum() > 20
    # The mean gray of an image is that of its classes, weighed by its targets; a pasted rectangle covers
    # whole pixels, but counts with its exact area.
    tolerance = 0.01 if kind == "mixup" else 180 * 2 / 24
    assert images.mean((1, 2, 3)) == pytest.approx(targets @ (np.arange(4) * 60.0), abs=tolerance)
    if kind == "cutmix":
        assert set(np.unique(images)) <= {0.0, 60.0, 120.0, 180.0}


def test_mixing_can_be_off_for_a_stage_and_happens_as_often_as_it_should() -> None:
    settings = replace(OFF, mixup_probability=0.5, cutmix_probability=0.25)
    assert (augmented(settings, mix=False)[1] == TARGETS).all()
    layer = Augmentation(settings, 3, 0, True)
    mixed = sum(
        bool((keras.ops.convert_to_numpy(layer(IMAGES[:8], TARGETS[:8])[1]) != TARGETS[:8]).any())
        for _ in range(40)
    )
    assert 20 <= mixed <= 39


def test_randaugment_changes_images_within_the_range() -> None:
    images, _ = augmented(replace(OFF, randaugment=2, randaugment_magnitude=0.3))
    assert images.min() >= 0
    assert images.max() <= 255
    assert np.abs(images - IMAGES).max() > 1


def test_draws_depend_on_seed_and_state_alone() -> None:
    settings = replace(AugmentationSettings(), erase=0.5, mixup_probability=1.0)
    layer, other = Augmentation(settings, 3, 1, True), Augmentation(settings, 3, 1, True)
    first = [keras.ops.convert_to_numpy(layer(IMAGES, TARGETS)[0]) for _ in range(2)]
    assert (first[0] != first[1]).any()
    other(IMAGES, TARGETS)
    for mine, yours in zip(other.variables, layer.variables, strict=True):
        assert mine.shape == yours.shape
    second = keras.ops.convert_to_numpy(other(IMAGES, TARGETS)[0])
    assert (second == first[1]).all()
