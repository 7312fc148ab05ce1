import os
from pathlib import Path

import numpy as np
import pytest
from layout_files import image
from PIL import Image

from ferkit.core.style import can_draw
from ferkit.core.texts import speaking
from ferkit.datasets.archives import read_npz
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.image_stats import LOOKED_AT, plot_summary, summarize


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    """Two sources, three parts, four persons of whom one is in two parts; one file lost and one damaged."""
    samples = [
        Sample("a.png", "기쁨", "train", "p", (0, 0, 5, 5), {"source": "s", "sex": "여", "age": "20"}),
        Sample("b.png", "기쁨", "test", "p", None, {"source": "s", "sex": "남", "age": "40"}),
        Sample("c.png", "슬픔", "train", "q", None, {"source": "t", "age": "30"}),
        Sample("d.jpg", None, "val", None, None, {"source": "t"}),
        Sample("lost.png", "슬픔", "train", "r", None, {"source": "t"}),
        Sample("damaged.png", "슬픔", "train", "s", None, {"source": "t"}),
    ]
    image(tmp_path / "a.png", size=16)
    image(tmp_path / "b.png", size=16)
    Image.new("L", (30, 20)).save(tmp_path / "c.png")
    upright = Image.Exif()
    upright[0x0112] = 6
    Image.new("RGB", (40, 60)).save(tmp_path / "d.jpg", exif=upright)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG no more")
    return Dataset("mixed", tmp_path, tuple(samples), FileSource(tmp_path))


def test_counts_persons_attributes_and_files(mixed: Dataset):
    found = summarize(mixed)
    assert found.by(0) == {("",): 1, ("기쁨",): 2, ("슬픔",): 3}
    assert found.by(1, 2) == {("s", "test"): 1, ("s", "train"): 1, ("t", "train"): 3, ("t", "val"): 1}
    persons = found.persons
    assert (persons.n, persons.n_unknown, persons.most, persons.in_several_parts) == (4, 1, 2, 1)
    assert found.n_boxes == 1
    assert found.attributes["sex"].counts == {"여": 1, "남": 1}
    assert found.attributes["age"].range == (20, 30, 40)
    headers = found.headers
    assert headers.sizes_wh == {(16, 16): 2, (30, 20): 1, (60, 40): 1}  # as it is shown, not as it is stored
    assert headers.channels == {"colour": 3, "gray": 1}
    assert headers.formats == {"PNG": 3, "JPEG": 1}
    assert headers.n_bytes == sum(
        os.path.getsize(mixed.root / name) for name in ("a.png", "b.png", "c.png", "d.jpg")
    )
    assert [path for path, _ in headers.unreadable] == ["damaged.png", "lost.png"]
    assert "No such file" in dict(headers.unreadable)["lost.png"]


def test_it_is_plain_json(mixed: Dataset):
    import json

    text = json.dumps(summarize(mixed).to_dict(), ensure_ascii=False)
    values = json.loads(text)
    assert {"class": "기쁨", "source": "s", "split": "train", "n": 1} in values["counts"]
    assert values["headers"]["unreadable"][0][0] == "damaged.png"


def test_numbers_with_a_missing_one_stay_json(mixed: Dataset):
    import json

    samples = [Sample(f"{age}.png", attributes={"age": age}) for age in ("20", "30", "nan", "inf")]
    found = summarize(Dataset("x", mixed.root, tuple(samples), mixed.source))
    assert found.attributes["age"].range is None
    assert found.attributes["age"].counts == {"20": 1, "30": 1, "nan": 1, "inf": 1}
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_thousand_headers_are_looked_at_unless_all_are_asked_for(tmp_path: Path):
    image(tmp_path / "a.png")
    samples = tuple(Sample(f"{i:05d}/../a.png") for i in range(LOOKED_AT + 50))
    for i in (0, LOOKED_AT + 49):
        (tmp_path / f"{i:05d}").mkdir()
    data = Dataset("many", tmp_path, samples, FileSource(tmp_path))
    assert summarize(data).headers.n == LOOKED_AT
    assert summarize(data, everything=True).headers.n == LOOKED_AT + 50


def test_arrays_have_headers_too(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 20, 10), np.uint8), labels=np.array(["x", "y", "y"]))
    headers = summarize(read_npz(tmp_path / "a.npz")).headers
    assert headers.sizes_wh == {(10, 20): 3}
    assert headers.channels == {"gray": 3}


def test_the_plot_names_classes_parts_and_sources(mixed: Dataset):
    figure = plot_summary(summarize(mixed), "en")
    written = {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}
    assert {"기쁨", "슬픔", "unknown", "train", "test", "val", "s", "t"} <= written
    assert "mixed: 6 images, 4 persons" in written
    assert any("2 more could not be read" in text for text in written)
    with speaking("ko"):
        figure = plot_summary(summarize(mixed))
    written = {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}
    assert can_draw(["한"]) == ({"mixed: 이미지 6장, 인물 4명", "클래스별 이미지 수(출처별)"} <= written)
