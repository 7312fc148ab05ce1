"""Whether measured images were trained on: said by ``fit`` and ``eval``, by content, not by name."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from ferkit.classifiers.model import read_model
from ferkit.cli import main as command
from ferkit.core.weights import EDITIONS, bundled_folder
from ferkit.datasets.leakage import image_keys, pixel_keys, training_copies
from ferkit.datasets.load import load_dataset
from ferkit.datasets.synthetic import write_dataset
from ferkit.evaluation.evaluate_model import copies_of_training, score
from ferkit.faces.cropping import cropping_as_trained


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces; of the 14 test images 7 are copies of training images, and one is a copy saved again."""
    root = tmp_path_factory.mktemp("leaking") / "faces"
    write_dataset(root, n_per_class=8, n_persons=8, size=48, seed=5)
    tested = sorted((root / "test").rglob("*.png"))
    for path in tested[::2]:
        shutil.copy(
            next((root / "train" / path.parent.name).glob("p*.png")), path.with_name(f"copy{path.name}")
        )
        path.unlink()
    image = cv2.imread(str(next((root / "train" / "happy").glob("p*.png"))))
    cv2.imwrite(str(root / "test" / "happy" / "again.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return root


def fer(*arguments: str) -> str:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_fit_and_eval_say_so_in_the_line_with_the_accuracy(
    leaking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fer("embed", str(leaking), "--detector", "none")
    (line,) = [
        line
        for line in fer("fit", "--head", "logistic", "--no-report").splitlines()
        if " on " in line and line.startswith("accuracy ")
    ]
    assert "exact copies of training images: 7 of 15 measured images" in line
    found = json.loads(fer("eval", "logistic", str(leaking), "--json"))["training_copies"]
    assert (found["exact"], found["n"], found["bundled"]) == (7, 15, 0)
    assert found["near"] >= 1
    # The report lies in the working folder, and says it too.
    text = (tmp_path / "eval" / "logistic--faces" / "report.md").read_text("utf-8")
    assert "exact copies of training images: 7 of 15" in text.replace("\\", "")
    # Elsewhere, under other names, and after the training images are gone: by what the model remembers.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(leaking / "test", elsewhere)
    gone = leaking.rename(leaking.with_name("gone"))
    try:
        found = json.loads(fer("eval", "logistic", str(elsewhere), "--json"))["training_copies"]
    finally:
        gone.rename(leaking)
    assert (found["exact"], found["near"], found["reason"]) == (7, None, "the images are not at hand")
    assert "its backbone: training part of FER2013" in fer("models", "list")


def test_the_bundled_network_leaves_nothing_in_the_package(
    leaking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(bundled_folder().parent.rglob("*"))
    (line,) = [
        line
        for line in fer("eval", "ferkit", str(leaking)).splitlines()
        if " on " in line and line.startswith("accuracy ")
    ]
    assert "exact copies of training images: not known" in line
    assert sorted(bundled_folder().parent.rglob("*")) == before
    assert (tmp_path / "eval" / "ferkit--faces" / "report.html").is_file()


def test_copies_are_counted_by_content() -> None:
    trained = image_keys(["ab" * 32, "cd" * 32, None])
    found = training_copies(trained, image_keys(["cd" * 32, "cd" * 32, "ef" * 32, None]), None, None)
    assert (found.exact, found.near, found.n) == (2, None, 4)
    assert "2 of 4 measured images; near copies: not checked (the images are not at hand)" in found.sentence()
    many = training_copies(trained, np.ones(50_001, np.uint64), None, None)
    assert "not checked (more than 50,000 images)" in many.sentence()


def test_images_of_fer2013_are_known_by_their_pixels(shared: Path, tmp_path: Path) -> None:
    """Both bundled networks learnt from its training part, and not from its test part."""
    import zipfile

    with zipfile.ZipFile(shared / "data/fer2013-train-public.zip") as archive:
        for part in ("train", "test"):
            names = [name for name in archive.namelist() if f"{part}/" in name and name.endswith(".png")]
            for name in names[:: len(names) // 40]:
                label = Path(name).parent.name
                (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
                image = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
                cv2.imwrite(str(tmp_path / part / label / Path(name).with_suffix(".bmp").name), image)
    from ferkit.datasets.image_stats import image_stats

    known = np.load(bundled_folder().parent / "fer2013-train.npy")
    seen = {}
    for part in ("train", "test"):
        keys = pixel_keys(image_stats(load_dataset(tmp_path / part)))
        seen[part] = np.isin(keys, known).mean()
    assert seen["train"] == 1
    assert seen["test"] < 0.3  # FER2013's own test part holds copies of its training images
    train = load_dataset(tmp_path / "train")
    for edition in EDITIONS:
        model = read_model(bundled_folder(edition))
        cropping = cropping_as_trained(model.crops, "none", None, train)
        found = copies_of_training(model, score(train, model, cropping.cropper(model)), train)
        assert found.bundled == found.n == len(train)
