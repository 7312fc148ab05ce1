"""Files of a run: the state after the last whole epoch, and the best weights so far.

Both are plain ``.npz`` archives of arrays and JSON, replaced atomically: a crash or a full disk leaves the
one of the epoch before.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ferkit.classifiers.finetune.history import EpochRecord
from ferkit.core.errors import SettingsMismatchError, TrainingError
from ferkit.core.files import write_atomically
from ferkit.core.fingerprint import differing_keys

CHECKPOINT = "checkpoint.npz"
BEST = "best.npz"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A run after a whole epoch.

    Attributes:
        settings: everything that decides what the run computes, as plain containers.
        history: all epochs so far.
        stage: number of the stage that was trained last, from 1.
        variables: of the training model: weights, statistics, states of random generators.
        optimizer: its variables: moments, moving averages of weights, step counter.
    """

    settings: dict[str, Any]
    history: tuple[EpochRecord, ...]
    stage: int
    variables: tuple[np.ndarray, ...]
    optimizer: tuple[np.ndarray, ...]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of ``folder``. Raises FerkitError when the disk is full or cannot be written."""
    meta = {
        "format": FORMAT,
        "settings": checkpoint.settings,
        "history": [asdict(record) for record in checkpoint.history],
        "stage": checkpoint.stage,
    }
    arrays = {f"v{i}": value for i, value in enumerate(checkpoint.variables)}
    arrays |= {f"o{i}": value for i, value in enumerate(checkpoint.optimizer)}
    _write(folder / CHECKPOINT, meta, arrays)


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint of ``folder``, or None if there is none.

    Raises:
        SettingsMismatchError: it was made with other settings; the message names them.
        TrainingError: the file is damaged or of a newer format.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    meta, arrays = _read(path)
    differing = differing_keys(meta["settings"], json.loads(json.dumps(settings)))
    if differing:
        raise SettingsMismatchError(
            f"the run in {folder} was made with other settings ({', '.join(differing)}); "
            "use the same ones to go on, --restart to begin anew, or another --name"
        )
    history = tuple(EpochRecord(**record) for record in meta["history"])
    return Checkpoint(meta["settings"], history, meta["stage"], _series(arrays, "v"), _series(arrays, "o"))


def save_best(folder: Path, epoch: int, weights: Sequence[np.ndarray]) -> None:
    """Replace the best weights. Raises FerkitError when the disk is full or cannot be written."""
    _write(
        folder / BEST, {"format": FORMAT, "epoch": epoch}, {f"v{i}": value for i, value in enumerate(weights)}
    )


def load_best(folder: Path) -> list[np.ndarray]:
    """The best weights so far.

    Raises:
        TrainingError: there are none, or the file is damaged.
    """
    if not (folder / BEST).exists():
        raise TrainingError(
            f"expected the best weights at {folder / BEST}, found none; begin anew with --restart"
        )
    return list(_series(_read(folder / BEST)[1], "v"))


def _write(path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    def write(file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)

    write_atomically(path, write)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
        meta = json.loads(arrays.pop("meta").tobytes())
        if meta["format"] != FORMAT:
            raise TrainingError(
                f"{path} is of format {meta['format']}, expected {FORMAT}; use the version that made it"
            )
        return meta, arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged ({error}); begin anew with --restart") from None


def _series(arrays: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, ...]:
    return tuple(arrays[f"{prefix}{i}"] for i in range(sum(name.startswith(prefix) for name in arrays)))
