import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from layout_files import image

from ferkit.core.errors import DataError
from ferkit.datasets.archives import read_npz
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.edit import merge
from ferkit.datasets.export import write_manifest
from ferkit.datasets.load import load_dataset


def listed(root: Path, *samples: Sample) -> Dataset:
    for sample in samples:
        image(root / sample.path)
    return Dataset(root.name, root, samples, FileSource(root))


def test_same_names_in_two_folders_are_two_images(tmp_path: Path):
    a = listed(tmp_path / "a", Sample("x.png", "happy", "train", "7"), Sample("y.png", "sad"))
    b = listed(tmp_path / "b", Sample("x.png", "happy", None, "7", (1, 2, 3, 4), {"sex": "female"}))
    done = merge([a, b], tmp_path)
    assert [(s.path, s.group, s.attributes["source"]) for s in done.dataset.samples] == [
        ("a/x.png", "a/7", "a"), ("a/y.png", None, "a"), ("b/x.png", "b/7", "b"),
    ]  # fmt: skip
    assert done.dataset.samples[2].box == (1, 2, 3, 4)
    assert (done.n_same, done.conflicts, done.lookalikes, done.spellings) == (0, (), (), {})
    assert done.dataset.read(done.dataset.samples[2]).shape == (16, 16, 3)


def test_merging_what_was_merged_changes_no_person_and_no_source(tmp_path: Path):
    a = listed(tmp_path / "a", Sample("x.png", "happy", None, "7"))
    b = listed(tmp_path / "b", Sample("x.png", "happy", None, "7"))
    c = listed(tmp_path / "c", Sample("x.png", "happy", None, "7"))
    write_manifest(tmp_path / "ab.csv", merge([a, b], tmp_path).dataset)
    done = merge([load_dataset(tmp_path / "ab.csv"), c], tmp_path / "lists")
    assert [(s.path, s.group, s.attributes["source"]) for s in done.dataset.samples] == [
        ("../a/x.png", "a/7", "a"), ("../b/x.png", "b/7", "b"), ("../c/x.png", "c/7", "c"),
    ]  # fmt: skip


def test_one_name_for_two_data_sets_says_that_the_persons_are_the_same(tmp_path: Path):
    a = listed(tmp_path / "one" / "data", Sample("x.png", "happy", None, "7"))
    b = listed(tmp_path / "two" / "data", Sample("y.png", "happy", None, "7"))
    with pytest.raises(DataError, match="two of the data sets are called 'data'"):
        merge([a, b], tmp_path)
    done = merge([a, b], tmp_path, ["aihub", "aihub"])
    assert {s.group for s in done.dataset.samples} == {"aihub/7"}
    apart = merge([a, b], tmp_path, ["p", "q"])
    assert {s.group for s in apart.dataset.samples} == {"p/7", "q/7"}
    # Names do not matter where every image has its source already.
    halves = [apart.dataset.subset([sample]) for sample in apart.dataset.samples]
    assert merge(halves, tmp_path).dataset.samples == apart.dataset.samples
    with pytest.raises(DataError, match="expected 2 names of sources"):
        merge([a, b], tmp_path, ["p"])


def test_a_image_in_several_data_sets_is_taken_once(tmp_path: Path):
    a = listed(tmp_path / "a", Sample("x.png", "happy"), Sample("y.png"), Sample("z.png", "happy"))
    again = Dataset("b", tmp_path / "a", (Sample("x.png", "기쁨"), Sample("y.png", "sad")), a.source)
    done = merge([a, again], tmp_path)
    assert done.n_same == 2
    assert {s.path: s.label for s in done.dataset.samples} == {
        "a/x.png": "happy",  # the same in another language is no conflict
        "a/y.png": "sad",
        "a/z.png": "happy",
    }
    assert done.conflicts == ()


@pytest.mark.parametrize(("conflict", "label"), [("first", "happy"), ("last", "sad"), ("drop", None)])
def test_different_labels_are_decided_as_asked(tmp_path: Path, conflict: str, label: str | None):
    a = listed(tmp_path / "a", Sample("x.png", "happy"), Sample("y.png", "sad"))
    b = Dataset("b", tmp_path / "a", (Sample("x.png", "sad"),), a.source)
    with pytest.raises(DataError, match=r"1 images different labels, first a/x\.png: happy and sad"):
        merge([a, b], tmp_path)
    done = merge([a, b], tmp_path, conflict=conflict)  # type: ignore[arg-type]
    assert {s.path: s.label for s in done.dataset.samples}.get("a/x.png") == label
    assert done.conflicts == (("a/x.png", ("happy", "sad")),)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_one_folder_under_two_names_is_noticed(tmp_path: Path):
    a = listed(tmp_path / "disk" / "a", Sample("x.png", "happy"))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to(tmp_path / "disk" / "a")
    b = load_dataset(tmp_path / "project" / "link")
    done = merge([a, b], tmp_path / "project", ["a", "b"])
    assert done.n_same == 1
    assert [s.path for s in done.dataset.samples] == ["../disk/a/x.png"]


@pytest.mark.skipif(os.name != "posix", reason="file names differ in case there")
def test_names_that_some_file_systems_do_not_tell_apart_are_kept_and_told(tmp_path: Path):
    nfd = unicodedata.normalize("NFD", "기쁨.png")
    a = listed(
        tmp_path / "a", Sample("A.png", "x"), Sample("a.png", "x"), Sample("기쁨.png", "x"), Sample(nfd, "x")
    )
    done = merge([a], tmp_path)
    assert len(done.dataset) == 4
    assert set(map(frozenset, done.lookalikes)) == {
        frozenset({"a/A.png", "a/a.png"}), frozenset({"a/기쁨.png", f"a/{nfd}"}),
    }  # fmt: skip


def test_classes_that_mean_the_same_are_told(tmp_path: Path):
    a = listed(tmp_path / "a", Sample("x.png", "happy"), Sample("y.png", "sad"))
    b = listed(tmp_path / "b", Sample("x.png", "기쁨"), Sample("y.png", "분노"))
    assert merge([a, b], tmp_path).spellings == {"happy": ("happy", "기쁨")}


def test_images_in_arrays_must_be_written_out_first(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array(["x", "y"]))
    with pytest.raises(DataError, match="fer dataset export"):
        merge([read_npz(tmp_path / "a.npz")], tmp_path)
