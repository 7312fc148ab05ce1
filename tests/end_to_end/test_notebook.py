"""The notebook runs from top to bottom as it is, offline, and says what its data say."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "embedding_vs_finetune.ipynb"

nbformat = pytest.importorskip("nbformat", reason="needs nbformat; pip install 'ferkit[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient; pip install 'ferkit[dev]'")
pytest.importorskip("ipykernel", reason="needs ipykernel; pip install 'ferkit[dev]'")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(folder)}})
    client.execute()  # raises where a cell does
    return notebook


def printed(notebook: Any, word: str) -> str:
    """What the cells printed whose source has ``word``."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and word in cell.source]
    assert cells
    return "".join(out.text for cell in cells for out in cell.outputs if out.get("name") == "stdout")


def test_it_is_committed_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_and_shows_its_plots(executed: Any) -> None:
    plots = [
        out
        for cell in executed.cells
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    assert len(plots) == 3
    assert "196 images of 20 persons" in printed(executed, "write_dataset")
    for name in ("ferkit", "logistic@ferkit", "mlp@ferkit"):
        assert name in printed(executed, "95 % interval")
    assert "corrected for" in printed(executed, "pair.sentence")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("keras") is None, reason="needs Keras; pip install 'ferkit[train]'")
def test_fine_tuning_wins_on_these_drawings(executed: Any) -> None:
    # Trained on photographs, the embedding misses what is particular to cartoons; the whole network learns it.
    assert "finetuned is better than logistic@ferkit here" in printed(executed, "pair.sentence")
