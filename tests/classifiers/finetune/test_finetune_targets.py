from pathlib import Path

import numpy as np
import pytest

from ferkit.classifiers.finetune.data import read_votes, teacher_opinion, training_targets
from ferkit.classifiers.finetune.recipe import LossSettings
from ferkit.core.errors import DataError
from ferkit.core.labels import LabelSet

FER = LabelSet.named("fer2013")


def test_hard_labels_are_one_hot() -> None:
    assert training_targets(np.array([1, 0]), 2, LossSettings()).tolist() == [[0, 1], [1, 0]]


def test_votes_count_as_much_as_the_settings_say_and_nothing_where_there_are_none() -> None:
    soft = np.array([[0.5, 0.5], [0, 0]], np.float32)
    found = training_targets(np.array([0, 0]), 2, LossSettings(soft_weight=0.4), soft=soft)
    assert found == pytest.approx(np.array([[0.8, 0.2], [1, 0]]))


def test_a_teacher_is_softened_by_its_temperature() -> None:
    teacher = np.array([[0.9, 0.1]], np.float32)
    found = training_targets(
        np.array([1]), 2, LossSettings(teacher_weight=1.0, teacher_temperature=2.0), teacher=teacher
    )
    assert found == pytest.approx(np.array([[0.75, 0.25]]))  # sqrt(0.9) : sqrt(0.1) is 3 : 1


def test_votes_are_read_under_any_spelling_and_mapped(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "path,label,ferplus_neutral,ferplus_happiness,ferplus_contempt,ferplus_unknown\n"
        "a.png,happy,1,3,0,6\nb.png,angry,1,0,1,0\nc.png,sad,,,,\n"
    )
    votes = read_votes(path, ["b.png", "c.png", "a.png", "d.png"], FER)
    names = list(FER.names)
    assert votes[2, [names.index("neutral"), names.index("happy")]].tolist() == [0.25, 0.75]
    assert votes[0, names.index("disgust")] == 0.5  # FER2013 has no contempt
    assert votes[1].sum() == votes[3].sum() == 0


def test_votes_are_read_as_other_tables_are(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    # Marked as a manifest does; a blank line, a short row.
    text = "path;happy;sad\n'=a.png;1;3\n\n슬픔.png;2\n"
    path.write_text(text, encoding="cp949")
    votes = read_votes(path, ["=a.png", "슬픔.png"], LabelSet(("happy", "sad")))
    assert votes.tolist() == [[0.25, 0.75], [1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,happy\n", "none of the columns"),
        ("file,happy\na.png,3\n", "columns path"),
        ("path,happy\nother.png,3\n", "none of the 1 images"),
        ("path,happy\na.png,many\n", "number of votes, found 'many'"),
    ],
)
def test_a_file_without_votes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "votes.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_votes(tmp_path / "votes.csv", ["a.png"], FER)


class LeftBright:
    """Says ``a`` when the left half is brighter."""

    input_size_wh = (10, 10)

    def __init__(self, *names: str) -> None:
        self.labels = LabelSet(names)

    def predict_proba(self, crops: np.ndarray) -> np.ndarray:
        assert crops.shape[1:] == (10, 10, 3)
        left = crops[:, :, :5].mean((1, 2, 3)) > crops[:, :, 5:].mean((1, 2, 3))
        return np.where(left[:, None], [[0.8, 0.2]], [[0.4, 0.6]]).astype(np.float32)


def test_a_teacher_sees_its_own_size_and_both_sides() -> None:
    images = np.zeros((70, 24, 24, 1), np.uint8)
    images[:, :, :12] = 200
    found = teacher_opinion(LeftBright("b", "a"), images, LabelSet(("a", "b")))
    assert found.shape == (70, 2)
    assert found == pytest.approx(np.tile([0.4, 0.6], (70, 1)))  # columns in our order, mean of both sides


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(DataError, match="teacher of the classes a, c"):
        teacher_opinion(LeftBright("a", "b"), np.zeros((1, 24, 24, 1), np.uint8), LabelSet(("a", "c")))
