"""The notebooks are the tutorials, and run."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / ".theme" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_say_what_the_tutorials_say(maker: ModuleType) -> None:
    for page, name in maker.TUTORIALS.items():
        there = (ROOT / "examples" / name).read_text(encoding="utf-8")
        assert there == maker.as_text(page), (
            f"run python docs/.theme/notebooks.py: {name} is older than {page}.md"
        )


def test_the_one_on_own_photos_runs(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat; pip install 'ferkit[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient; pip install 'ferkit[dev]'")
    pytest.importorskip("ipykernel", reason="needs ipykernel; pip install 'ferkit[dev]'")
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("FER_OFFLINE", "1")
    text = maker.as_text("own-photos").replace("n_per_class=24, n_persons=24", "n_per_class=6, n_persons=8")
    executed = nbformat.reads(text, 4)
    # Audit and comparison take long, and have tests of their own.
    left_out = ("!fer compare", "!fer audit", "!fer dataset info")
    executed.cells = [cell for cell in executed.cells if not any(word in cell.source for word in left_out)]
    nbclient.NotebookClient(executed, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = json.dumps([cell.get("outputs", []) for cell in executed.cells], ensure_ascii=False)
    assert "accuracy" in printed
    for word in ("Error", "Traceback", "Usage:"):
        assert word not in printed
    assert (tmp_path / "models" / "logistic" / "model.json").is_file()
