"""Weights: which there are, where they lie, where they come from."""

from ferkit.zoo.fetch import WeightsStatus, list_weights, verify, weights_dir, weights_file
from ferkit.zoo.registry import WeightsEntry, entry_of, known_weights

__all__ = [
    "WeightsEntry",
    "WeightsStatus",
    "entry_of",
    "known_weights",
    "list_weights",
    "verify",
    "weights_dir",
    "weights_file",
]
