"""The whole run: files, tables, sheets, and going on after a stop."""

import errno
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import HAAR, MARKED, crop, report, save, scene

from ferkit.core.errors import DataError, FerkitError, SettingsMismatchError, StoreLockedError
from ferkit.core.files import exclusive_lock
from ferkit.datasets.load import load_dataset
from tests.synthetic_aihub import write_aihub_layout

ONE, TWO = ((110, 120),), ((90, 110), (230, 120))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes in two parts, and whatever else lies in such folders."""
    root = tmp_path / "photos"
    for part in ("train", "test"):
        for label, seeds in (("기쁨", (0, 3)), ("sad", (5, 7))):
            for seed in seeds:
                save(root / part / label / f"{seed} 사진.jpg", scene(seed, ONE), quality=95)
    save(root / "train/sad/two.jpg", scene(0, TWO, zoom=45), quality=95)
    save(root / "train/sad/wall.png", np.full((50, 60, 3), 99, np.uint8))
    (root / "train/sad/empty.jpg").write_bytes(b"")
    (root / "train/sad/torn.jpg").write_bytes((root / "train/sad/5 사진.jpg").read_bytes()[:3000])
    return root


def files(out: Path) -> dict[str, bytes]:
    """Everything that a user sees."""
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and ".crop" not in p.parts
    }


def test_classes_splits_and_names_stay(photos: Path, tmp_path: Path):
    summary = crop(photos, tmp_path / "out")
    crops = {name for name in files(tmp_path / "out") if name.endswith(".jpg") and "contact" not in name}
    assert crops == {
        *(f"{part}/기쁨/{seed} 사진.jpg" for part in ("train", "test") for seed in (0, 3)),
        *(f"{part}/sad/{seed} 사진.jpg" for part in ("train", "test") for seed in (5, 7)),
        "train/sad/two.jpg",
    }
    assert (summary.n_images, summary.n_done, summary.n_crops) == (12, 12, 9)
    by_folder, by_table = load_dataset(tmp_path / "out"), load_dataset(summary.table)
    for dataset in (by_folder, by_table):
        assert {sample.path for sample in dataset.samples} == crops
        assert dataset.class_counts() == {"sad": 5, "기쁨": 4}
        assert dataset.read(dataset.samples[0]).shape == (64, 64, 3)
    assert [(s.label, s.split) for s in by_folder.samples] == [(s.label, s.split) for s in by_table.samples]
    assert by_table.samples[0].attributes == {"original": by_table.samples[0].path}


def test_everything_is_listed_with_its_reason(photos: Path, tmp_path: Path):
    summary = crop(photos, tmp_path / "out")
    rows = {(row["path"], row["status"]): row for row in report(tmp_path / "out")}
    assert summary.statuses == {"cropped": 9, "unreadable": 2, "not largest": 1, "faceless": 1}
    assert rows["train/sad/wall.png", "faceless"]["reason"] == "no face found by haar"
    assert rows["train/sad/empty.jpg", "unreadable"]["reason"] == "the file is empty"
    assert rows["train/sad/torn.jpg", "unreadable"]["reason"].startswith("the image is damaged")
    assert rows["train/sad/two.jpg", "not largest"]["reason"] == "another of 2 faces is larger"
    taken = rows["train/sad/two.jpg", "cropped"]
    assert taken["output"] == "train/sad/two.jpg"
    assert 0.5 < float(taken["score"]) <= 1
    assert 0 < float(taken["left"]) < float(taken["right"]) <= 320


def test_sheets_show_each_class(photos: Path, tmp_path: Path):
    summary = crop(photos, tmp_path / "out")
    assert [sheet.name for sheet in summary.sheets] == ["sad.jpg", "기쁨.jpg", "_left out.jpg"]
    with Image.open(summary.sheets[0]) as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    tiles = [pixels[40:136, 4 + 100 * i : 100 + 100 * i] for i in range(6)]
    assert all(tile.std() > 20 for tile in tiles[:5])
    assert tiles[5].min() > 250  # five crops, room for six
    assert pixels[:40].min() < 60  # a heading
    with Image.open(summary.sheets[2]) as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    wall, second = (pixels[40:136, 4 + 100 * i : 100 + 100 * i] for i in range(2))
    assert wall[48].std() < 5
    assert abs(wall[48].mean() - 99) < 5
    assert second.std() > 20  # the smaller one of two faces
    assert pixels[136:152].min() < 100  # a word below
    (photos / "train/sad/wall.png").unlink()
    (photos / "train/sad/two.jpg").unlink()
    again = crop(photos, tmp_path / "out")
    assert [sheet.name for sheet in again.sheets] == ["sad.jpg", "기쁨.jpg"]
    assert not (tmp_path / "out/contact-sheets/_left out.jpg").exists()


@pytest.mark.parametrize(
    ("values", "suffix", "mode"),
    [
        ({"format": "png", "gray": True}, ".png", "L"),
        ({"format": "webp", "quality": 80}, ".webp", "RGB"),
        ({"format": "jpg", "size_wh": (48, 60), "gray": True}, ".jpg", "L"),
    ],
)
def test_formats(photos: Path, tmp_path: Path, values: dict, suffix: str, mode: str):
    crop(photos / "test", tmp_path / "out", **values)
    with Image.open(tmp_path / "out" / "기쁨" / f"0 사진{suffix}") as image:
        assert image.mode == mode
        assert image.size == values.get("size_wh", (64, 64))


def test_aihub_s_layout_becomes_an_ordinary_one(tmp_path: Path):
    write_aihub_layout(tmp_path / "aihub", 3, validation=0.34)
    summary = crop(tmp_path / "aihub", tmp_path / "out", MARKED)
    assert summary.statuses == {"cropped": 21}
    dataset = load_dataset(tmp_path / "out" / "labels.csv")
    by_folder = load_dataset(tmp_path / "out")
    assert [(s.path, s.label, s.split, s.group) for s in dataset.samples] == [
        (s.path, s.label, s.split, s.group) for s in by_folder.samples
    ]
    assert {s.split for s in dataset.samples} == {"train", "val"}
    assert dataset.samples[0].attributes["votes"]
    assert dataset.samples[0].attributes["original"].startswith("Training/[원천]")


def test_each_marked_face_goes_to_its_own_class(tmp_path: Path):
    save(tmp_path / "two.png", scene(0, TWO, zoom=45))
    (tmp_path / "boxes.csv").write_text(
        "path,label,left,top,right,bottom\ntwo.png,기쁨,50,65,130,155\ntwo.png,슬픔,185,70,275,165\n"
        "two.png,중립,500,70,600,165\ntwo.png,중립,90,70,60,165\n",
        encoding="utf-8",
    )
    summary = crop(tmp_path / "boxes.csv", tmp_path / "out", MARKED, which="all")
    assert load_dataset(summary.table).class_counts() == {"기쁨": 1, "슬픔": 1}
    assert {name for name in files(tmp_path / "out") if name.count("/") == 1 and "contact" not in name} == {
        "슬픔/two~face2.jpg", "기쁨/two~face3.jpg",
    }  # fmt: skip
    listed = [(row["path"], row["status"], row["reason"]) for row in report(tmp_path / "out")]
    assert (
        "two.png",
        "annotation",
        "expected a box with left < right and top < bottom: found 90, 70, 60, 165, row 5",
    ) in listed
    assert ("two.png", "outside", "the box lies outside the 320x240 image") in listed


def test_a_second_run_does_nothing_again(photos: Path, tmp_path: Path):
    crop(photos, tmp_path / "out")
    first = files(tmp_path / "out")
    times = {
        p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("* 사진.jpg") if "contact" not in str(p)
    }
    again = crop(photos, tmp_path / "out")
    assert (again.n_done, again.n_crops, again.n_removed) == (0, 9, 0)
    assert files(tmp_path / "out") == first
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())


def test_only_what_changed_is_done_again(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    crop(photos, out)
    save(photos / "train/sad/empty.jpg", scene(0, ONE), quality=95)
    (photos / "test/sad/5 사진.jpg").unlink()
    (out / "train/기쁨/0 사진.jpg").write_bytes(b"")  # as a power cut leaves it
    (out / "train/기쁨/3 사진.jpg").unlink()
    again = crop(photos, out)
    assert (again.n_done, again.n_crops, again.n_removed) == (3, 9, 1)
    afresh = crop(photos, tmp_path / "afresh")
    assert afresh.n_crops == 9
    assert files(out) == files(tmp_path / "afresh")
    assert crop(photos, out).n_removed == 0


def test_names_that_move_leave_nothing_behind(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    save(photos / "test/sad/b.png", scene(0, ONE))
    crop(photos, out)
    save(photos / "test/sad/b.bmp", scene(3, ONE))
    crop(photos, out)
    crop(photos, tmp_path / "afresh")
    assert files(out) == files(tmp_path / "afresh")
    assert (out / "test/sad/b~2.jpg").is_file()
    (photos / "test/sad/b.bmp").unlink()
    assert crop(photos, out).n_removed == 1
    assert not (out / "test/sad/b~2.jpg").exists()


def test_other_settings_are_refused_until_told(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    crop(photos, out)
    with pytest.raises(SettingsMismatchError, match=r"with another faces.margin, format; .*--redo"):
        crop(photos, out, FaceSettingsWith(margin=0.3), format="png")
    with pytest.raises(SettingsMismatchError, match="with another source"):
        crop(photos / "train", out)
    again = crop(photos, out, FaceSettingsWith(margin=0.3), format="png", redo=True)
    assert again.n_done == 12
    assert not list(out.glob("t*/**/*.jpg"))
    assert len(list(out.glob("t*/**/*.png"))) == 9


def FaceSettingsWith(**values: object):  # noqa: N802
    from dataclasses import replace

    return replace(HAAR, **values)


def test_places_that_crops_cannot_go_to(photos: Path, tmp_path: Path):
    for out in (photos, photos / "crops"):
        with pytest.raises(DataError, match="expected a folder apart from the images"):
            crop(photos, out)
    assert not (photos / "crops").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("")
    with pytest.raises(DataError, match="found other files in"):
        crop(photos, tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="found other files in"):
        crop(photos, tmp_path / "file")
    summary = crop(photos, tmp_path / "out")
    with pytest.raises(DataError, match="apart from the images"):
        crop(summary.table, tmp_path / "out")
    with exclusive_lock(tmp_path / "out/.crop/lock", "cropping into"), pytest.raises(StoreLockedError):
        crop(photos, tmp_path / "out")


def test_a_folder_that_cannot_be_written(unprivileged: Path):
    save(unprivileged / "photos/a.jpg", scene(0, ONE))
    (unprivileged / "locked").mkdir(mode=0o555)
    with pytest.raises(FerkitError, match="cannot be written"):
        crop(unprivileged / "photos", unprivileged / "locked" / "out")


def test_a_full_disk_stops_and_the_rest_follows_when_there_is_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, left = tmp_path / "out", iter(range(4))
    write = Path.write_bytes

    def nearly_full(path: Path, content: bytes) -> int:
        if path.name == "unfinished" and next(left, None) is None:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", nearly_full)
        with pytest.raises(FerkitError, match="the disk is full"):
            crop(photos, out)
    there = len(list(out.glob("t*/**/*.jpg")))
    assert there == 4
    assert crop(photos, out).n_done == 12 - 4
    crop(photos, tmp_path / "afresh")
    assert files(out) == files(tmp_path / "afresh")


def test_a_torn_journal_costs_one_image(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    crop(photos, out)
    journal = out / ".crop" / "journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert crop(photos, out).n_done == 1
    assert crop(photos, out).n_done == 0


def test_nothing_to_crop_says_where_the_reasons_are(tmp_path: Path):
    save(tmp_path / "photos/a.png", np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(
        DataError, match=r"none of the 1 images gave a crop; the first: no face found by haar"
    ):
        crop(tmp_path / "photos", tmp_path / "out")
    assert [row["status"] for row in report(tmp_path / "out")] == ["faceless"]
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 48, 48), np.uint8), labels=["a", "b"])
    with pytest.raises(DataError, match="fer dataset export"):
        crop(tmp_path / "a.npz", tmp_path / "out2")


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_names_that_are_no_utf8_and_blanks(tmp_path: Path):
    photos = tmp_path / "photos"
    good = save(photos / "happy/a.jpg", scene(0, ONE))
    for name in (b"caf\xe9.jpg", "새 파일\n.jpg".encode(), b" lead.jpg", b"back\\slash.jpg"):
        shutil.copy(good, os.path.join(os.fsencode(photos / "happy"), name))
    summary = crop(photos, tmp_path / "out")
    assert summary.n_crops == 5
    table = load_dataset(summary.table)
    assert len(table) == 5
    assert all(table.read(sample).shape == (64, 64, 3) for sample in table.samples)
    assert crop(photos, tmp_path / "out").n_done == 0


def test_crops_of_large_photos_are_as_sharp_as_from_all_pixels(tmp_path: Path):
    rng = np.random.default_rng(0)
    rgb = cv2.resize(scene(0, ONE), (1600, 1200), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)
    save(tmp_path / "jpg/a.jpg", noisy, quality=95)
    save(tmp_path / "png/a.png", np.asarray(Image.open(tmp_path / "jpg/a.jpg")))
    crops = []
    for kind in ("jpg", "png"):
        (tmp_path / f"{kind}.csv").write_text(
            f"path,left,top,right,bottom\n{kind}/a.{kind},350,350,750,850\n"
        )
        crop(tmp_path / f"{kind}.csv", tmp_path / f"out-{kind}", MARKED, format="png", size_wh=(112, 112))
        crops.append(np.asarray(Image.open(tmp_path / f"out-{kind}/a.png")).astype(int))
    assert np.abs(crops[0] - crops[1]).mean() < 2.5
