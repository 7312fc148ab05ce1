"""The examples run as they are written."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_embed_and_fit(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "embed_and_fit.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "images of persons never seen" in done.stdout
    assert done.stdout.count("happy") > 5
    assert (tmp_path / "work" / "models" / "logistic" / "model.json").is_file()
    assert len((EXAMPLES / "embed_and_fit.py").read_text(encoding="utf-8").splitlines()) <= 15
