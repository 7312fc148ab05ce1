from pathlib import Path

import pytest

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelTables
from ferkit.datasets.dataset import Dataset, FileSource, Sample
from ferkit.datasets.edit import relabel


def dataset(*labels: str | None) -> Dataset:
    samples = tuple(
        Sample(f"{i:03d}.png", label, "train", "p", None, {"sex": "f"}) for i, label in enumerate(labels)
    )
    return Dataset("d", Path("d"), samples, FileSource(Path("d")))


def test_seven_korean_classes_become_five_four_three_and_two():
    seven = dataset("기쁨", "당황", "분노", "불안", "상처", "슬픔", "중립", None)
    names = {
        target: [s.label for s in relabel(seven, target, unmapped="keep").dataset.samples]
        for target in ("aihub5", "aihub4", "valence3", "valence2")
    }
    assert names["aihub5"] == ["happy", "uneasy", "angry", "uneasy", "sad", "sad", "neutral", None]
    assert names["aihub4"] == ["happy", "distressed", "angry", *["distressed"] * 3, "neutral", None]
    assert names["valence3"][:1] + names["valence3"][2:] == ["positive", *["negative"] * 4, "neutral", None]
    assert names["valence2"][-2] == "중립"  # kept


def test_all_else_stays_as_it_was():
    done = relabel(dataset("happiness", "SAD", "sad"), "fer2013")
    sample = done.dataset.samples[0]
    assert (sample.split, sample.group, dict(sample.attributes)) == ("train", "p", {"sex": "f"})
    assert done.changes == {("SAD", "sad"): 1, ("happiness", "happy"): 1, ("sad", "sad"): 1}
    assert done.unreached == ("angry", "disgust", "fear", "neutral", "surprise")


def test_classes_can_be_spelled_in_korean():
    done = relabel(dataset("happy", "anger", "당황"), "aihub5", language="ko")
    assert [s.label for s in done.dataset.samples] == ["기쁨", "분노", "당황·불안"]


def test_classes_without_a_place_are_named_and_counted_and_dropped_only_if_asked():
    data = dataset("happy", "surprise", "surprise", "disgust", None)
    with pytest.raises(
        DataError, match=r"3 images .* no place in aihub5: disgust \(1\), surprise \(2\); .*--map"
    ):
        relabel(data, "aihub5")
    labels = {
        how: [s.label for s in relabel(data, "aihub5", unmapped=how).dataset.samples]
        for how in ("drop", "keep", "unlabel")
    }
    assert labels["drop"] == ["happy", None]
    assert labels["keep"] == ["happy", "surprise", "surprise", "disgust", None]
    assert labels["unlabel"] == ["happy", None, None, None, None]
    assert relabel(data, "aihub5", unmapped="drop").unmapped == {"disgust": 1, "surprise": 2}


def test_a_map_of_ones_own(tmp_path: Path):
    (tmp_path / "m.toml").write_text(
        '[sets]\nmood = ["Good", "bad"]\n[maps.mood]\nGood = ["기쁨"]\nbad = ["aihub3"]\n'
    )
    tables = LabelTables.read(tmp_path / "m.toml")
    done = relabel(dataset("happy", "AIHUB3", "good"), "mood", tables=tables)
    assert [s.label for s in done.dataset.samples] == ["Good", "bad", "Good"]


def test_what_cannot_be_mapped_is_refused():
    with pytest.raises(DataError, match="no label set is called 'mood'"):
        relabel(dataset("happy"), "mood")
    with pytest.raises(DataError, match="none with a label"):
        relabel(dataset(None), "aihub5")
    with pytest.raises(DataError, match="no class of d has a place in teasing; its classes are happy"):
        relabel(dataset("happy"), "teasing", unmapped="drop")
