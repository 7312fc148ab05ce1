"""The runner: same rows for all, cells that are kept, rows for those that fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DataError
from ferkit.evaluation.comparison import load_comparison, save_comparison
from ferkit.evaluation.report.page import format_summary
from ferkit.evaluation.report.values import report_values
from tests.evaluation.faces import compared, keep


def test_every_candidate_sees_the_data_s_own_test_part_and_the_floor_is_lowest(
    drawn_faces: Path, tmp_path: Path
):
    found = compared(drawn_faces, tmp_path, "dummy", "logistic@hog", "ferkit")
    (split,) = found.splits
    assert split.origin == "given"
    assert {str(path).split("/")[0] for path in found.paths[split.test]} == {"test"}
    assert not set(found.groups[split.train]) & set(found.groups[split.test])
    accuracy = {one.name: found.evaluation(one.name).figures["accuracy"].value for one in found.candidates}
    assert accuracy["dummy"] == pytest.approx(1 / 7, abs=0.03)
    assert min(accuracy["logistic@hog"], accuracy["ferkit"]) > 0.3
    for one in found.candidates:
        (cell,) = one.cells
        assert cell.proba.shape == (len(split.test), 7)
        np.testing.assert_allclose(cell.proba.sum(axis=1), 1, atol=1e-5)
    assert len(found.pairs) == 3
    assert all(pair.sentence for pair in found.pairs)


def test_costs_tell_a_trained_head_from_a_finished_network(drawn_faces: Path, tmp_path: Path):
    head, network = compared(drawn_faces, tmp_path, "logistic@ferkit", "ferkit").candidates
    assert head.costs.train_s is not None
    assert head.costs.train_s > 0
    assert network.costs.train_s is None
    for costs in (head.costs, network.costs):
        assert costs.ms_batch1 is not None
        assert costs.ms_batch32 is not None
        assert costs.size_mb is not None
        assert 1 < costs.size_mb < 5  # the shipped network has 1.3 MB, whether as backbone or whole


def test_repeats_are_drawn_anew_stratified_and_by_person(undivided_faces: Path, tmp_path: Path):
    found = compared(undivided_faces, tmp_path, "dummy", "logistic@hog", repeats=3, test_size=0.25)
    assert len({tuple(split.test) for split in found.splits}) == 3
    for split in found.splits:
        assert split.origin == "drawn"
        assert set(found.y[split.test]) == set(found.labels.names)
        assert not set(found.groups[split.train]) & set(found.groups[split.test])
    pooled = found.pooled("logistic@hog")
    assert len(pooled.rows) == sum(len(split.test) for split in found.splits)
    assert pooled.units is not None  # an image that two repeats tested is one person's, not two


def test_an_ensemble_is_the_mean_of_its_members_which_take_part_too(drawn_faces: Path, tmp_path: Path):
    found = compared(drawn_faces, tmp_path, "ensemble:ferkit+logistic@hog")
    assert [one.name for one in found.candidates] == [
        "ferkit",
        "logistic@hog",
        "ensemble:ferkit+logistic@hog",
    ]
    shipped, head, both = (one.cells[0] for one in found.candidates)
    np.testing.assert_allclose(both.proba, (shipped.proba + head.proba) / 2, atol=1e-6)
    assert both.costs.ms_batch1 == pytest.approx(shipped.costs.ms_batch1 + head.costs.ms_batch1)


def test_who_fails_keeps_a_row_with_the_reason_and_the_others_go_on(drawn_faces: Path, tmp_path: Path):
    found = compared(
        drawn_faces,
        tmp_path,
        "python:json:dumps",
        "ensemble:dummy+python:json:dumps",
        "model:nowhere",
        "logistic@hog",
    )
    reasons = {one.name: one.failure for one in found.candidates}
    assert "json:dumps failed: TypeError" in str(reasons["python:json:dumps"])
    assert "members that failed: python:json:dumps" in str(reasons["ensemble:dummy+python:json:dumps"])
    assert "no model is at nowhere" in str(reasons["model:nowhere"])
    assert reasons["logistic@hog"] is None
    text = format_summary(found)
    assert "model:nowhere: no model is at nowhere" in text
    values = report_values(found)
    assert values["contenders"][values["best"]]["name"] == "logistic@hog"


def test_a_comparison_comes_back_from_disk_as_it_was(drawn_faces: Path, tmp_path: Path):
    found = compared(drawn_faces, tmp_path, "dummy", "mlp@hog", "model:nowhere")
    save_comparison(found, tmp_path / "saved")
    again = load_comparison(tmp_path / "saved")
    assert again.labels == found.labels
    assert again.protocol == found.protocol
    assert list(map(str, again.pairs)) == list(map(str, found.pairs))  # NaN differs from itself
    assert again.notes == found.notes
    assert again.groups.tolist() == found.groups.tolist()
    assert again.candidate("mlp@hog").cells[0].history == found.candidate("mlp@hog").cells[0].history
    assert again.candidate("mlp@hog").cells[0].history  # an MLP learns in passes
    assert again.candidate("model:nowhere").failure == found.candidate("model:nowhere").failure
    ours, theirs = (one.evaluation("mlp@hog").to_dict() for one in (found, again))
    assert ours == theirs
    (tmp_path / "saved" / "comparison.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        load_comparison(tmp_path / "saved")


def test_a_second_run_computes_nothing_and_another_image_computes_anew(drawn_faces: Path, tmp_path: Path):
    faces = tmp_path / "faces"
    shutil.copytree(drawn_faces, faces)
    first = compared(faces, tmp_path, "dummy", "logistic@hog")
    said: list[str] = []
    again = compared(faces, tmp_path, "dummy", "logistic@hog", said=said)
    assert sum("finished before" in line for line in said) == 2
    assert again.candidate("logistic@hog").costs == first.candidate("logistic@hog").costs
    next((faces / "train" / "happy").iterdir()).unlink()
    said.clear()
    compared(faces, tmp_path, "dummy", "logistic@hog", said=said)
    assert not any("finished before" in line for line in said)


def test_a_killed_run_goes_on_where_it_was(drawn_faces: Path, tmp_path: Path):
    (tmp_path / "last.py").write_text(
        "import os, signal\nimport numpy as np\n\ndef says(crops):\n"
        "    if 'SURVIVE' not in os.environ: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return np.full((len(crops), 7), 1 / 7)\n"
    )
    command = [sys.executable, "-m", "ferkit", "compare", str(drawn_faces), "--allow-leaks"]
    for name in ("dummy", "mlp@hog", "logistic@hog", "python:last:says"):
        command += ["-c", name]
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    out = tmp_path / "comparison" / "faces"
    cells = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "cells").iterdir()}
    assert len(cells) == 3
    assert not (out / "comparison.json").exists()
    environment = {**os.environ, "SURVIVE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.count("finished before") == 3
    for name, (changed, content) in cells.items():
        assert (out / "cells" / name).stat().st_mtime_ns == changed
        assert (out / "cells" / name).read_bytes() == content
    assert [one.failure for one in load_comparison(out).candidates] == [None] * 4


def test_a_damaged_cell_is_made_anew(drawn_faces: Path, tmp_path: Path):
    first = compared(drawn_faces, tmp_path, "logistic@hog")
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    cell.write_bytes(cell.read_bytes()[:100])
    again = compared(drawn_faces, tmp_path, "logistic@hog")
    np.testing.assert_array_equal(first.candidates[0].cells[0].proba, again.candidates[0].cells[0].proba)


def test_leaks_are_refused_or_shown_with_both_scores(drawn_faces: Path, tmp_path: Path):
    faces = tmp_path / "faces"
    shutil.copytree(drawn_faces, faces)
    stolen = sorted((faces / "test" / "sad").iterdir())[:3]
    for path in stolen:
        shutil.copy(path, faces / "train" / "sad" / f"q9999_{path.name}")
    with pytest.raises(DataError, match=r"test images leak from training: 3 exact copies.*--allow-leaks"):
        compared(faces, tmp_path, "logistic@hog", person=r"^(q\d+)_", allow_leaks=False)
    found = compared(faces, tmp_path, "logistic@hog", person=r"^(q\d+)_", allow_leaks=True)
    (split,) = found.splits
    assert set(found.paths[split.leaking]) >= {path.relative_to(faces).as_posix() for path in stolen}
    whole, clean = (found.evaluation("logistic@hog", with_leaks=leaks) for leaks in (True, False))
    assert (whole.n, clean.n) == (len(split.test), len(split.test) - len(split.leaking))
    text = format_summary(found)
    assert "without leaking ones" in text
    assert f"{len(split.leaking)} test images leak" in text
    assert "Without them logistic@hog reaches" in text


def test_what_cannot_be_compared_says_why(undivided_faces: Path, drawn_faces: Path, tmp_path: Path):
    lonely = keep(drawn_faces, tmp_path / "lonely", {"happy": "happy"}, "train")
    with pytest.raises(DataError, match="at least two classes"):
        compared(lonely, tmp_path, "dummy")
    twice = keep(drawn_faces, tmp_path / "twice", {"happy": "happy", "sad": "기쁨"}, "train")
    with pytest.raises(DataError, match="two names of one class"):
        compared(twice, tmp_path, "dummy")
    with pytest.raises(DataError, match="of one person"):
        compared(undivided_faces, tmp_path, "dummy", person="^(p)")
    with pytest.raises(DataError, match="no column sex"):
        compared(undivided_faces, tmp_path, "dummy", by=("sex",))
    few = tmp_path / "few"
    for emotion in ("happy", "sad"):
        (few / emotion).mkdir(parents=True)
        shutil.copy(next((drawn_faces / "train" / emotion).iterdir()), few / emotion)
    with pytest.raises(DataError, match="at least 2 images of each class"):
        compared(few, tmp_path, "dummy")
    foreign = keep(drawn_faces, tmp_path / "foreign", {"happy": "happy", "sad": "sad", "fear": "fear"})
    shutil.rmtree(foreign / "train" / "fear")
    with pytest.raises(DataError, match="test part has images of fear and the training part has none"):
        compared(foreign, tmp_path, "dummy")


def test_few_persons_of_many_images_hold_out_another_share_and_it_is_said(drawn_faces: Path, tmp_path: Path):
    two = keep(drawn_faces, tmp_path / "two", {"happy": "happy", "sad": "sad", "angry": "angry"}, "train")
    for path in sorted(two.glob("*/*")):
        number = int(path.stem.split("_")[1])
        path.rename(path.with_name(f"p{number % 3}_{number}.png"))
    found = compared(two, tmp_path, "dummy", test_size=0.25)
    assert any("some persons have many images" in note for note in found.notes)


def test_unreadable_images_are_left_out_for_all_and_named(drawn_faces: Path, tmp_path: Path):
    faces = tmp_path / "faces"
    shutil.copytree(drawn_faces, faces)
    broken = sorted((faces / "test" / "fear").iterdir())[0]
    broken.write_bytes(b"no image")
    found = compared(faces, tmp_path, "dummy", "logistic@hog")
    assert broken.relative_to(faces).as_posix() not in set(found.paths)
    assert any("1 images of faces cannot be read" in note and broken.name in note for note in found.notes)


def test_groups_of_a_column_are_compared_for_the_best(drawn_faces: Path, tmp_path: Path):
    lines = ["path,label,split,group,sex"]
    for path in sorted(drawn_faces.glob("*/*/*.png")):
        person, split = path.name.split("_")[0], path.parts[-3]
        lines.append(f"{path},{path.parent.name},{split},{person},{'f' if int(person[1:]) % 2 else 'm'}")
    table = tmp_path / "faces.csv"
    table.write_text("\n".join(lines))
    found = compared(table, tmp_path, "dummy", "logistic@hog", by=("sex",))
    assert set(found.attributes["sex"]) == {"f", "m"}
    text = format_summary(found)
    assert re.search(r"^sex +images", text, re.M)
    with pytest.raises(DataError, match="no column age; they have sex"):
        compared(table, tmp_path, "dummy", by=("age",))
