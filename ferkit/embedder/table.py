"""Embeddings as a table: what heads are fitted on."""

from dataclasses import dataclass

import numpy as np

from ferkit.core.errors import DataError


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings and what is known of each, row by row, sorted by path.

    Attributes:
        X: (n, dim) float32 or float16, finite.
        y: (n,) str objects, class names; None where unknown.
        paths, groups, split: (n,) str objects; None where unknown.
    """

    X: np.ndarray
    y: np.ndarray
    paths: np.ndarray
    groups: np.ndarray
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: np.ndarray) -> "EmbeddingTable":
        """The rows at ``index``, a mask or positions."""
        return EmbeddingTable(
            self.X[index], self.y[index], self.paths[index], self.groups[index], self.split[index]
        )

    def labelled(self) -> "EmbeddingTable":
        """The rows that have a label.

        Raises:
            DataError: there are none.
        """
        known = np.array([label is not None for label in self.y], bool)
        if not known.any():
            raise DataError(
                "expected labelled pictures, found none with a label; lay them out as data/<class>/*.jpg"
            )
        return self if known.all() else self[known]
