from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference.tiny_model import write_tiny_model
from tests.serving.running import Running, running


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "models"
    write_tiny_model(folder / "tiny")
    return folder


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with running(models_dir) as found:
        yield found
