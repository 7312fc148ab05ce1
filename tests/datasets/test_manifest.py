import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.core.errors import DataError
from ferkit.datasets.archives import read_npz
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.export import write_manifest
from ferkit.datasets.load import load_dataset


def image(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def listed(root: Path, *samples: Sample) -> Dataset:
    return Dataset("some", root, samples, FileSource(root))


def test_everything_comes_back_as_it_was(tmp_path: Path):
    samples = (
        Sample(
            "기쁨/a b, c.jpg", "기쁨", "train", "김", (1.5, 2, 30, 40.25), {"source": "aihub", "age": "20"}
        ),
        Sample('sad/"d".jpg', "sad", None, None, None, {"sex": "female"}),
        Sample("new\nline.jpg"),
    )
    write_manifest(tmp_path / "m.csv", listed(tmp_path, *samples))
    back = load_dataset(tmp_path / "m.csv").samples
    assert back == tuple(sorted(samples, key=lambda s: s.path))
    assert [dict(s.attributes) for s in back] == [{}, {"sex": "female"}, {"source": "aihub", "age": "20"}]


def test_it_is_a_small_text_that_git_can_compare(tmp_path: Path):
    samples = [Sample(f"{name}.png", "x", attributes={"source": "s"}) for name in ("b", "a", "다")]
    write_manifest(tmp_path / "m.csv", listed(tmp_path, *samples))
    text = (tmp_path / "m.csv").read_bytes().decode("utf-8")
    assert text == "path,label,source\na.png,x,s\nb.png,x,s\n다.png,x,s\n"
    write_manifest(tmp_path / "again.csv", load_dataset(tmp_path / "m.csv"))
    assert (tmp_path / "again.csv").read_text("utf-8") == text


def test_images_are_found_from_wherever_the_manifest_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image(tmp_path / "data" / "happy" / "a.png", "lime")
    monkeypatch.chdir(tmp_path)
    for place in ("m.csv", "data/m.csv", "data/happy/m.csv", "lists/deep/m.csv"):
        write_manifest(Path(place), load_dataset(Path("data")))
        data = load_dataset(tmp_path / place)
        assert data.read(data.samples[0])[0, 0].tolist() == [0, 255, 0]
        assert not os.path.isabs(data.samples[0].path)
    # and a list of a list, elsewhere
    write_manifest(tmp_path / "x" / "n.csv", load_dataset(Path("lists/deep/m.csv")))
    assert load_dataset(tmp_path / "x" / "n.csv").samples[0].path == "../data/happy/a.png"


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_symbolic_links_do_not_lead_astray(tmp_path: Path):
    image(tmp_path / "disk" / "deep" / "faces" / "sad" / "a.png")
    project = tmp_path / "project"
    project.mkdir()
    (project / "data").symlink_to(tmp_path / "disk" / "deep" / "faces")
    write_manifest(project / "m.csv", load_dataset(project / "data"))
    assert (
        load_dataset(project / "m.csv").samples[0].path == "data/sad/a.png"
    )  # the link may lead elsewhere later
    # A list that is seen through the link, and leads upwards from where it really lies.
    write_manifest(tmp_path / "disk" / "deep" / "lists" / "l.csv", load_dataset(project / "data"))
    (project / "lists").symlink_to(tmp_path / "disk" / "deep" / "lists")
    for place in (project / "n.csv", project / "lists" / "n.csv", tmp_path / "o.csv"):
        write_manifest(place, load_dataset(project / "lists" / "l.csv"))
        data = load_dataset(place)
        assert data.read(data.samples[0]).shape == (6, 8, 3)


def test_absolute_paths_stay_absolute(tmp_path: Path):
    file = image(tmp_path / "far" / "a.png")
    write_manifest(tmp_path / "m.csv", listed(tmp_path, Sample(file.as_posix(), "x")))
    assert load_dataset(tmp_path / "m.csv").samples[0].path == file.as_posix()


@pytest.mark.skipif(os.name != "posix", reason="file names are Unicode there")
def test_file_names_that_are_not_utf8_survive(tmp_path: Path):
    korean = os.fsdecode("기쁨_사진.png".encode("cp949"))
    image(tmp_path / "data" / "기쁨" / "a.png").rename(tmp_path / "data" / "기쁨" / korean)
    write_manifest(tmp_path / "m.csv", load_dataset(tmp_path / "data"))
    data = load_dataset(tmp_path / "m.csv")
    assert data.samples[0].label == "기쁨"
    assert data.read(data.samples[0]).shape == (6, 8, 3)


def test_attributes_do_not_turn_into_columns(tmp_path: Path):
    sample = Sample(
        "a.png", None, attributes={"Subject": "7", "category": "face", "xmin": "1", "usage": "any"}
    )
    write_manifest(tmp_path / "m.csv", listed(tmp_path, sample))
    back = load_dataset(tmp_path / "m.csv").samples[0]
    assert back == sample
    assert dict(back.attributes) == dict(sample.attributes)
    with pytest.raises(DataError, match=r"other names for attributes than \['label'\]"):
        write_manifest(tmp_path / "m.csv", listed(tmp_path, Sample("a.png", attributes={"Label": "x"})))


@pytest.mark.parametrize("name", [" a.png", "a.png ", "a\\b.png", "~/a.png", "50%20\\a.png", "50%20.png"])
def test_a_name_that_a_table_would_not_keep_is_found_again(tmp_path: Path, name: str):
    image(tmp_path / "any.png").rename(
        image((tmp_path / name).with_suffix(".png")).with_name(Path(name).name)
    )
    write_manifest(tmp_path / "m.csv", listed(tmp_path, Sample(name, "x")))
    data = load_dataset(tmp_path / "m.csv")
    assert data.read(data.samples[0]).shape[2] == 3


def test_what_a_table_would_not_give_back_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"'None' of a\.png would be read as none"):
        write_manifest(tmp_path / "m.csv", listed(tmp_path, Sample("a.png", "None")))
    with pytest.raises(DataError, match=r"ends in \.csv"):
        write_manifest(tmp_path / "m.txt", listed(tmp_path, Sample("a.png", "x")))
    assert not list(tmp_path.iterdir())


def test_images_in_arrays_must_be_written_out_first(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array(["x", "y"]))
    with pytest.raises(DataError, match=r"fer dataset export .*a\.npz -o FOLDER"):
        write_manifest(tmp_path / "m.csv", read_npz(tmp_path / "a.npz"))
