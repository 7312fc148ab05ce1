from pathlib import Path

from layout_files import image, labels, reasons, text

from ferkit.datasets.formats.numbered import read_ckplus


def sequences(root: Path) -> Path:
    """Two sequences with an emotion, one without, one emotion without images."""
    for person, take, n in (("S005", "001", 5), ("S010", "002", 2), ("S010", "004", 4)):
        for frame in range(1, n + 1):
            name = f"{person}_{take}_{frame:08d}.png"
            image(root / "cohn-kanade-images" / person / take / name, seed=frame)
    emotion = root / "Emotion"
    text(emotion / "S005" / "001" / "S005_001_00000005_emotion.txt", "   3.0000000e+00\n")
    text(emotion / "S010" / "002" / "S010_002_00000002_emotion.txt", "   7.0000000e+00\n")
    text(emotion / "S999" / "001" / "S999_001_00000009_emotion.txt", "   1.0000000e+00\n")
    text(emotion / "S998" / "001" / "S998_001_00000009_emotion.txt", "\n")
    return root


def test_the_end_of_a_sequence_shows_it_and_its_beginning_is_neutral(tmp_path: Path):
    found = read_ckplus(sequences(tmp_path), frames=3)
    names = {path.rpartition("/")[2]: label for path, label in labels(found).items()}
    assert names == {
        "S005_001_00000001.png": "neutral",
        "S005_001_00000003.png": "disgust",
        "S005_001_00000004.png": "disgust",
        "S005_001_00000005.png": "disgust",
        "S010_002_00000001.png": "neutral",
        "S010_002_00000002.png": "surprise",  # no more frames than these
    }
    assert {sample.group for sample in found.dataset.samples} == {"S005", "S010"}
    assert found.dataset.samples[2].attributes == {"sequence": "S005_001", "frame": "4"}
    assert reasons(found) == {
        "Emotion/S998/001/S998_001_00000009_emotion.txt": "expected a number 0 to 7, found ''",
        "cohn-kanade-images/S010/004": "the sequence S010_004 has no emotion; it is left out",
        "S999_001": "there is an emotion, but no image of the sequence",
    }


def test_without_neutral_the_first_frame_may_be_among_the_last(tmp_path: Path):
    found = read_ckplus(sequences(tmp_path), frames=9, neutral=False)
    assert found.dataset.class_counts() == {"disgust": 5, "surprise": 2}


def test_the_folders_of_ck48_have_persons_in_their_names(tmp_path: Path):
    for name in ("anger/S010_004_00000017.png", "anger/S010_004_00000018.png", "contempt/S138_008_00000007.png",
                 "cats/S001_001_00000001.png", "anger/other.png"):  # fmt: skip
        image(tmp_path / "CK+48" / name)
    found = read_ckplus(tmp_path)
    assert found.dataset.class_counts() == {"angry": 2, "contempt": 1}
    assert [sample.group for sample in found.dataset.samples] == ["S010", "S010", "S138"]
    assert set(reasons(found)) == {"CK+48/cats/S001_001_00000001.png", "CK+48/anger/other.png"}
