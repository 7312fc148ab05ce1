from pathlib import Path

import pytest
from PIL import Image
from small_runs import embed, write_images

from ferkit.core.errors import WeightsError
from ferkit.core.files import file_sha256
from ferkit.datasets.load import load_dataset
from ferkit.faces.cropping import Cropping, CropSettings, resolve_cropping


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine that has no weights and may not fetch any."""
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("FER_OFFLINE", "1")


def photos(root: Path, shared: Path) -> Path:
    root.mkdir()
    for name in ("img12", "img29", "img5"):
        Image.open(shared / "media" / f"{name}.jpg").save(root / f"{name}.jpg")
    return root


def test_small_crops_are_taken_whole_without_any_weights(tmp_path: Path):
    cropping = resolve_cropping(load_dataset(write_images(tmp_path / "data", 3)), Cropping.ask())
    assert cropping.settings == CropSettings.whole()
    assert "taken whole" in cropping.reason


@pytest.mark.shared
def test_photos_get_haar_where_no_weights_are_and_yunet_where_they_are(tmp_path: Path, shared: Path):
    data = load_dataset(photos(tmp_path / "photos", shared))
    cropping = resolve_cropping(data, Cropping.ask(margin=0.2))
    assert cropping.settings == CropSettings("haar", None, True, 0.2, "skip")
    assert "detector haar" in cropping.reason
    yunet = shared / "models" / "face_detection_yunet_640.onnx"
    cropping = resolve_cropping(data, Cropping.ask(weights=yunet))
    assert cropping.settings == CropSettings("yunet", file_sha256(yunet), True, 0.1, "skip")
    assert cropping.weights == yunet


def test_what_was_asked_for_is_never_exchanged(tmp_path: Path):
    data = load_dataset(write_images(tmp_path / "data", 3))
    assert (
        resolve_cropping(data, Cropping.ask("none", align=True, margin=0.5)).settings == CropSettings.whole()
    )
    assert resolve_cropping(data, Cropping.ask("haar")).settings.detector == "haar"
    with pytest.raises(WeightsError, match="is needed, but fetching is switched off"):
        resolve_cropping(data, Cropping.ask("yunet"))
    for detector in ("auto", "yunet"):
        with pytest.raises(WeightsError, match="found no such file"):
            resolve_cropping(data, Cropping.ask(detector, weights=tmp_path / "missing.onnx"))


@pytest.mark.shared
def test_faces_are_cut_out_and_their_boxes_are_kept(tmp_path: Path, shared: Path):
    data = photos(tmp_path / "photos", shared)
    Image.new("RGB", (400, 400), "gray").save(data / "wall.png")
    yunet = shared / "models" / "face_detection_yunet_640.onnx"
    store, summary = embed(data, tmp_path / "cache", crop=Cropping.ask("yunet", yunet))
    assert summary.failures == [("wall.png", "no face found by yunet")]
    boxes = {row.path: row.box for row in store.rows().values()}
    assert boxes["wall.png"] is None
    assert boxes["img12.jpg"] == pytest.approx((222, 63, 360, 258), abs=8)
    whole, summary = embed(data, tmp_path / "cache", crop=Cropping.ask("yunet", yunet, no_face="whole"))
    assert summary.failures == []
    assert summary.whole == ["wall.png"]
    assert whole.folder != store.folder
