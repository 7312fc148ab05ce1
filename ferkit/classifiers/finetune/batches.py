"""The order in which an epoch shows the training images: a pure function of seed and epoch."""

from typing import Any

import keras
import numpy as np

from ferkit.classifiers.finetune.settings import SamplingSettings

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
    of its order. The epoch is set from outside, by :class:`ferkit.classifiers.finetune.callbacks.EpochStart`; the last
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
