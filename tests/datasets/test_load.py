import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.load import load_dataset
from tests.heard import heard


def test_folders_tables_and_arrays_come_in_by_one_way(tmp_path: Path):
    (tmp_path / "folder" / "p3").mkdir(parents=True)
    (tmp_path / "folder" / "p3" / "p3-a.jpg").write_bytes(b"")
    (tmp_path / "table.CSV").write_text("folder/p3/p3-a.jpg,happy\n", encoding="utf-8")
    np.savez(tmp_path / "arrays.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert load_dataset(tmp_path / "folder", "^(p.)-").samples == (Sample("p3/p3-a.jpg", "p3", None, "p3"),)
    assert load_dataset(tmp_path / "table.CSV").samples == (Sample("folder/p3/p3-a.jpg", "happy"),)
    assert len(load_dataset(tmp_path / "arrays.npz")) == 2


def test_the_names_of_files_tell_persons_wherever_the_names_stand(tmp_path: Path):
    names = ["p1-a.jpg", "p2-b.jpg", "c.jpg"]
    (tmp_path / "faces").mkdir()
    for name in names:
        (tmp_path / "faces" / name).write_bytes(b"")
    own = "".join(f"faces/{name},happy,{who}\n" for name, who in zip(names, ("", "kim", ""), strict=True))
    (tmp_path / "table.csv").write_text(f"path,label,person\n{own}", encoding="utf-8")
    for pattern in (r"^(p\d)-", r"^(p\d)?"):
        assert load_dataset(tmp_path / "faces", pattern).groups.tolist() == [None, "p1", "p2"]
        assert load_dataset(tmp_path / "table.csv", pattern).groups.tolist() == [None, "p1", "kim"]
    for wrong in ("(", "p"):
        with pytest.raises(DataError, match="person pattern"):
            load_dataset(tmp_path / "table.csv", wrong)


@pytest.mark.parametrize(
    ("name", "what"),
    [("missing", "found nothing"), ("data.zip", "cannot be read as an archive"), ("data.7z", "unpack it first"),
      ("x" * 300, "cannot be read"),
     ("a\0b", "cannot be read"), ("data.zip/x", "cannot be read")],
)  # fmt: skip
def test_anything_else_is_refused(tmp_path: Path, name: str, what: str):
    (tmp_path / "data.zip").write_bytes(b"PK")
    (tmp_path / "data.7z").write_bytes(b"7z")
    with pytest.raises(DataError, match=what):
        load_dataset(tmp_path / name)


def test_class_folders_without_images_are_remarked_on(tmp_path: Path):
    as_on_a_mac = unicodedata.normalize("NFD", "train/중립")
    for name in ("train/happy", "train/슬픔", "train/.cache", "test/happy", "test/fear", as_on_a_mac):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / as_on_a_mac / "a.jpg").write_bytes(b"")
    for part in ("train", "test"):
        (tmp_path / part / "happy" / "a.jpg").write_bytes(b"")
    with heard() as said:
        load_dataset(tmp_path)
    assert "no images in the folders test/fear, train/슬픔; their classes are left out" in said
    (tmp_path / "train" / "슬픔").rmdir()
    (tmp_path / "test" / "fear").rmdir()
    with heard() as said:
        load_dataset(tmp_path)
    assert said == []


def test_samples_are_sorted_and_distinct(tmp_path: Path):
    def data(*paths: str) -> Dataset:
        return Dataset("x", tmp_path, tuple(Sample(path) for path in paths), FileSource(tmp_path))

    assert [s.path for s in data("b", "a", "가").samples] == ["a", "b", "가"]
    with pytest.raises(DataError, match="found a twice"):
        data("a", "b", "a")
    whole = data("a", "b", "c")
    assert [s.path for s in whole.subset(whole.samples[1:]).samples] == ["b", "c"]
