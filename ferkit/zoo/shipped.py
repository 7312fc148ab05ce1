"""The network that comes with the package: a model folder like any other, of kind ``network``.

It was trained here, on FER2013 alone; ``MODEL_CARD.md`` in the folder says how, and how good it is.
"""

import functools
import json
from pathlib import Path
from typing import Any

SHIPPED = "ferkit"
"""What the model, its backbone and its weights are called."""

NETWORK_ONNX = "network.onnx"
NETWORK_KERAS = "network.keras"


def shipped_folder() -> Path:
    """The model folder; it is only read."""
    return Path(__file__).parent / SHIPPED


@functools.cache
def shipped_record() -> dict[str, Any]:
    """What its ``model.json`` says."""
    record: dict[str, Any] = json.loads((shipped_folder() / "model.json").read_text(encoding="utf-8"))
    return record
