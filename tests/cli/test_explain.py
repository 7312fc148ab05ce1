from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ferkit.cli.main import main
from tests.inference.tiny_model import flat, write_tiny_model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "models"
    write_tiny_model(folder / "tiny")
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(flat(225, np.random.default_rng(0), (64, 64))).save(tmp_path / "얼굴.png")
    return tmp_path / "얼굴.png"


def run(models_dir: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(main, ["explain", "--models-dir", str(models_dir), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_image_of_the_reasons_is_written(models_dir: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "why.png"
    result = run(models_dir, "tiny", photo, "--crops", "--out", out, "--target", "sadness")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("happy ")
    assert Image.open(out).size[0] > 700


def test_wrong_usage_is_one_clear_sentence(models_dir: Path, photo: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.png", "b.png"):
        (two / name).write_bytes(photo.read_bytes())
    for arguments, words in (
        ((photo, "--crops", "--target", "bored"), "expected --target out of happy, neutral, sad"),
        ((photo, "--crops", "--method", "gradcam"), "needs a fine-tuned network"),
        ((photo, "--crops", "--face", "2"), "found 1"),
        ((tmp_path / "none.jpg", "--crops"), "is neither an image, nor a folder"),
        ((two, "--crops"), f"expected one image at {two}, found 2"),
        (("http://127.0.0.1:9/a.jpg",), "private network"),
        ((text, "--crops"), "not an image of a known format"),
    ):
        result = run(models_dir, "tiny", *arguments)
        assert result.exit_code == 1, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output


def test_an_image_may_come_on_standard_input(
    models_dir: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["explain", "--models-dir", str(models_dir), "--crops", "tiny", "-"]
    result = CliRunner().invoke(main, words, input=photo.read_bytes())
    assert result.exit_code == 0, result.output
    assert (tmp_path / "standard input-explained.png").is_file()
