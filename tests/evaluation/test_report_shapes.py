"""Reports of data of every shape: few images, two classes of seven, absent and rare ones, unknown ones, one person."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferkit.core.labels import LabelSet
from ferkit.evaluation.comparison import (
    CandidateResult,
    Comparison,
    DataUsed,
    ProtocolSettings,
    RepeatResult,
    SplitRows,
)
from ferkit.evaluation.metrics import evaluate
from ferkit.evaluation.report.page import format_report, write_comparison, write_report
from ferkit.evaluation.significance import pairs_of

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

FAST = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Comparison, int]:
    """A comparison as ``eval`` (one candidate, no training rows) or ``compare`` makes it."""
    k = draw(st.integers(2, 7))
    counts = draw(st.lists(st.integers(0, 25), min_size=k, max_size=k))
    counts[draw(st.integers(0, k - 1))] += draw(st.integers(1, 3))
    n_unknown = draw(st.integers(0, 3))
    n = sum(counts) + n_unknown
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    truth = rng.permutation(np.repeat(np.arange(k + 1), [*counts, n_unknown]))
    y = np.array([*NAMES[:k], "contempt"], object)[truth]
    persons = draw(st.sampled_from(["none", "one", "some", "each"]))
    group = {"none": [None], "one": ["p1"], "some": ["p1", "p2", None], "each": [f"p{i}" for i in range(n)]}
    groups = np.resize(np.array(group[persons], object), n)
    repeats = draw(st.integers(1, 3))
    rows = np.arange(n)
    tests = [rows] + [rng.permutation(n)[: max(1, n // 2)] for _ in range(repeats - 1)]
    # What nobody can say is known to be there in the rows of each repeat: one row of a known class.
    known = np.flatnonzero(truth < k)[:1]
    splits = tuple(
        SplitRows(r, "drawn", np.setdiff1d(rows, np.union1d(test, known)), np.union1d(test, known),
                  np.union1d(test, known)[: draw(st.integers(0, 2))])
        for r, test in enumerate(tests)
    )  # fmt: skip
    kinds = draw(st.lists(st.sampled_from(["sure", "even", "drawn", "right"]), min_size=1, max_size=3))
    candidates = tuple(
        CandidateResult(
            f"{kind}{i}",
            "head",
            tuple(RepeatResult(r, _proba(kind, truth[split.test], k, rng)) for r, split in enumerate(splits)),
        )
        for i, kind in enumerate(kinds)
    )
    comparison = Comparison(
        name="faces",
        labels=LabelSet(NAMES[:k]),
        y=y,
        paths=np.array([f"{i}.png" for i in range(n)], object),
        groups=groups,
        source=np.zeros(n, np.int64),
        data=(DataUsed("faces", "faces", "both", n, "0" * 64),),
        attributes={"sex": rng.choice(np.array(["female", "male", None], object), n)},
        protocol=ProtocolSettings(repeats=repeats, by=("sex",)),
        splits=splits,
        candidates=candidates,
    )
    return comparison, k


def _proba(kind: str, truth: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    n = len(truth)
    if kind == "even":
        return np.full((n, k), 1 / k, np.float32)
    if kind == "drawn":
        return rng.dirichlet(np.ones(k), n).astype(np.float32)
    column = np.zeros(n, int) if kind == "sure" else truth % k
    return np.eye(k, dtype=np.float32)[column]


def comparable(comparison: Comparison) -> Comparison:
    """As ``compare`` has it: every image is of a class of the comparison."""
    known = np.isin(comparison.y.astype(str), comparison.labels.names)
    y = comparison.y.copy()
    y[~known] = comparison.labels.names[0]
    return Comparison(**{**comparison.__dict__, "y": y})


@FAST
@given(shapes())
def test_a_report_is_written_whatever_the_shape_of_the_data(
    tmp_path: Path, shape: tuple[Comparison, int]
) -> None:
    comparison, _ = shape
    write_comparison(comparison, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text("utf-8"))
    page, text = (tmp_path / "report.html").read_text("utf-8"), (tmp_path / "report.md").read_text("utf-8")
    for one in values["contenders"]:
        assert one["evaluation"]["accuracy"]["value"] is not None
        for part in ("calibration", "conformal", "abstention"):
            # Every part is there, or says why not, in the page too.
            assert ("reason" in one[part]) != bool(one[part].keys() & {"results", "aurc"})
        reason = one["conformal"].get("reason")
        assert reason is None or len(reason) > 20
        assert one["name"] in page
        assert one["name"] in text
    assert "nan" not in text.lower().replace("finan", "")


@FAST
@given(shapes())
def test_two_candidates_are_compared_whatever_the_shape(shape: tuple[Comparison, int]) -> None:
    comparison = comparable(shape[0])
    n = len(comparison.candidates)
    pairs = pairs_of(comparison)
    assert len(pairs) == n * (n - 1) // 2
    assert all(pair.sentence.endswith(".") for pair in pairs)


@settings(FAST, max_examples=3)
@given(shapes())
def test_text_and_plots_are_written_whatever_the_shape(tmp_path: Path, shape: tuple[Comparison, int]) -> None:
    comparison, _ = shape
    pooled = comparison.pooled(comparison.candidates[0].name)
    found = evaluate(pooled.y_true, pooled.proba, comparison.labels, pooled.units, n_resamples=20)
    assert "정확도" in format_report(found, "ko")
    assert all(path.stat().st_size for path in write_report(found, tmp_path))


@pytest.mark.parametrize("present", [1, 2, 3])
def test_what_few_classes_do_not_allow_is_said(tmp_path: Path, present: int) -> None:
    """A model of seven classes on 30 images of some: the issue's case."""
    truth = np.arange(30) % present
    proba = np.random.default_rng(0).dirichlet(np.ones(7), 30).astype(np.float32)
    comparison = Comparison(
        "two", LabelSet(NAMES), np.array(NAMES, object)[truth], np.array([f"{i}.png" for i in range(30)], object),
        np.full(30, None, object), np.zeros(30, np.int64), (DataUsed("two", "two", "test", 30, "0" * 64),), {},
        ProtocolSettings(), (SplitRows(0, "given", np.zeros(0, np.int64), np.arange(30)),),
        (CandidateResult("ferkit", "network", (RepeatResult(0, proba),)),),
    )  # fmt: skip
    write_comparison(comparison, tmp_path)
    one = json.loads((tmp_path / "report.json").read_text("utf-8"))["contenders"][0]
    assert one["evaluation"]["accuracy"]["low"] is not None
    if present == 1:
        assert "two classes" in one["calibration"]["reason"]
    else:
        assert {result["method"] for result in one["conformal"]["results"]} == {"lac", "aps"}
