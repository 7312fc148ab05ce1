import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import keras
import numpy as np
import pytest

from ferkit.classifiers.finetune import batches
from ferkit.classifiers.finetune import training as callbacks
from ferkit.classifiers.finetune.batches import scaled
from ferkit.classifiers.finetune.data import training_targets
from ferkit.classifiers.finetune.networks import build_core
from ferkit.classifiers.finetune.recipe import (
    AugmentationSettings,
    LossSettings,
    NetworkSettings,
    OptimizerSettings,
    RecipeSettings,
    StageSettings,
)
from ferkit.classifiers.finetune.training import (
    TrainingData,
    TrainingResult,
    cross_entropy,
    load_best,
    log_probabilities,
    loss_of_stage,
    optimizer_of,
    train,
)
from ferkit.core.errors import FerkitError, SettingsMismatchError, TrainingError
from tests.classifiers.finetune.corners import make_pixels
from tests.heard import heard

RECIPE = RecipeSettings(
    network=NetworkSettings(backbone="plain", input_size_wh=(24, 24), dropout=0.2),
    stages=(
        StageSettings(epochs=1, learning_rate=1e-3, unfreeze="none"),
        StageSettings(epochs=3, learning_rate=1e-3, warmup_epochs=1, mix=False),
    ),
    augmentation=AugmentationSettings(
        shift=0.05, erase=0.2, noise=2.0, mixup_probability=0.4, cutmix_probability=0.4
    ),
    optimizer=OptimizerSettings(ema=0.9, clip_norm=1.0),
    batch_size=16,
    seed=4,
)
SMALL = replace(RECIPE, stages=(StageSettings(epochs=2, learning_rate=1e-3, augment=False),))


class InterruptError(Exception):
    pass


def run(
    recipe: RecipeSettings, folder: Path, say: Callable[[str], object] = lambda line: None, **options: bool
) -> TrainingResult:
    keras.utils.set_random_seed(recipe.seed)
    pixels = make_pixels(72)
    data = TrainingData(pixels, training_targets(pixels.y, 3, recipe.loss), make_pixels(30, seed=1))
    core = build_core(recipe.network, 3, recipe.precision)
    with heard(say):
        return train(core, recipe, data, folder, {"recipe": asdict(recipe)}, **options)


def losses(result: TrainingResult) -> np.ndarray:
    return np.array([(row.loss, row.val_loss, row.learning_rate) for row in result.history])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(RECIPE, tmp_path_factory.mktemp("undisturbed"))


def stop_after(epoch: int) -> Callable[[str], object]:
    def say(line: str) -> None:
        if re.match(rf"epoch {epoch}/\d+: loss", line):  # a slow machine says how far an epoch is, too
            raise InterruptError

    return say


def test_the_same_seed_gives_the_same_curve(undisturbed: TrainingResult, tmp_path: Path) -> None:
    assert (losses(run(RECIPE, tmp_path)) == losses(undisturbed)).all()


def test_another_seed_gives_another_curve(tmp_path: Path) -> None:
    short = replace(SMALL, stages=(StageSettings(epochs=1, augment=False),))
    one, other = run(short, tmp_path / "one"), run(replace(short, seed=5), tmp_path / "other")
    assert (losses(one)[:, :2] != losses(other)[:, :2]).all()


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_goes_on_as_if_undisturbed(
    undisturbed: TrainingResult, tmp_path: Path, epoch: int
) -> None:
    with pytest.raises(InterruptError):
        run(RECIPE, tmp_path, stop_after(epoch))
    resumed = run(RECIPE, tmp_path)
    assert len(resumed.history) == 4
    assert losses(resumed) == pytest.approx(losses(undisturbed), abs=1e-5)
    assert resumed.best.epoch == undisturbed.best.epoch


def test_a_run_killed_in_mid_epoch_goes_on_as_if_undisturbed(
    undisturbed: TrainingResult, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.classifiers.finetune.test_finetune_train import RECIPE, run\n"
        "run(RECIPE, Path(sys.argv[1]), lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):  # how far it is, or its end
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=60)
    assert losses(run(RECIPE, tmp_path)) == pytest.approx(losses(undisturbed), abs=1e-5)


def test_images_are_shown_in_the_order_of_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras may read batches ahead, but only of the epoch that has begun."""
    asked: list[tuple[int, bytes]] = []
    original = batches.TrainingBatches.__getitem__

    def spy(self: batches.TrainingBatches, index: int) -> tuple[dict[str, np.ndarray]]:
        found = original(self, index)
        asked.append((index, found[0]["images"].tobytes()))
        return found

    monkeypatch.setattr(batches.TrainingBatches, "__getitem__", spy)
    run(SMALL, tmp_path)
    pixels = make_pixels(72)
    n = -(-72 // SMALL.batch_size)
    for epoch in (0, 1):
        order = batches.epoch_order(pixels.y, SMALL.sampling, SMALL.seed, epoch)
        expected = [pixels.images[order[i : i + 16]].tobytes() for i in range(0, 72, 16)]
        shown = asked[len(asked) - (2 - epoch) * n :][:n]
        assert [content for _, content in shown] == expected


def test_a_resume_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    with pytest.raises(InterruptError):
        run(SMALL, tmp_path, stop_after(1))
    other = replace(SMALL, batch_size=32, optimizer=OptimizerSettings(ema=0.5, clip_norm=1.0))
    with pytest.raises(SettingsMismatchError, match=r"\(recipe.batch_size, recipe.optimizer.ema\)"):
        run(other, tmp_path)


def test_learning_works_and_the_best_epoch_is_kept(tmp_path: Path) -> None:
    recipe = replace(
        SMALL,
        stages=(StageSettings(epochs=8, learning_rate=3e-3, early_stopping=4, augment=False),),
        optimizer=OptimizerSettings(),
    )
    result = run(recipe, tmp_path)
    assert result.best.val_macro_f1 > 0.9
    assert result.best.val_macro_f1 == max(row.val_macro_f1 for row in result.history)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (tmp_path / "history.csv").read_text().splitlines()
    assert header.startswith("epoch,stage,learning_rate,loss")
    assert [line.split(",")[0] for line in lines] == [str(record.epoch) for record in result.history]


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = np.savez

    def full(file: IO[bytes], **arrays: np.ndarray) -> None:
        if (tmp_path / "checkpoint.npz").exists():
            file.write(b"half a che")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FerkitError, match=r"disk is full: .*npz"):
        run(SMALL, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    monkeypatch.setattr(np, "savez", original)
    went_on = run(SMALL, tmp_path)
    assert [row.epoch for row in went_on.history] == [1, 2]
    assert losses(went_on) == pytest.approx(losses(run(SMALL, tmp_path / "undisturbed")), abs=1e-5)


def poison(monkeypatch: pytest.MonkeyPatch, from_epoch: int) -> None:
    original = callbacks.EpochStart.on_epoch_begin

    def poisoned(self: callbacks.EpochStart, epoch: int, logs: object = None) -> None:
        original(self, epoch)
        if epoch >= from_epoch:
            self.model.optimizer.learning_rate = float("nan")

    monkeypatch.setattr(callbacks.EpochStart, "on_epoch_begin", poisoned)


def test_nan_stops_the_run_and_keeps_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, from_epoch=1)
    result = run(replace(SMALL, stages=(StageSettings(epochs=4, augment=False),)), tmp_path)
    assert result.nan_epoch == 2
    assert len(result.history) == 1
    assert np.isfinite(losses(result)).all()
    assert all(np.isfinite(value).all() for value in load_best(tmp_path))


def test_nan_in_the_first_epoch_says_what_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, from_epoch=0)
    with pytest.raises(TrainingError, match=r"NaN in epoch 1; try a lower learning rate.*clip_norm"):
        run(SMALL, tmp_path)
    assert not (tmp_path / "checkpoint.npz").exists()


def test_the_loss_agrees_with_its_definition() -> None:
    logits = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], np.float32)
    targets = np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def found(loss: LossSettings, weights: np.ndarray | None = None) -> float:
        return float(cross_entropy(log_probabilities(keras.ops.array(logits)), targets, loss, weights))

    assert found(LossSettings()) == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)
    smoothed = targets * 0.7 + 0.1
    assert found(LossSettings(label_smoothing=0.3)) == pytest.approx(
        -(smoothed * log_p).sum(1).mean(), rel=1e-5
    )
    focal = -(targets * log_p * (1 - np.exp(log_p)) ** 2).sum(1).mean()
    assert found(LossSettings(focal_gamma=2.0)) == pytest.approx(focal, rel=1e-5)
    weights = np.array([1.0, 2.0, 4.0], np.float32)
    weighed = -((targets * log_p).sum(1) * [1.0, 3.0]).mean()
    assert found(LossSettings(), weights) == pytest.approx(weighed, rel=1e-5)


def test_one_logit_is_the_second_of_two_classes() -> None:
    found = keras.ops.convert_to_numpy(log_probabilities(keras.ops.array([[0.0], [3.0]])))
    assert np.exp(found) == pytest.approx(np.array([[0.5, 0.5], [1 - 0.952574, 0.952574]]), abs=1e-5)


def test_weights_by_class_and_a_penalty_on_the_last_layers_are_in_the_loss() -> None:
    pixels = make_pixels(40, k=2)
    data = TrainingData(pixels, np.eye(2, dtype=np.float32)[pixels.y], pixels, ("비약올리기", "약올리기"))
    batch = {"images": pixels.images, "targets": data.targets}

    def loss(**changes: object) -> float:
        recipe = replace(SMALL, loss=replace(SMALL.loss, **changes))
        keras.utils.set_random_seed(0)
        core = build_core(recipe.network, 2)
        objective = loss_of_stage(core, recipe, data, 1)
        found = objective.compute_loss(y_pred=objective(batch))
        squares = sum(float((layer.kernel**2).numpy().sum()) for layer in [core.get_layer("logits")])
        return float(found) - changes.get("l2", 0.0) * squares

    plain, first, second = loss(), loss(class_weights="0=3"), loss(class_weights={"약올리기": 3})
    assert (first - plain) + (second - plain) == pytest.approx(2 * plain, rel=1e-4)
    assert loss(class_weights=True) == pytest.approx(plain, rel=1e-5)  # as many of each
    assert loss(l2=0.1) == pytest.approx(plain, abs=1e-4)


def test_light_augmentation_is_a_part_of_the_whole_one() -> None:
    strong = AugmentationSettings(shift=0.2, rotate=20, noise_variance=(0, 16), hsv_shift=(5, 10, 10))
    light = scaled(strong, 0.5)
    assert (light.shift, light.rotate, light.noise_variance) == (0.1, 10, (0, 4))
    assert (light.hsv_shift, light.flip, light.mixup_alpha) == ((2.5, 5, 5), True, strong.mixup_alpha)
    assert scaled(strong, 9).shift == 1.0


def test_adam_decays_nothing() -> None:
    assert optimizer_of(OptimizerSettings("adam", weight_decay=0.1), 1e-3).weight_decay is None
