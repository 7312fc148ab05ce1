"""Manifests whose rows have boxes: the box decides what is embedded, trained on and scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import contents, embed

from ferkit.classifiers.finetune.data import load_pixels
from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.export import write_manifest
from ferkit.datasets.load import load_dataset
from ferkit.embedder.embedders import open_embedder
from ferkit.faces.cropping import Cropping, CropSettings, FaceCropper, cropping_as_trained, resolve_cropping

BOX = (100.0, 60.0, 164.0, 124.0)
GIVEN = Cropping.ask("given", margin=0.0)


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("FER_OFFLINE", "1")


def noise(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def manifest(root: Path, n: int = 6, crops: int = 0) -> Path:
    """Photos with one face of noise in each at BOX, and then crops without a box."""
    samples = []
    (root / "사진").mkdir(parents=True)
    for i in range(n + crops):
        name = f"사진/{i:02d}_기쁨.png"
        image = noise(i)
        if i < n:
            photo = np.full((240, 320, 3), 90, np.uint8)
            photo[60:124, 100:164] = image
            image = photo
        Image.fromarray(image).save(root / name)
        box = BOX if i < n else None
        samples.append(Sample(name, ("기쁨", "슬픔")[i % 2], None, f"p{i // 2}", box, {"source": "test"}))
    write_manifest(root / "faces.csv", Dataset("faces", root, tuple(samples), FileSource(root)))
    return root / "faces.csv"


def with_boxes(path: Path, **boxes: tuple[float, float, float, float] | None) -> None:
    """Give images, by their number, another box."""
    data = load_dataset(path)
    samples = [
        replace(s, box=boxes[f"_{s.path[3:5]}"]) if f"_{s.path[3:5]}" in boxes else s for s in data.samples
    ]
    write_manifest(path, data.subset(samples))


def test_what_is_embedded_is_what_the_box_holds(tmp_path: Path):
    path = manifest(tmp_path)
    store, summary = embed(path, tmp_path / "cache", crop=GIVEN)
    assert (summary.n_done, summary.failures) == (6, [])
    table = store.load()
    assert np.array_equal(table.X, open_embedder("raw").embed(np.stack([noise(i) for i in range(6)])))
    assert {row.box for row in store.rows().values()} == {BOX}
    assert table.groups.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert store.settings.faces == CropSettings("given", None, align=False, margin=0.0, no_face="skip")


def test_a_image_whose_box_moved_is_embedded_again_and_no_other(tmp_path: Path):
    path = manifest(tmp_path)
    store, _ = embed(path, tmp_path / "cache", crop=GIVEN)
    before = contents(store.folder)
    with_boxes(path, _03=(90.0, 60.0, 154.0, 124.0))
    store, summary = embed(path, tmp_path / "cache", crop=GIVEN)
    assert (summary.n_done, summary.n_kept) == (1, 5)
    assert contents(store.folder).items() >= before.items()
    shifted = np.full((64, 64, 3), 90, np.uint8)
    shifted[:, 10:] = noise(3)[:, :54]
    assert np.array_equal(store.load().X[3], open_embedder("raw").embed(shifted[None])[0])
    _, summary = embed(path, tmp_path / "cache", crop=GIVEN)
    assert (summary.n_done, summary.n_kept) == (0, 6)


def test_no_box_and_a_box_outside_are_failures_until_they_are_mended(tmp_path: Path):
    path = manifest(tmp_path)
    with_boxes(path, _01=None, _02=(900.0, 60.0, 964.0, 124.0))
    _, summary = embed(path, tmp_path / "cache", crop=GIVEN)
    reasons = dict(summary.failures)
    assert reasons["사진/01_기쁨.png"] == "the data set has no box for it"
    assert "inside the 320x240 image" in reasons["사진/02_기쁨.png"]
    _, again = embed(path, tmp_path / "cache", crop=GIVEN)
    assert (again.n_done, again.n_failed_before, again.failures) == (0, 2, [])
    with_boxes(path, _01=BOX, _02=BOX)
    store, summary = embed(path, tmp_path / "cache", crop=GIVEN)
    assert (summary.n_done, summary.n_kept) == (2, 4)
    assert len(store.load()) == 6


def test_auto_takes_the_boxes_and_crops_without_one_whole(tmp_path: Path):
    all_marked = resolve_cropping(load_dataset(manifest(tmp_path / "a")), Cropping.ask(margin=0.2))
    assert all_marked.settings == CropSettings("given", None, align=False, margin=0.2, no_face="skip")
    assert "6 of 6 images have one" in all_marked.reason
    mixed = load_dataset(manifest(tmp_path / "b", n=4, crops=3))
    cropping = resolve_cropping(mixed, Cropping.ask(margin=0.0))
    assert cropping.settings == CropSettings("given", None, align=False, margin=0.0, no_face="whole")
    assert "4 of 7 images have one, the others are taken whole" in cropping.reason
    store, summary = embed(tmp_path / "b" / "faces.csv", tmp_path / "cache", crop=Cropping.ask(margin=0.0))
    assert summary.failures == []
    assert np.array_equal(store.load().X, open_embedder("raw").embed(np.stack([noise(i) for i in range(7)])))


@pytest.mark.shared
def test_auto_looks_for_faces_itself_where_photos_have_no_box(tmp_path: Path, shared: Path):
    path = manifest(tmp_path, n=1)
    data = load_dataset(path)
    photos = [
        Sample((shared / "media" / f"{name}.jpg").as_posix(), "기쁨") for name in ("img12", "img29", "img5")
    ]
    cropping = resolve_cropping(data.subset([*data.samples, *photos]), Cropping.ask())
    assert cropping.settings.detector == "haar"
    assert "only 1 of 4 images have a box, so that none is used" in cropping.reason


def test_data_without_boxes_cannot_give_them(tmp_path: Path):
    path = manifest(tmp_path, n=0, crops=2)
    with pytest.raises(DataError, match=r"expected images with boxes .*name a detector"):
        resolve_cropping(load_dataset(path), Cropping.ask("given"))


def test_fine_tuning_sees_the_same_crops(tmp_path: Path):
    data = load_dataset(manifest(tmp_path))
    cropper = FaceCropper(resolve_cropping(data, GIVEN).settings, lambda: None, (64, 64), "stretch")
    pixels = load_pixels(data, ["기쁨", "슬픔"], cropper, "rgb")
    assert np.array_equal(pixels.images, np.stack([noise(i) for i in range(6)]))


def test_other_settings_do_not_look_at_boxes(tmp_path: Path):
    path = manifest(tmp_path)
    store, _ = embed(path, tmp_path / "cache")
    assert {row.box for row in store.rows().values()} == {None}
    with_boxes(path, _03=None)
    assert embed(path, tmp_path / "cache")[1].n_kept == 6


def test_live_images_have_no_boxes_so_a_detector_takes_over():
    trained = CropSettings("given", None, align=False, margin=0.2, no_face="skip")
    found = cropping_as_trained(Cropping(trained))
    assert found.settings == CropSettings("haar", None, align=False, margin=0.2, no_face="skip")
    assert not found.detect_precropped
    assert "trained on the boxes of its data set" in found.reason
