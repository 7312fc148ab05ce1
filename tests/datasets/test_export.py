import errno
import os
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from layout_files import image
from PIL import Image

from ferkit.core.errors import DataError, FerkitError
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.export import export_folder, export_npz, export_parquet
from ferkit.datasets.load import load_dataset


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


@pytest.fixture
def faces(tmp_path: Path) -> Dataset:
    """Names that collide once they lie in one folder."""
    root = tmp_path / "in"
    samples = (
        Sample("one/a.png", "기쁨", "train", "p", (1, 2, 9, 9), {"source": "s"}),
        Sample("two/a.png", "기쁨", "train", "q"),
        Sample("two/A.PNG", "기쁨", "train"),
        Sample(unicodedata.normalize("NFD", "two/슬픔.png"), "슬픔", "test"),
        Sample("two/슬픔.png", "슬픔", "test"),
    )
    for i, sample in enumerate(samples):
        image(root / sample.path, seed=i)
    return Dataset("in", root, samples, FileSource(root))


def test_a_folder_of_each_part_and_class_in_which_no_name_hides_another(faces: Dataset, tmp_path: Path):
    done = export_folder(faces, tmp_path / "out")
    assert files(tmp_path / "out") == [
        "manifest.csv", "test/슬픔/슬픔-2.png", "test/슬픔/슬픔.png", "train/기쁨/A-2.PNG", "train/기쁨/a-3.png",
        "train/기쁨/a.png",
    ]  # fmt: skip
    assert (done.n_written, done.n_there, len(done.renamed), done.failures) == (5, 0, 3, ())
    as_folder, as_table = load_dataset(tmp_path / "out"), load_dataset(tmp_path / "out" / "manifest.csv")
    assert as_folder.class_counts() == as_table.class_counts() == {"기쁨": 3, "슬픔": 2}
    marked = next(sample for sample in as_table.samples if sample.box)
    assert (marked.path, marked.group, marked.box) == ("train/기쁨/a.png", "p", (1, 2, 9, 9))
    digests = {faces.source.read(s.path) for s in faces.samples}
    assert {as_table.source.read(s.path) for s in as_table.samples} == digests


@pytest.mark.parametrize("link", ["copy", "hardlink", "symlink"])
def test_a_second_run_writes_only_what_is_missing(faces: Dataset, tmp_path: Path, link: str):
    out = tmp_path / "out"
    export_folder(faces, out, link=link)  # type: ignore[arg-type]
    file = out / "train" / "기쁨" / "a.png"
    assert file.is_symlink() == (link == "symlink")
    assert os.path.samefile(file, faces.root / "one" / "a.png") == (link != "copy")
    file.unlink()
    (out / "train" / "기쁨" / ".a.png.tmp").write_bytes(b"of an interrupted run")
    done = export_folder(faces, out, link=link)  # type: ignore[arg-type]
    assert (done.n_written, done.n_there) == (1, 4)
    image(faces.root / "two" / "슬픔.png", seed=99, size=20)
    done = export_folder(faces, out, link=link)  # type: ignore[arg-type]
    assert done.n_written == (1 if link == "copy" else 0)
    assert not [name for name in files(out) if name.endswith(".tmp")]


def test_parts_can_be_left_out_and_half_of_them_must_be(faces: Dataset, tmp_path: Path):
    export_folder(faces, tmp_path / "out", parts=False)
    assert {name.split("/")[0] for name in files(tmp_path / "out")} == {"manifest.csv", "기쁨", "슬픔"}
    half = faces.subset([*faces.samples[:2], Sample("x.png", "기쁨")])
    with pytest.raises(DataError, match=r"1 of 3 images are in no part.*--no-parts"):
        export_folder(half, tmp_path / "half")


def test_lost_images_are_left_out_and_told(faces: Dataset, tmp_path: Path):
    (faces.root / "one" / "a.png").unlink()
    done = export_folder(faces, tmp_path / "out")
    assert done.failures == (("one/a.png", "cannot be read: No such file or directory"),)
    assert len(load_dataset(tmp_path / "out" / "manifest.csv")) == 4


@pytest.mark.parametrize("name", ["a/b", "so?", "..", "Test"])
def test_classes_that_cannot_be_folders_are_refused(tmp_path: Path, name: str):
    image(tmp_path / "a.png")
    data = Dataset("d", tmp_path, (Sample("a.png", name),), FileSource(tmp_path))
    with pytest.raises(DataError, match=r"cannot be the name of a folder|taken for a part"):
        export_folder(data, tmp_path / "out")


def test_a_full_disk_is_said_in_a_sentence(faces: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(FerkitError, match=r"the disk is full.*run the same command again"):
        export_folder(faces, tmp_path / "out")
    deadline = time.monotonic() + 10
    while files(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.01)  # other threads are still clearing away theirs
    assert files(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="file names are Unicode there")
def test_names_of_a_korean_windows_become_readable(tmp_path: Path):
    name = os.fsdecode("사진 1.png".encode("cp949"))
    image(tmp_path / "in" / "happy" / "x.png").rename(tmp_path / "in" / "happy" / name)
    export_folder(load_dataset(tmp_path / "in"), tmp_path / "out")
    assert files(tmp_path / "out") == ["happy/사진 1.png", "manifest.csv"]


def test_images_in_arrays_become_png_files(tmp_path: Path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 8, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array(["x", "y", "x", "y"]))
    data = load_dataset(tmp_path / "a.npz")
    export_folder(data, tmp_path / "out")
    assert files(tmp_path / "out") == [
        "manifest.csv",
        "x/000000.png",
        "x/000002.png",
        "y/000001.png",
        "y/000003.png",
    ]
    with Image.open(tmp_path / "out" / "y" / "000003.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), images[3])
    with pytest.raises(DataError, match="can only be written, not linked"):
        export_folder(data, tmp_path / "linked", link="symlink")


def test_an_array_comes_back_as_the_images_it_was_made_of(faces: Dataset, tmp_path: Path):
    assert export_npz(faces, tmp_path / "a.npz") == ()
    back = load_dataset(tmp_path / "a.npz")
    assert [(s.label, s.split, s.group) for s in sorted(back.samples, key=lambda s: s.path[-6:])] == [
        (s.label, s.split, s.group) for s in faces.samples
    ]
    pixels = {back.read(s).tobytes() for s in back.samples}
    assert pixels == {faces.read(s).tobytes() for s in faces.samples}


def test_an_array_of_one_size_and_channel(faces: Dataset, tmp_path: Path):
    image(faces.root / "one" / "a.png", size=40)
    with pytest.raises(DataError, match=r"of one size, found 40x40 and 16x16 .*--size"):
        export_npz(faces, tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()
    (faces.root / "two" / "a.png").write_bytes(b"no image")
    failures = export_npz(faces, tmp_path / "a.npz", size_wh=(12, 10), gray=True)
    assert [path for path, _ in failures] == ["two/a.png"]
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].shape == (4, 10, 12)
        assert file["labels"].tolist() == ["기쁨", "기쁨", "슬픔", "슬픔"]


def test_nothing_that_can_be_read_is_no_array(tmp_path: Path):
    data = Dataset("d", tmp_path, (Sample("a.png", "x"),), FileSource(tmp_path))
    with pytest.raises(DataError, match=r"no image of .* can be read; the first: a\.png"):
        export_npz(data, tmp_path / "a.npz")


@pytest.mark.parametrize("images", [False, True])
def test_a_table_for_pandas_and_hugging_face(faces: Dataset, tmp_path: Path, images: bool):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    assert export_parquet(faces, tmp_path / "lists" / "a.parquet", images=images) == ()
    table = parquet.read_table(tmp_path / "lists" / "a.parquet")
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == ["기쁨"] * 3 + ["슬픔"] * 2
    assert (rows[0]["path"], rows[0]["left"], rows[0]["source"], rows[1]["left"]) == (
        "../in/one/a.png",
        1,
        "s",
        None,
    )
    assert ("image" in rows[0]) == images
    if images:
        assert rows[0]["image"]["bytes"] == (faces.root / "one" / "a.png").read_bytes()
        assert b'"image": {"_type": "Image"}' in table.schema.metadata[b"huggingface"]
