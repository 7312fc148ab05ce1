import numpy as np

from ferkit.classifiers.finetune.batches import TrainingBatches, epoch_order
from ferkit.classifiers.finetune.recipe import SamplingSettings

Y = np.array([0] * 50 + [1] * 10 + [2] * 3)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    first, again, second = (epoch_order(Y, SamplingSettings(), 5, epoch) for epoch in (0, 0, 1))
    assert sorted(first) == list(range(len(Y)))
    assert (first == again).all()
    assert (first != second).any()
    assert (first != epoch_order(Y, SamplingSettings(), 6, 0)).any()


def test_balanced_sampling_shows_classes_equally_often() -> None:
    y = np.repeat([0, 1, 2], [6000, 600, 60])
    shares = np.bincount(y[epoch_order(y, SamplingSettings(balanced=True), 0, 0)]) / len(y)
    assert np.abs(shares - 1 / 3).max() < 0.03  # five standard deviations


def test_small_classes_are_filled_up_evenly_and_large_ones_stay() -> None:
    order = epoch_order(Y, SamplingSettings(target_per_class=25), 0, 0)
    assert np.bincount(Y[order]).tolist() == [50, 25, 25]
    shown = np.bincount(order, minlength=len(Y))
    assert shown[:50].tolist() == [1] * 50
    assert set(shown[50:60]) == {2, 3}
    assert set(shown[60:]) == {8, 9}


def test_batches_follow_the_epoch_that_was_set() -> None:
    images = np.arange(len(Y), dtype=np.uint8)[:, None, None, None]
    targets = np.eye(3, dtype=np.float32)[Y]
    batches = TrainingBatches(images, targets, Y, SamplingSettings(), batch_size=20, seed=1)
    batches.start_epoch(3)
    shown = [batches[i][0] for i in range(len(batches))]
    assert [len(batch["images"]) for batch in shown] == [20, 20, 20, 3]
    rows = np.concatenate([batch["images"][:, 0, 0, 0] for batch in shown])
    assert (rows == epoch_order(Y, SamplingSettings(), 1, 3)).all()
    assert (np.concatenate([batch["targets"] for batch in shown]) == targets[rows]).all()
    assert batches.images_per_epoch == len(Y)
