"""What the extras bring, and one sentence where one is missing, before any work is done for it."""

import importlib.util

from ferkit.core.errors import DependencyError

EXTRAS = {
    "deepface": ("deepface",),
    "mediapipe": ("mediapipe",),
    "openvino": ("openvino",),
    "plots": ("matplotlib",),
    "train": ("keras", "tensorflow", "tf2onnx"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "websockets"),
    "audit": ("cleanlab",),
    "parquet": ("pyarrow",),
    "video": ("av",),
    "window": ("pygame-ce",),
}
"""Distributions by the name of the extra that brings them."""

_IMPORTED_AS = {"pygame-ce": "pygame"}


def require_extra(name: str, what: str) -> None:
    """Say at once that something cannot be done for want of packages.

    Args:
        name: of :data:`EXTRAS`.
        what: needs it, as the subject of a sentence.

    Raises:
        DependencyError: one of its packages is not installed.
    """
    packages = EXTRAS[name]
    missing = [p for p in packages if importlib.util.find_spec(_IMPORTED_AS.get(p, p)) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise DependencyError(
            f"{what} needs {', '.join(missing)}, which {verb} not installed; pip install 'ferkit[{name}]'"
        )
