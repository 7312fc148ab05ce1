"""Teaching own classes: examples and the way back, heads, honest figures, and models that anything can use."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import ferkit
from ferkit.cli.main import main
from ferkit.core.errors import DataError, ModelError
from ferkit.datasets.synthetic import write_dataset
from ferkit.teaching.examples import Examples, TeachLimits, clean_label
from ferkit.teaching.head import (
    PENALTIES,
    choose_penalty,
    fit_linear,
    spread_rows,
    unsure_threshold,
    usual_penalty,
    validate,
)
from ferkit.teaching.teacher import check_model_name, in_order, zip_taught

DIM = 24


def world(
    k: int, n_takes: int, n_frames: int, apart: float = 6.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, classes and takes: frames of a take are nearly alike, takes differ more, classes most."""
    rng = np.random.default_rng(seed)
    X, y, takes = [], [], []
    for c in range(k):
        centre = np.eye(DIM)[c] * apart
        for take in range(n_takes):
            X.append(centre + rng.normal(size=DIM) + 0.1 * rng.normal(size=(n_frames, DIM)))
            y += [f"class {c}"] * n_frames
            takes += [f"{c}.{take}"] * n_frames
    return np.concatenate(X).astype(np.float32), np.array(y, object), np.array(takes, object)


def nobody(n: int) -> np.ndarray:
    return np.array([None] * n, object)


@pytest.mark.parametrize(("k", "n_takes", "n_frames"), [(2, 1, 1), (2, 4, 5), (4, 3, 4)])
def test_a_head_is_the_same_in_numbers_and_in_scikit_learn(k: int, n_takes: int, n_frames: int):
    X, y, takes = world(k, n_takes, n_frames)
    head = fit_linear(X, y, choose_penalty(X, y, takes)).tempered(1.7, 0.4)
    assert head.method == ("means" if n_takes * n_frames < 5 else "logistic")
    fitted = head.fitted()
    assert fitted.classes == head.classes
    np.testing.assert_allclose(fitted.predict_proba(X), head.predict_proba(X), atol=1e-5)
    np.testing.assert_allclose(head.predict_proba(X).sum(axis=1), 1, atol=1e-5)


def test_the_penalty_is_chosen_only_where_takes_can_be_held_out():
    X, y, takes = world(2, 3, 6)
    assert choose_penalty(X, y, takes) in PENALTIES
    assert choose_penalty(X, y, y) == usual_penalty(y)  # one take of each class
    assert choose_penalty(X[:3], y[[0, 1, -1]], takes[:3]) is None


def test_frames_of_a_take_do_not_vouch_for_each_other():
    """Labels that mean nothing: by frames one would be right nearly always, by takes in half of all cases."""
    X, _, takes = world(1, 12, 8)
    y = np.array([f"class {int(take.split('.')[1]) % 2}" for take in takes], object)
    by_take = validate(X, y, takes, nobody(len(y)))
    by_frame = validate(X, y, np.array([f"frame {i}" for i in range(len(y))], object), nobody(len(y)))
    assert by_take.evaluation is not None
    assert by_frame.evaluation is not None
    assert by_take.evaluation.figures["accuracy"].low < 0.5 < by_take.evaluation.figures["accuracy"].high
    assert by_frame.evaluation.figures["accuracy"].low > 0.9
    assert by_take.evaluation.n_groups == 12


def test_what_is_missing_is_said():
    X, y, takes = world(2, 3, 4)
    few = (takes != "1.1") & (takes != "1.2")
    report = validate(X[few], y[few], takes[few], nobody(int(few.sum())), ("class 0", "class 1", "third"))
    assert report.evaluation is None
    assert report.head is not None
    assert report.sentences == (
        "cannot tell yet: record examples of third",
        "cannot tell yet: record a second take of class 1 in another light",
    )
    assert validate(X[:2], y[:2], takes[:2], nobody(2)).sentences == ("cannot tell yet: add a second class",)
    json.dumps(report.to_dict())


def test_persons_are_kept_apart_where_each_class_has_several():
    X, y, takes = world(2, 6, 3)
    persons = np.array([f"p{take.split('.')[1]}" for take in takes], object)
    report = validate(X, y, takes, persons)
    assert report.unit == "person"
    assert report.evaluation is not None
    assert report.evaluation.n_groups == 6
    assert validate(X, y, takes, nobody(len(y))).unit == "take"


def test_wrong_examples_and_confused_classes_are_named():
    X, y, takes = world(3, 5, 4)
    wrong = int(np.flatnonzero(takes == "1.2")[0])
    y[wrong] = "class 0"
    report = validate(X, y, takes, nobody(len(y)))
    assert (report.disagreements[0].row, report.disagreements[0].label) == (wrong, "class 1")
    alike = validate(*world(2, 5, 4, apart=0.0), nobody(40))
    assert {pair[:2] for pair in alike.confused} == {("class 0", "class 1"), ("class 1", "class 0")}
    sizes = [n for n, _ in report.growth]
    assert sizes == sorted(sizes)
    assert len(sizes) == 3


def test_unsure_is_below_where_nine_of_ten_are_right():
    proba = np.array([[0.95, 0.05]] * 9 + [[0.6, 0.4]] * 5)
    truth = np.array([0] * 9 + [1] * 5)
    assert unsure_threshold(truth, proba) == pytest.approx(0.9)
    assert unsure_threshold(np.zeros(14, int), proba) < 0.63


def test_rows_are_spread_over_takes():
    y, takes = np.array(["a"] * 90 + ["b"] * 10), np.array([0] * 80 + [1] * 10 + [2] * 10)
    kept = spread_rows(y, takes, 30)
    assert np.bincount(takes[kept]).tolist() == [10, 10, 10]


changes = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(0, 5)),
        st.tuples(st.just("rename"), st.sampled_from("abc"), st.sampled_from("abcd")),
        st.tuples(st.just("remove"), st.integers(0, 8), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, 8), st.sampled_from("abc")),
        st.tuples(st.just("remove_label"), st.sampled_from("abc"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(changes)
def test_every_change_can_be_taken_back(changes: list[tuple[str, object, object]]):
    examples = Examples()
    states = [(examples.labels, examples.rows)]
    for i, (kind, first, second) in enumerate(changes):
        try:
            if kind == "add":
                examples.add(np.full((1, 2), second, np.float32), str(first), take=f"take {i}")
            elif kind in ("remove", "move"):
                getattr(examples, kind)([first], *([second] if kind == "move" else []))
            else:
                getattr(examples, kind)(*([first, second] if kind == "rename" else [first]))
        except DataError:
            pass
        assert {row.label for row in examples.rows} <= set(examples.labels)
        assert sum(examples.counts().values()) == len(examples)
        states.append((examples.labels, examples.rows))
    seen = [(examples.labels, examples.rows)]
    while examples.undo():
        seen.append((examples.labels, examples.rows))
    assert seen[-1] == states[0]
    assert all(state in states for state in seen)


def test_a_burst_is_taken_back_at_once():
    examples = Examples()
    for i in range(5):
        examples.add(np.full((1, 2), i, np.float32), "a", take="burst")
    examples.undo()
    assert len(examples) == 0


@pytest.mark.parametrize("name", ["", "  ", "x" * 41, "a\nb", "unsure", "\u202eabc", None, 7])
def test_names_that_are_none_are_refused(name: object):
    with pytest.raises(DataError, match="expected a name"):
        clean_label(name)


@pytest.mark.parametrize(
    "name", ["../x", "", "a/b", ".x", "CON", "ferkit2", "x" * 64, "a.", "a b", "nul.txt", None]
)
def test_model_names_that_lead_elsewhere_are_refused(name: object):
    with pytest.raises(DataError, match="expected a name"):
        check_model_name(name)
    assert check_model_name("씩-웃음_2") == "씩-웃음_2"


def test_limits_hold():
    examples = Examples(TeachLimits(max_examples=3, max_classes=2, max_example_bytes=100))
    X = np.arange(8, dtype=np.float32).reshape(4, 2)
    with pytest.raises(DataError, match="at most 3 examples"):
        examples.add(X, "a", take="1")
    examples.add(X[:2], "a", take="1")
    examples.add_label("b")
    with pytest.raises(DataError, match="at most 2 classes"):
        examples.add_label("c")
    with pytest.raises(DataError, match="MB of examples"):
        examples.add(X[2:3], "b", take="2", crops=np.zeros((1, 50, 50, 3), np.uint8))
    with pytest.raises(DataError, match="expected embeddings of shape"):
        examples.add(np.zeros((1, 3), np.float32), "a", take="1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teach") / "photos"
    write_dataset(folder, n_per_class=4, n_persons=4, size=48, splits={"all": 1.0})
    return folder / "all"


def crops(level: int, n: int = 3, seed: int = 0) -> np.ndarray:
    """Dark images lie in rows, bright ones in columns: the network looks at shapes, not at brightness."""
    stripes = np.repeat(np.arange(4) % 2 * 60, 8)[:, None, None] + np.zeros((32, 32, 1))
    shape = stripes if level < 128 else stripes.transpose(1, 0, 2)
    noise = np.random.default_rng([level, seed]).normal(0, 12, (n, 32, 32, 3))
    return np.clip(noise + shape + level - 30, 0, 255).astype(np.uint8)


def test_a_teacher_learns_reports_saves_and_goes_on(tmp_path: Path):
    teacher = ferkit.Teacher()
    with pytest.raises(DataError, match="at least two classes, found none"):
        teacher.predict_proba(crops(1))
    teacher.add(crops(40)[0], "밤")
    with pytest.raises(DataError, match="at least two classes, found 밤"):
        teacher.head()
    with pytest.raises(DataError, match="at least two classes"):
        teacher.to_model()
    teacher.add(crops(220)[0], "day")  # one example of each is enough to answer, and too few to tell
    assert teacher.predict_proba(crops(220, seed=9)).argmax(axis=1).tolist() == [1, 1, 1]
    assert "second take of 밤" in teacher.report().sentences[0]

    for take in range(3):
        for level, label in ((40, "밤"), (220, "day")):
            teacher.add(crops(level, seed=take + 1), label, take=f"{label} {take}", person="me")
    assert teacher.report().evaluation is not None
    model = teacher.to_model().save(tmp_path / "models" / "light")
    assert model.record.crops == "crops"
    assert model.report["taught"]["takes"] == {"밤": 4, "day": 4}
    again = ferkit.load_model(tmp_path / "models" / "light")
    order = [again.labels.names.index(name) for name in teacher.labels]
    width, height = again.input_size_wh
    bright = np.full((1, height, width, 3), 220, np.uint8)
    np.testing.assert_allclose(
        again.predict_proba(bright)[:, order], teacher.predict_proba(bright), atol=1e-4
    )

    other = ferkit.Teacher()
    other.resume(again)
    assert other.examples.counts() == {"day": 10, "밤": 10}
    with pytest.raises(ModelError, match="another backbone"):
        ferkit.Teacher("raw").resume(again)
    with pytest.raises(ModelError, match="not made by teaching"):
        other.resume(ferkit.load_model("ferkit2"))

    with zipfile.ZipFile(io.BytesIO(zip_taught(teacher.examples, teacher.report(), again))) as file:
        names = file.namelist()
        assert sum(name.startswith("images/01-밤/") for name in names) == 10
        assert {"model/model.json", "model/head.onnx", "README.md"} <= set(names)
        file.extractall(tmp_path / "out")
    assert ferkit.load_model(tmp_path / "out" / "model").labels.names == again.labels.names


def test_an_image_in_two_classes_is_named_and_a_second_copy_passed_over():
    teacher = ferkit.Teacher("raw")
    one = crops(100, 1)
    assert len(teacher.add(one, "a")) == 1
    assert teacher.add(one, "a") == []
    teacher.add(one, "b")
    assert teacher.examples.conflicts() == [(1, 2)]
    np.testing.assert_allclose(teacher.predict_proba(one), 0.5, atol=1e-4)


def test_classes_without_examples_have_no_probability():
    X, y, _ = world(2, 1, 2)
    proba = in_order(fit_linear(X, y, None), X, ("class 1", "empty", "class 0"))
    assert (proba[:, 1] == 0).all()
    assert proba.argmax(axis=1).tolist() == [2, 2, 0, 0]


def test_the_command_teaches_from_a_folder(photos: Path, tmp_path: Path):
    (photos / "happy" / "broken.png").write_bytes(b"no image")
    target = ["--models-dir", str(tmp_path), "--name", "two"]
    labels = ["--labels", "happy,surprise", "--person-pattern", r"^(p\d+)"]
    result = CliRunner().invoke(main, ["teach", str(photos), *labels, *target, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["counts"] == {"happy": 4, "surprise": 4}
    assert found["unit"] == "person"
    assert "broken.png" in result.output
    assert ferkit.load_model(tmp_path / "two").labels.names == ("happy", "surprise")
    again = CliRunner().invoke(main, ["teach", str(photos), *labels, *target])
    assert again.exit_code == 1
    assert "exists" in again.output
    wrong = CliRunner().invoke(main, ["teach", str(photos), "--labels", "smirk", *target])
    assert wrong.exit_code == 1
    assert "smirk" in wrong.output


def test_takes_that_several_classes_share_are_kept_whole_too():
    X, y, takes = world(2, 4, 3)
    shared = np.array([take.split(".")[1] for take in takes], object)  # take 0 shows both classes, and so on
    report = validate(X, y, shared, nobody(len(y)))
    assert report.evaluation is not None
    assert report.evaluation.n_groups == 4
    one_class_in_one_take = np.where(y == "class 0", "long", takes).astype(object)
    assert validate(X, y, one_class_in_one_take, nobody(len(y))).evaluation is None
