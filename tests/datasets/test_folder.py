import os
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ferkit.core.errors import DataError, ImageError
from ferkit.datasets.dataset import FileSource, read_folder
from ferkit.datasets.load import load_dataset

PERSON = "0f" * 32


def touch(root: Path, *names: str) -> Path:
    """Files with nothing in them: their names are what a folder is read from."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_a_folder_a_class(tmp_path: Path):
    data = read_folder(
        touch(tmp_path / "faces", "sad/b.PNG", "happy/a.jpg", "happy/more/c.webp", "loose.tiff")
    )
    assert data.name == "faces"
    assert [(s.path, s.label, s.split) for s in data.samples] == [
        ("happy/a.jpg", "happy", None),
        ("happy/more/c.webp", "happy", None),
        ("loose.tiff", None, None),
        ("sad/b.PNG", "sad", None),
    ]
    assert data.class_counts() == {"happy": 2, "sad": 1}


def test_split_folders_above_the_classes(tmp_path: Path):
    touch(tmp_path, "Train/happy/a.jpg", "validation/sad/b.jpg", "PrivateTest/sad/c.jpg", "Train/d.jpg")
    assert [(s.path, s.label, s.split) for s in read_folder(tmp_path).samples] == [
        ("PrivateTest/sad/c.jpg", "sad", "test"),
        ("Train/d.jpg", None, "train"),
        ("Train/happy/a.jpg", "happy", "train"),
        ("validation/sad/b.jpg", "sad", "val"),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("TS/[원천]EMOIMG_기쁨_TRAIN_01/a.jpg", "VS/[원천]EMOIMG_기쁨_VALID/b.jpg"), "기쁨 train, 기쁨 val"),
        (
            ("1.Training/원천데이터/EMOIMG_분노_TRAIN_02/a.jpg", "EMOIMG_슬픔_TRAIN/b.jpg"),
            "분노 train, 슬픔 train",
        ),
        (("Training/[원천]EMOIMG_기쁨/a.jpg", "Validation/[원천]EMOIMG_당황/b.jpg"), "기쁨 train, 당황 val"),
        (("[원천]EMOIMG_기쁨_TRAIN/a.jpg", "놀림/b.jpg"), "[원천]EMOIMG_기쁨_TRAIN None, 놀림 None"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ai_hub_s_archives_are_classes_by_their_emotion(
    tmp_path: Path, names: tuple[str, ...], expected: str, form: Literal["NFC", "NFD"]
):
    touch(tmp_path, *(unicodedata.normalize(form, name) for name in names))
    found = sorted(f"{s.label} {s.split}" for s in read_folder(tmp_path).samples)
    assert ", ".join(found) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_only_folders_without_images_are_called_empty(
    tmp_path: Path, form: Literal["NFC", "NFD"], caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, *(unicodedata.normalize(form, f"{split}/기쁨/a.jpg") for split in ("훈련", "평가")))
    (tmp_path / unicodedata.normalize(form, "훈련") / unicodedata.normalize(form, "슬픔")).mkdir()
    load_dataset(tmp_path)
    assert caplog.messages[-1] == "no images in the folders 훈련/슬픔; their classes are left out"


def test_one_split_s_folder_by_itself_is_a_folder_of_classes(tmp_path: Path):
    touch(tmp_path, "test/happy/a.jpg", "train/happy/b.jpg")
    (sample,) = read_folder(tmp_path / "test").samples
    assert (sample.path, sample.label, sample.split) == ("happy/a.jpg", "happy", None)


def test_splits_beside_classes_are_refused(tmp_path: Path):
    touch(tmp_path, "train/happy/a.jpg", "neutral/b.jpg")
    with pytest.raises(DataError, match=r"split folders \(train\) next to other folders .*\(neutral\)"):
        read_folder(tmp_path)


def test_hangul_typed_on_a_mac_and_elsewhere_is_one_class_and_one_person(tmp_path: Path):
    decomposed = unicodedata.normalize("NFD", "기쁨")
    assert decomposed != "기쁨"
    touch(tmp_path, "기쁨/홍길동_1.jpg", f"{decomposed}/{unicodedata.normalize('NFD', '홍길동_2.jpg')}")
    data = read_folder(tmp_path, person_pattern="^([^_]+)_")
    assert data.class_counts() == {"기쁨": 2}
    assert {s.group for s in data.samples} == {"홍길동"}
    for sample in data.samples:
        assert data.source.stamp(sample.path).size == 0  # the path still is the one on the disk


def test_names_that_are_not_utf8_are_read(tmp_path: Path):
    folder = touch(tmp_path, "happy/.keep") / "happy"
    Image.new("RGB", (3, 2), "red").save(folder / os.fsdecode(b"\xff\xfe.png"), "PNG")
    data = read_folder(tmp_path)
    assert np.all(data.read(data.samples[0]) == (255, 0, 0))


def test_hidden_and_foreign_files_are_left_out(tmp_path: Path):
    touch(
        tmp_path, "happy/a.jpg", "happy/.b.jpg", "happy/._a.jpg", ".git/c.jpg", "__MACOSX/happy/d.jpg",
        "happy/Thumbs.db", "happy/notes.txt", "happy/jpg", "happy/.jpg",
    )  # fmt: skip
    assert [s.path for s in read_folder(tmp_path).samples] == ["happy/a.jpg"]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path):
    touch(tmp_path / "data", "happy/a.jpg", "sad/b.jpg")
    touch(tmp_path / "elsewhere", "c.jpg")
    data = tmp_path / "data"
    (data / "angry").symlink_to(tmp_path / "elsewhere")
    (data / "happy" / "all").symlink_to(data)
    (data / "sad" / "self").symlink_to(data / "sad" / "self")
    assert [s.path for s in read_folder(data).samples] == ["angry/c.jpg", "happy/a.jpg", "sad/b.jpg"]


def test_ai_hub_file_names_tell_the_person(tmp_path: Path):
    name = f"{PERSON}_여_20_기쁨_도심 환경_20201204105732-001-007.jpg"
    touch(tmp_path, f"기쁨/{name}", "기쁨/0f0f_other.jpg")
    assert {s.group for s in read_folder(tmp_path).samples} == {PERSON, None}


def test_a_pattern_of_one_s_own_tells_the_person(tmp_path: Path):
    touch(tmp_path, "happy/p01-3.jpg", "happy/x.jpg")
    groups = {s.path: s.group for s in read_folder(tmp_path, person_pattern=r"^p(\d+)-").samples}
    assert groups == {"happy/p01-3.jpg": "01", "happy/x.jpg": None}


@pytest.mark.parametrize(("pattern", "what"), [("p[0-9", "a regular expression"), ("p[0-9]+", "a group")])
def test_a_pattern_that_finds_nobody_is_refused(tmp_path: Path, pattern: str, what: str):
    with pytest.raises(DataError, match=f"expected {what}"):
        read_folder(touch(tmp_path, "happy/a.jpg"), person_pattern=pattern)


def test_nothing_to_read_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="found nothing at"):
        read_folder(tmp_path / "missing")
    with pytest.raises(DataError, match=r"expected images in .*, found none"):
        read_folder(touch(tmp_path, "happy/notes.txt"))


@pytest.mark.parametrize("closed", [".", "data", "data/sad"])
def test_a_folder_without_permission_is_named(unprivileged: Path, closed: str):
    outer = unprivileged / "outer"
    touch(outer / "data", "happy/a.jpg", "sad/b.jpg")
    (outer / closed).chmod(0)
    try:
        with pytest.raises(DataError, match=f"{outer / closed}.*Permission denied"):
            load_dataset(outer / "data")
    finally:
        (outer / closed).chmod(0o755)


def test_only_regular_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    source = FileSource(tmp_path)
    for name in ("pipe.jpg", "endless.jpg"):
        with pytest.raises(OSError, match="not a regular file"):
            source.read(name)
    with pytest.raises(FileNotFoundError):
        source.read("gone.jpg")


def test_a_text_file_called_jpg_is_no_image(tmp_path: Path):
    (tmp_path / "a.jpg").write_text("dear diary")
    data = read_folder(tmp_path)
    with pytest.raises(ImageError, match="known format"):
        data.read(data.samples[0])


def test_what_is_said_of_tables_is_not_silently_dropped_for_a_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    touch(tmp_path, "happy/a.jpg")
    assert len(load_dataset(tmp_path, columns={"label": "emotion"})) == 1
    assert caplog.messages == [
        f"names of columns and the folder of images are for tables: not used for {tmp_path}"
    ]
