from pathlib import Path

import pytest

from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet, LabelTables

MINE = """
[words]
delighted = ["아주 기쁨", "Very happy"]
happiness = ["기쁘다"]

[sets]
mood3 = ["Good", "bad", "중간"]

[maps.mood3]
Good = ["delighted", "기쁨", "surprise"]
bad = ["sadness", "분노"]
"중간" = ["neutral"]

[maps.aihub5]
uneasy = ["fear", "surprise"]
sad = ["embarrassed"]
"""


def tables(tmp_path: Path, text: str, encoding: str = "utf-8") -> LabelTables:
    (tmp_path / "mine.toml").write_text(text, encoding)
    return LabelTables.read(tmp_path / "mine.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_ones_own_adds_words_sets_and_maps(tmp_path: Path, encoding: str):
    own = tables(tmp_path, MINE, encoding)
    labels = ("기쁘다", "아주 기쁨", "VERY HAPPY", "happiness", "슬픔", "neutral", "disgust")
    mapped = LabelSet(labels).map_to(LabelSet.named("mood3", own), own)
    assert mapped.labels(labels) == ["Good", "Good", "Good", "Good", "bad", "중간", None]
    assert "mood3" not in LabelTables.built_in().sets


def test_it_adds_to_a_map_that_comes_along_and_has_the_last_word(tmp_path: Path):
    own = tables(tmp_path, MINE)
    names = ("fear", "anxious", "embarrassed", "hurt")
    five = LabelSet.named("aihub5")
    assert LabelSet(names).map_to(five, own).labels(names) == ["uneasy", "uneasy", "sad", "sad"]
    assert LabelSet(names).map_to(five).labels(names) == [None, "uneasy", "uneasy", "sad"]


def test_hangul_typed_on_a_mac_is_the_same(tmp_path: Path):
    import unicodedata

    own = tables(tmp_path, unicodedata.normalize("NFD", MINE))
    assert own.meaning_of("아주 기쁨") == "delighted"
    assert LabelSet.named("mood3", own).names[2] == "중간"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[sets\n", "is no TOML file"),
        ("mood = 1\n", "expected the tables words, sets and maps .*found mood"),
        ("sets = 1\n", r"expected a table \[sets\]"),
        ('[sets]\na = "x"\n', "expected a list of names for sets.a"),
        ('[sets]\na = ["x", "X"]\n', "expected distinct classes in sets.a"),
        ('[sets]\na = ["happy", "기쁨"]\n', "expected distinct classes in sets.a"),
        ('[maps.b]\nx = ["y"]\n', "maps to a set 'b' that is not there"),
        ('[sets]\na = ["x"]\n[maps.a]\nz = ["y"]\n', "has a class 'z' that the set 'a' has not"),
        ('[sets]\na = ["x", "z"]\n[maps.a]\nx = ["y"]\nz = ["Y"]\n', "has 'y' in 'x' and 'z'"),
        ("[maps]\naihub5 = 1\n", "expected a table maps.aihub5"),
        ('[words]\na = "b"\n', "expected a list of spellings"),
        ("[words]\na = {jp = 'b'}\n", "expected a list of spellings"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, what: str):
    with pytest.raises(DataError, match=what):
        tables(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.toml cannot be read"):
        LabelTables.read(tmp_path / "none.toml")
    (tmp_path / "k.toml").write_bytes('[sets]\na = ["가"]\n'.encode("cp949"))
    with pytest.raises(DataError, match="is no TOML file"):
        LabelTables.read(tmp_path / "k.toml")
