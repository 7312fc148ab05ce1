"""The networks that come with the package: model folders like any other, of kind ``network``.

They were trained here, on FER2013 alone; ``MODEL_CARD.md`` in each folder says how, and how good it is.
"""

import functools
import json
from pathlib import Path
from typing import Any

SHIPPED = "ferkit"
"""What the first edition's model, its backbone and its weights are called."""

SECOND_EDITION = "ferkit2"
"""The same of the second, which was made for other people's images: cameras, loose boxes, few pixels."""

BUNDLED = (SHIPPED, SECOND_EDITION)
"""Both; what was made with one goes on with that one."""

NETWORK_ONNX = "network.onnx"
NETWORK_KERAS = "network.keras"


def shipped_folder(name: str = SHIPPED) -> Path:
    """The model folder of one of :data:`BUNDLED`; it is only read."""
    return Path(__file__).parent / name


@functools.cache
def shipped_record(name: str = SHIPPED) -> dict[str, Any]:
    """What the ``model.json`` of one of :data:`BUNDLED` says."""
    record: dict[str, Any] = json.loads((shipped_folder(name) / "model.json").read_text(encoding="utf-8"))
    return record
