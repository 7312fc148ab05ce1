"""Finished cells on disk, each in one file: what makes an interrupted comparison go on where it was."""

import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferkit.core.files import write_atomically
from ferkit.core.fingerprint import fingerprint
from ferkit.evaluation.comparison import Cell, Costs

FORMAT = 1


@dataclass(frozen=True)
class Finished:
    """A cell, and what it says of its contender.

    Attributes:
        cell: the result.
        unmapped, unreached, seen: see :class:`ferkit.evaluation.comparison.ContenderResult`.
    """

    cell: Cell
    unmapped: tuple[str, ...]
    unreached: tuple[str, ...]
    seen: np.ndarray


class CellCache:
    """A folder of finished cells, found again by everything that they depend on.

    Args:
        folder: made when the first cell is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, depends_on: Any) -> Path:
        """The file of a cell; its name begins with the candidate's, as it was called then, and ends with the digest."""
        slug = re.sub(r"[^\w.@+-]+", "-", name)[-60:].strip("-")
        digest = fingerprint([FORMAT, depends_on])[:24]
        path = self.folder / f"{slug}--{digest}.npz"
        known = sorted(self.folder.glob(f"*--{digest}.npz"))
        return known[0] if known and not path.exists() else path

    def load(self, path: Path, repeat: int) -> Finished | None:
        """The cell in ``path``; None if there is none, or it cannot be read and has to be made anew."""
        try:
            with np.load(path, allow_pickle=False) as file:
                values = json.loads(file["values"].tobytes().decode())
                proba, seen = file["proba"], file["seen"]
            cell = Cell(
                repeat, proba, Costs(**values["costs"]), tuple(values["history"]), tuple(values["notes"])
            )
            return Finished(cell, tuple(values["unmapped"]), tuple(values["unreached"]), seen)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, path: Path, finished: Finished) -> None:
        """Write a cell, whole or not at all.

        Raises:
            FerkitError: the disk is full or the folder cannot be written.
        """
        cell = finished.cell
        values = {
            "costs": asdict(cell.costs),
            "history": [dict(entry) for entry in cell.history],
            "notes": list(cell.notes),
            "unmapped": list(finished.unmapped),
            "unreached": list(finished.unreached),
        }
        packed = np.frombuffer(json.dumps(values).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, proba=cell.proba, seen=finished.seen, values=packed)
        write_atomically(path, lambda file: file.write(buffer.getvalue()))
