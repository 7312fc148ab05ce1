"""Predicting and embedding leave heavy packages alone, so that they need not be installed for it."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

HEAVY = "sklearn", "scipy", "matplotlib", "skops", "joblib", "pandas", "tensorflow", "keras"
CODE = f"""
import sys
from ferkit.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
slow = [] if "embed" in sys.argv else ["openvino", "onnx", "ssl", "email", "importlib.metadata"]
print("imported:", *sorted(name for name in (*{HEAVY}, *slow) if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [("predict", "{photo}"), ("embed", "{folder}", "--cache-dir", "{cache}", "--backbone", "raw"),
     ("embed", "{folder}", "--cache-dir", "{cache}")],
    ids=["predict", "embed raw", "embed"],
)  # fmt: skip
def test_light_commands(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    photo = tmp_path / "data" / "happy" / "a.png"
    photo.parent.mkdir(parents=True)
    cv2.imwrite(str(photo), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    places = {"photo": photo, "folder": photo.parents[1], "cache": tmp_path / "cache"}
    words = [word.format(**places) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words],
        capture_output=True, text=True, check=False, env={**os.environ, "FER_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"
