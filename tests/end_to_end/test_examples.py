"""The examples run as they are written."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_embed_and_fit(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "embed_and_fit.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "280 embedded, 0 were there, 0 failed" in done.stdout
    assert (tmp_path / "models" / "logistic" / "model.json").is_file()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 embedded, 280 were there, 0 failed" in again.stdout
