"""Makes the notebooks of ``examples/`` out of the tutorials: ``python docs/.theme/notebooks.py``.

A paragraph becomes a cell of text, a block for the shell a cell that runs it.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "ferkit/ferkit"
COLAB = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/examples"
SITE = f"https://github.com/{REPOSITORY}/blob/main/docs/"
TUTORIALS = {"own-photos": "own_photos.ipynb", "tutorial-aihub": "aihub.ipynb"}

INSTALL = f"""\
import importlib.util

if importlib.util.find_spec("ferkit") is None:  # on Colab
    %pip install -q "ferkit[plots] @ git+https://github.com/{REPOSITORY}"
    !git clone -q https://github.com/{REPOSITORY} /content/ferkit-repository
    %env PYTHONPATH=/content/ferkit-repository"""


def notebook(page: str) -> dict[str, Any]:
    """A tutorial as a notebook without outputs."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({COLAB}/{TUTORIALS[page]})"
    title, _, rest = text.partition("\n")
    cells = [_cell(0, "markdown", f"{title}\n\n{badge}"), _cell(1, "code", INSTALL)]
    for part in re.split(r"^(```sh\n.*?^```\n)", rest, flags=re.MULTILINE | re.DOTALL):
        shell = re.fullmatch(r"```sh\n(.*?)^```\n", part, flags=re.MULTILINE | re.DOTALL)
        if shell:
            lines = [line for line in shell[1].splitlines() if _runs_here(line)]
            if lines:
                cells.append(_cell(len(cells), "code", "\n".join(f"!{line}" for line in lines)))
        elif part.strip():
            cells.append(_cell(len(cells), "markdown", _absolute(part.strip())))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _runs_here(line: str) -> bool:
    """Neither the installation, nor what waits for a camera or for visitors, nor a file that only a reader has."""
    return not re.match(r"python3 -m venv|pip |fer (webcam|serve|doctor)|fer predict \w+ photo\.jpg", line)


def _absolute(text: str) -> str:
    return re.sub(r"\]\((?!http)([^)]+)\)", rf"]({SITE}\1)", text)


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return {**cell, "source": source.splitlines(keepends=True)}


def as_text(page: str) -> str:
    """The notebook's file."""
    return json.dumps(notebook(page), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    for page, name in TUTORIALS.items():
        (ROOT / "examples" / name).write_text(as_text(page), encoding="utf-8")
