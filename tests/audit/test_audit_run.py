from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ferkit.audit.checks import (
    LabelSettings,
    classifier_two_sample,
    doubt,
    framed,
    no_face_findings,
    unusualness,
)
from ferkit.audit.findings import DROP, Action, Audit, Finding, findings_text
from ferkit.audit.run import AuditSettings, Embedded, audit, kept_apart
from ferkit.core.errors import DataError
from ferkit.core.types import Faces
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.duplicates import Copies
from ferkit.embedder.store import EmbeddingTable


def paths(found: Audit, finding: Finding) -> list[str]:
    return [found.dataset.samples[row].path for row in finding.rows]


def only(found: Audit, kind: str) -> Finding:
    [finding] = found.of(kind)  # type: ignore[arg-type]
    return finding


def test_each_fault_is_found_and_nothing_else(found: Audit):
    counts = {kind: n for kind, n in found.counts().items() if n}
    assert 3 <= counts.pop("wrong_label") <= 5
    assert counts == {
        "unreadable": 1, "label_conflict": 1, "split_copy": 1, "split_person": 1, "blank": 1, "exact_copy": 1,
        "outlier": 1, "blurred": 1, "tiny": 1,
    }  # fmt: skip
    assert [finding.kind for finding in found.findings][:2] == ["unreadable", "label_conflict"]


def test_copies_under_two_labels_are_a_conflict_that_counting_cannot_settle(found: Audit):
    finding = only(found, "label_conflict")
    assert paths(found, finding) == ["train/angry/p000_a.png", "train/sad/p901_copy.png"]
    assert finding.facts["labels"] == "angry 1, sad 1"
    assert {action.verb for action in finding.suggested} == {"keep"}


def test_of_a_copy_across_the_split_the_one_in_training_is_to_go(found: Audit):
    finding = only(found, "split_copy")
    suggested = dict(zip(paths(found, finding), finding.suggested, strict=True))
    assert suggested["train/happy/p001_a.png"] == DROP
    assert suggested["test/happy/p900_copy.png"].verb == "keep"


def test_of_exact_copies_within_a_part_the_first_is_kept(found: Audit):
    finding = only(found, "exact_copy")
    assert paths(found, finding) == ["train/happy/p004_a.png", "train/happy/p902_copy.png"]
    assert [action.verb for action in finding.suggested] == ["keep", "drop"]


def test_a_person_on_both_sides_is_named(found: Audit):
    finding = only(found, "split_person")
    assert finding.facts["person"] == "p002"
    assert len(finding.rows) == 2


def test_wrong_labels_come_with_the_right_one(found: Audit):
    findings = found.of("wrong_label")
    wrong = {f"train/{('angry', 'happy', 'sad')[i % 3]}/p{i:03d}_a.png" for i in (10, 20, 30, 40, 50)}
    assert {paths(found, finding)[0] for finding in findings} <= wrong
    assert len(findings) >= 3  # confident learning counts carefully
    for finding in findings:
        label = paths(found, finding)[0].split("/")[1]
        right = {"angry": "happy", "happy": "sad", "sad": "angry"}[label]
        assert finding.suggested == (Action("relabel", right),)
    assert [f.severity for f in findings] == sorted((f.severity for f in findings), reverse=True)


def test_useless_images_are_told_apart(found: Audit):
    assert paths(found, only(found, "blank")) == ["train/sad/p903_빈.png"]
    assert paths(found, only(found, "tiny")) == ["train/sad/p904_tiny.png"]
    assert paths(found, only(found, "blurred")) == ["train/sad/p905_blur.png"]
    assert paths(found, found.of("outlier")[0]) == ["train/sad/p905_blur.png"]
    assert only(found, "unreadable").facts["reason"] == "the content is not an image of a known format"


def test_what_was_not_looked_for_is_said(dataset: Dataset):
    bare = dataset.subset([replace(s, split=None, group=None) for s in dataset.samples])
    found = audit(bare, None, AuditSettings())
    assert {note.key for note in found.notes} == {"no_persons", "no_split", "no_embeddings", "no_detector"}
    assert "인물 정보가 없어" in findings_text(found.notes[0], "ko")
    assert found.counts()["split_copy"] == found.counts()["wrong_label"] == 0


def test_embeddings_of_other_images_are_refused(dataset: Dataset, embedded: Embedded):
    table = embedded.table
    foreign = EmbeddingTable(
        table.X, table.y, np.array([f"x/{p}" for p in table.paths], object), table.groups, table.split
    )
    with pytest.raises(DataError, match="of other images"):
        audit(dataset, Embedded(foreign, ""), AuditSettings())


def test_one_class_is_said_to_be_too_few(dataset: Dataset, embedded: Embedded):
    one = dataset.subset([replace(s, label="happy") for s in dataset.samples])
    found = audit(one, embedded, AuditSettings())
    assert "few_classes" in {note.key for note in found.notes}


def test_copies_and_images_of_one_person_share_a_fold(dataset: Dataset):
    rows = {sample.path: row for row, sample in enumerate(dataset.samples)}
    copy, original = rows["train/sad/p901_copy.png"], rows["train/angry/p000_a.png"]
    near = np.array([sorted((copy, original))])
    apart = kept_apart(dataset, Copies(np.arange(len(dataset)), near, np.ones(1, np.float32)))
    assert apart[copy] == apart[original]
    assert apart[rows["train/sad/p002_a.png"]] == apart[rows["test/sad/p002_b.png"]]
    assert max(Counter(apart).values()) == 2


def test_persons_are_guessed_from_identities_where_names_do_not_tell(dataset: Dataset, embedded: Embedded):
    nameless = dataset.subset([replace(s, group=None) for s in dataset.samples])
    table = embedded.table
    # Each of its own, but for two that are alike across the split.
    X = np.random.default_rng(3).normal(0, 1, (len(table), 64)).astype(np.float32)
    rows = {path: i for i, path in enumerate(table.paths)}
    X[rows["test/happy/p100_a.png"]] = X[rows["train/sad/p005_a.png"]] * 1.1
    identities = Embedded(EmbeddingTable(X, table.y, table.paths, table.groups, table.split), "faces")
    found = audit(nameless, None, AuditSettings(), identities=identities)
    assert paths(found, only(found, "split_person")) == ["test/happy/p100_a.png", "train/sad/p005_a.png"]
    assert "1 persons were guessed from faces" in findings_text(found.notes[0])


def test_flipped_labels_are_found_on_classes_that_overlap():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 2000)
    X = (np.eye(4)[y] * 2.5 + rng.normal(0, 1, (2000, 4))).astype(np.float32)
    flipped = rng.random(2000) < 0.05
    given = np.where(flipped, (y + rng.integers(1, 4, 2000)) % 4, y)
    table = EmbeddingTable(X, given.astype(str).astype(object), np.arange(2000).astype(str).astype(object),
                           np.full(2000, None), np.full(2000, None))  # fmt: skip
    doubts = doubt(table, [None] * 2000, LabelSettings())
    first = np.argsort(doubts.quality)[:200]
    assert flipped[first].sum() / flipped.sum() > 0.8
    assert flipped[doubts.issue].mean() > 0.4


def test_predictions_are_kept_and_depend_on_the_labels(embedded: Embedded, tmp_path: Path):
    apart: list[str | None] = [None] * len(embedded.table)
    doubt(embedded.table, apart, LabelSettings(), tmp_path)
    [kept] = (tmp_path / "predictions").iterdir()
    with np.load(kept) as arrays:
        known = arrays["proba"]
    np.savez(kept, proba=known[:, ::-1])  # what is in the cache is believed
    again = doubt(embedded.table, apart, LabelSettings(), tmp_path)
    np.testing.assert_array_equal(again.proba, known[:, ::-1])
    other = embedded.table.y.copy()
    other[0] = "happy"
    changed = EmbeddingTable(
        embedded.table.X, other, embedded.table.paths, embedded.table.groups, embedded.table.split
    )
    doubt(changed, apart, LabelSettings(), tmp_path)
    assert len(list((tmp_path / "predictions").iterdir())) == 2


def test_what_lies_far_out_is_unusual():
    rng = np.random.default_rng(0)
    X = rng.normal(0, 1, (500, 16)).astype(np.float32)
    X[7] += 12
    distance = unusualness(X)
    assert distance.argmax() == 7
    assert np.median(distance) == pytest.approx(1)


@pytest.mark.parametrize("n", [20, 40, 64, 100])
@pytest.mark.parametrize("seed", range(5))
def test_the_most_unusual_of_few_images_is_no_matter_of_rounding(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(0, 1, (n, 6)) @ rng.normal(0, 1, (6, 512)) + rng.normal(0, 0.5, (n, 512))
    row = int(rng.integers(n))
    X[row] += 4 * rng.normal(0, 1, 512)
    for order in (np.arange(n), rng.permutation(n)):
        distance = unusualness(X[order].astype(np.float32))
        assert order[distance.argmax()] == row
        assert distance.max() > 1.01 * np.sort(distance)[-2]  # not by the last digits


@pytest.mark.parametrize("n", [2, 3])
def test_a_handful_of_images_has_finite_distances(n: int) -> None:
    X = np.random.default_rng(0).normal(0, 1, (n, 16)).astype(np.float32)
    assert np.isfinite(unusualness(X)).all()


class Brightness:
    """Finds a face in every image that is not the one of seed 5."""

    name = "brightness"

    def __init__(self, faceless: np.ndarray) -> None:
        self.faceless, self.looked = framed(faceless), 0

    def detect(self, rgb: np.ndarray) -> Faces:
        self.looked += 1
        n = int(not np.array_equal(rgb, self.faceless))
        return Faces(np.zeros((n, 4), np.float32), np.full(n, 0.4, np.float32))


def test_a_image_without_a_face_is_found_and_the_look_is_kept(
    dataset: Dataset, embedded: Embedded, tmp_path: Path
):
    sample = next(s for s in dataset.samples if "p005" in s.path)
    detector = Brightness(dataset.read(sample))
    for _ in range(2):
        found = audit(
            dataset, embedded, AuditSettings(), detector=detector, cache_dir=tmp_path,
        )  # fmt: skip
        assert [paths(found, finding) for finding in found.of("not_a_face")] == [[sample.path]]
        assert detector.looked == len(dataset) - 1  # all but the broken one, once


def test_only_unusual_images_without_a_face_are_to_go():
    confidence, blank = np.array([0, 0, 0, 0.3, np.nan] + [0.9] * 95), np.zeros(100, bool)
    unusual = np.linspace(1, 2, 100)
    unusual[0] = 9
    findings = {f.rows[0]: f for f in no_face_findings(confidence, blank, unusual)}
    assert {row: f.suggested[0].verb for row, f in findings.items()} == {0: "drop", 1: "keep", 2: "keep"}
    assert findings[0].severity > findings[2].severity > findings[1].severity
    unknown = no_face_findings(confidence, blank, None)
    assert {f.suggested[0].verb for f in unknown} == {"keep"}


@pytest.mark.parametrize(("size_wh", "longer"), [((48, 48), 160), ((20, 40), 160), ((900, 450), 532)])
def test_crops_get_space_around_the_face(size_wh: tuple[int, int], longer: int):
    rgb = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    assert max(framed(rgb).shape[:2]) == longer


def test_parts_that_differ_are_told_apart_and_others_are_not():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, 400, 8)).astype(np.float32)
    assert classifier_two_sample((a, b), None).value < 0.56
    far = classifier_two_sample((a, b + 0.6), None)
    assert far.value > 0.8
    assert far.p < 1e-6


def test_drift_between_the_parts_names_what_changed(dataset: Dataset, embedded: Embedded):
    shifted = EmbeddingTable(
        embedded.table.X + 3 * np.array([[s == "test"] for s in embedded.table.split], np.float32),
        embedded.table.y, embedded.table.paths, embedded.table.groups, embedded.table.split,
    )  # fmt: skip
    marked = dataset.subset([replace(s, attributes={"place": str(s.split)}) for s in dataset.samples])
    found = audit(marked, Embedded(shifted, ""), AuditSettings())
    [drift] = found.drift
    assert (drift.first, drift.second) == ("train", "test")
    by_name = {difference.what: difference for difference in drift.differences}
    assert by_name["place"].value == 1
    assert by_name["pictures"].value > 0.9
    assert by_name["label"].value < 0.2
    assert drift.differences[0].what == "place"


def test_another_data_set_is_compared(dataset: Dataset, embedded: Embedded):
    other = dataset.subset([replace(s, split=None) for s in dataset.samples if s.label == "happy"])
    found = audit(
        dataset,
        embedded,
        AuditSettings(),
        against=(other, embedded),
    )
    by_name = {difference.what: difference for difference in found.drift[-1].differences}
    assert by_name["label"].measure == "TV"
    assert by_name["label"].value > 0.6
