"""Findings as Label Studio and FiftyOne read them."""

from pathlib import Path
from urllib.parse import quote

import numpy as np

from ferkit.audit.findings import DROP, KEEP, Action, Audit, Finding, in_order
from ferkit.audit.run import fiftyone_labels, label_studio_tasks
from ferkit.datasets.dataset import Dataset, FileSource, Sample


def an_audit() -> Audit:
    samples = tuple(
        Sample(path=path, label=label)
        for path, label in (
            ("기쁨/사진 1.jpg", "기쁨"),
            ("sad/b.tar.png", "sad"),
            ("sad/c.png", "sad"),
            ("d.png", None),
        )
    )
    findings = [
        Finding("blurred", (0, 3), 0.2, (KEEP, KEEP)),
        Finding("wrong_label", (3,), 0.9, (Action("relabel", "sad"),)),
        Finding("exact_copy", (1, 2), 1.0, (KEEP, DROP)),
    ]
    dataset = Dataset("faces", Path("faces"), samples, FileSource(Path("faces")))
    return Audit(dataset, None, in_order(findings))  # type: ignore[arg-type]


def test_label_studio_gets_a_task_for_each_image_with_a_finding() -> None:
    tasks = {task["data"]["path"]: task for task in label_studio_tasks(an_audit())}
    assert tasks.keys() == {"기쁨/사진 1.jpg", "sad/b.tar.png", "sad/c.png", "d.png"}
    first = tasks["기쁨/사진 1.jpg"]
    assert first["data"]["image"] == f"/data/local-files/?d=faces/{quote('기쁨/사진 1.jpg')}"
    assert first["data"]["finding"] == "wrong_label"
    assert first["data"]["findings"] == "wrong_label, blurred"
    [prediction] = first["predictions"]
    assert prediction["result"][0]["value"] == {"choices": ["sad"]}
    assert prediction["score"] == 0.9
    assert tasks["sad/c.png"]["data"]["suggestion"] == "drop"
    assert tasks["sad/c.png"]["predictions"] == tasks["d.png"]["predictions"] == []


def test_fiftyone_gets_the_gravest_finding_by_the_name_without_its_suffix() -> None:
    labels = fiftyone_labels(an_audit())["labels"]
    assert labels.keys() == {"기쁨/사진 1", "sad/b.tar", "sad/c", "d"}
    assert labels["기쁨/사진 1"]["label"] == "wrong_label"
    assert labels["기쁨/사진 1"]["attributes"] == {
        "labelled": "기쁨",
        "suggestion": "relabel",
        "value": "sad",
    }
    assert np.isclose(labels["sad/c"]["confidence"], 1.0)
