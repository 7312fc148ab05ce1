"""Model folders: what is written is what is loaded, and what was tampered with is refused."""

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from networks import small_network

from ferkit.classifiers.heads import (
    DummySettings,
    FittedHead,
    LogisticSettings,
    MLPSettings,
    SVMSettings,
    fit_head,
)
from ferkit.classifiers.kinds import (
    EmbeddingClassifier,
    check_fingerprint,
    load_head,
    save_embedding_model,
)
from ferkit.classifiers.model import (
    Model,
    choose_model,
    list_models,
    load_classifier,
    newest_model,
    read_model,
    write_model,
)
from ferkit.core.errors import FerkitError, ModelError, WeightsError
from ferkit.core.files import file_sha256, fingerprint
from ferkit.embedder.embedders import open_embedder
from ferkit.embedder.settings import Embedder
from ferkit.faces.cropping import CropSettings

Save = Callable[..., Model]


def rewrite_record(folder: Path, **changes: Any) -> None:
    """What somebody does who edits ``model.json`` and mends its digest."""
    values = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    values.pop("sha256")
    values.update(changes)
    text = json.dumps({**values, "sha256": fingerprint(values)}, ensure_ascii=False)
    (folder / "model.json").write_text(text, encoding="utf-8")


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """What somebody does who puts another file into a model and mends the digests."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / "model.json").read_text(encoding="utf-8"))["files"]
    files[name] = {"sha256": file_sha256(folder / name)}
    rewrite_record(folder, files=files)


@pytest.mark.parametrize(
    "settings",
    [
        MLPSettings(max_epochs=20),
        SVMSettings(),
        SVMSettings(exact_rows=0),
        LogisticSettings(pca=8),
        DummySettings(),
    ],
    ids=["mlp", "svm", "svm-landmarks", "logistic-pca", "dummy"],
)
def test_a_loaded_model_says_what_the_fitted_head_said(
    tmp_path: Path, save: Save, embedder: Embedder, crops: np.ndarray, settings: Any
) -> None:
    X = embedder.embed(crops)
    head = fit_head(X, np.array(["happy", "sad", "놀람"] * 20), settings)
    save(tmp_path / "m", head, faces=CropSettings(margin=0.3), metrics={"accuracy": 0.5}, licence="MIT")
    classifier = load_classifier(tmp_path / "m")
    assert isinstance(classifier, EmbeddingClassifier)
    assert classifier.labels.names == ("happy", "sad", "놀람")
    assert (classifier.input_size_wh, classifier.resize) == ((64, 64), "stretch")
    assert read_model(tmp_path / "m").crops.settings.margin == 0.3
    proba = classifier.predict_proba(crops)
    assert proba.dtype == np.float32
    assert np.abs(proba - head.predict_proba(X)).max() < 1e-5
    again = load_head(read_model(tmp_path / "m"))
    assert np.allclose(again.predict_proba(X), head.predict_proba(X), atol=1e-6)


def test_the_record_says_how_the_model_came_about(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m", data={"name": "faces", "digest": "abc"}, licence="research only")
    record = read_model(tmp_path / "m").record
    assert record.parts["head"]["settings"]["kind"] == "logistic"
    assert record.parts["embedder"]["settings"]["backbone"] == "raw"
    assert record.data["digest"] == "abc"
    assert record.licence == "research only"
    assert {"numpy", "scikit-learn", "onnxruntime"} <= record.versions.keys()
    assert record.created.endswith("+00:00")


def test_predicting_imports_neither_scikit_learn_nor_skops(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from ferkit.classifiers.model import load_classifier\n"
        f"c = load_classifier(Path({str(tmp_path / 'm')!r}))\n"
        "c.predict_proba(np.zeros((1, 64, 64, 3), np.uint8))\n"
        "print([m for m in ('sklearn', 'skops', 'tensorflow', 'joblib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["head.onnx", "head.skops", "model.json"])
def test_a_changed_byte_is_found(tmp_path: Path, save: Save, name: str) -> None:
    save(tmp_path / "m")
    path = tmp_path / "m" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"changed after it was written|cannot be read"):
        load_classifier(tmp_path / "m")


@pytest.mark.parametrize("name", ["head.onnx", "head.skops"])
def test_a_missing_file_is_named(tmp_path: Path, save: Save, name: str) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        load_classifier(tmp_path / "m")


def test_a_relabelled_model_is_found(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    text = (tmp_path / "m" / "model.json").read_text(encoding="utf-8")
    (tmp_path / "m" / "model.json").write_text(text.replace('"happy"', '"angry"'), encoding="utf-8")
    with pytest.raises(ModelError, match="changed after it was written"):
        read_model(tmp_path / "m")


def test_a_head_of_another_backbone_is_refused_even_with_mended_digests(tmp_path: Path, save: Save) -> None:
    rng = np.random.default_rng(0)
    other = fit_head(
        rng.normal(size=(40, 9)).astype(np.float32), np.array(["a", "b"] * 20), LogisticSettings()
    )
    from ferkit.classifiers.head_onnx import head_to_onnx

    save(tmp_path / "m")
    replace_file(tmp_path / "m", "head.onnx", head_to_onnx(other.pipeline, rng.normal(size=(5, 9))))
    with pytest.raises(ModelError, match="its head has 9 and 2"):
        load_classifier(tmp_path / "m")


class Bomb:
    """A pickle that would leave a file behind when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_named_skops_is_never_opened(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    replace_file(tmp_path / "m", "head.skops", pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match="not a head that ferkit may open"):
        load_head(read_model(tmp_path / "m"))
    assert not (tmp_path / "ran").exists()


def test_a_skops_file_with_foreign_types_is_refused(tmp_path: Path, save: Save) -> None:
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    save(tmp_path / "m")
    skops.io.dump(FunctionTransformer(func=subprocess.getoutput), tmp_path / "foreign.skops")
    replace_file(tmp_path / "m", "head.skops", (tmp_path / "foreign.skops").read_bytes())
    with pytest.raises(ModelError, match="subprocess"):
        load_head(read_model(tmp_path / "m"))


def test_a_truncated_skops_file_is_refused(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as file:
        file.writestr("schema.json", "{}")
    replace_file(tmp_path / "m", "head.skops", (tmp_path / "half.zip").read_bytes())
    with pytest.raises(ModelError, match="not a head that ferkit may open"):
        load_head(read_model(tmp_path / "m"))


def test_another_release_of_scikit_learn_warns(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    versions = {**read_model(tmp_path / "m").record.versions, "scikit-learn": "1.2.3"}
    rewrite_record(tmp_path / "m", versions=versions)
    with pytest.warns(UserWarning, match=r"made with scikit-learn 1\.2\.3"):
        load_head(read_model(tmp_path / "m"))
    load_classifier(tmp_path / "m")  # the graph does not depend on it


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 99}, "has format 99, this ferkit reads up to 1: update ferkit"),
        ({"format": "one"}, "is not of ferkit"),
        ({"kind": "oracle"}, "kind 'oracle', which this ferkit does not know"),
        ({"files": {"../../secret": {"sha256": "0"}}}, "points outside itself"),
    ],
)
def test_foreign_and_newer_folders(tmp_path: Path, save: Save, changes: dict[str, Any], words: str) -> None:
    save(tmp_path / "m")
    rewrite_record(tmp_path / "m", **changes)
    with pytest.raises(ModelError, match=words):
        load_classifier(tmp_path / "m")


def test_what_is_no_model_folder_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, found in (("empty", "another folder"), ("file", "a file"), ("absent", "nothing")):
        with pytest.raises(ModelError, match=f"found {found}"):
            load_classifier(tmp_path / name)
    (tmp_path / "empty" / "model.json").write_text("{half", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_classifier(tmp_path / "empty")


def test_a_record_without_a_part_is_refused(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "m")
    rewrite_record(tmp_path / "m", parts={})
    with pytest.raises(ModelError, match="does not say which embedding"):
        load_classifier(tmp_path / "m")


def test_a_model_is_only_replaced_when_that_is_said(
    tmp_path: Path, save: Save, crop_head: FittedHead
) -> None:
    save(tmp_path / "m", licence="first")
    with pytest.raises(ModelError, match="exists"):
        save(tmp_path / "m", licence="second")
    assert read_model(tmp_path / "m").record.licence == "first"
    save(tmp_path / "m", licence="second", overwrite=True)
    assert read_model(tmp_path / "m").record.licence == "second"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ModelError, match="is no model"):
        save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "thesis"]


def test_a_failure_while_writing_leaves_nothing_or_the_old_model(tmp_path: Path, save: Save) -> None:
    old = save(tmp_path / "m")

    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x" * 1000)
        raise OSError(28, "No space left on device")

    for folder, overwrite in ((tmp_path / "m", True), (tmp_path / "new", False)):
        with pytest.raises(FerkitError, match="No space left"):
            write_model(folder, old.record, fail, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    load_classifier(tmp_path / "m")


def test_embeddings_of_another_backbone_are_refused(tmp_path: Path, save: Save, embedder: Embedder) -> None:
    artifact = save(tmp_path / "m")
    check_fingerprint(artifact, embedder.fingerprint)
    with pytest.raises(ModelError, match=r"fitted on embeddings \w{8} \(raw\), these are of ffffffff"):
        check_fingerprint(artifact, "f" * 64)


def test_the_list_says_what_is_wrong_with_a_model_and_has_the_others(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "b")
    save(tmp_path / "a", metrics={"accuracy": 0.5})
    (tmp_path / ".c.x.tmp").mkdir()
    (tmp_path / ".c.x.tmp" / "model.json").write_text("{")
    first, second, a, b = list_models(tmp_path)
    assert (first.name, second.name, a.name, b.name) == ("ferkit", "ferkit2", "a", "b")
    assert a.model is not None
    assert a.model.report == {"accuracy": 0.5}
    rewrite_record(tmp_path / "b", format=2)
    (tmp_path / "a" / "head.skops").unlink()
    *_, a, b = list_models(tmp_path)
    assert a.model is None
    assert "head.skops is missing" in str(a.problem)
    assert b.model is None
    assert "update ferkit" in str(b.problem)
    assert [entry.name for entry in list_models(tmp_path / "absent")] == ["ferkit", "ferkit2"]


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"format": 1, "files": {}}', "null", '{"format": 1e999}', "\0", '{"format": 1}'],
)
def test_whatever_a_record_holds_hurts_no_other_model(tmp_path: Path, save: Save, content: str) -> None:
    save(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text(content)
    listed = {entry.name: entry for entry in list_models(tmp_path)}
    assert listed["good"].model is not None
    assert listed["bad"].model is None
    assert listed["bad"].problem


def test_the_newest_model_is_no_dummy_and_not_broken(tmp_path: Path, save: Save) -> None:
    assert newest_model(tmp_path) is None
    for number, name in enumerate(("old", "new", "broken")):
        save(tmp_path / name)
        rewrite_record(tmp_path / name, created=f"2026-01-0{number + 1}T00:00:00+00:00")
    (tmp_path / "broken" / "head.onnx").write_bytes(b"")
    save(tmp_path / "dummy")
    head = read_model(tmp_path / "dummy").record.parts
    head["head"]["settings"]["kind"] = "dummy"
    rewrite_record(tmp_path / "dummy", parts=head)
    found = newest_model(tmp_path)
    assert found is not None
    assert found.name == "new"
    assert choose_model(None, tmp_path).name == "new"
    assert choose_model("old", tmp_path).name == "old"
    assert choose_model(None, tmp_path / "absent").name == "ferkit2"
    assert choose_model("ferkit", tmp_path).name == "ferkit"
    with pytest.raises(ModelError, match="no model is called 'other'"):
        choose_model("other", tmp_path)


def test_a_moved_network_is_found_by_its_digest_next_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = small_network(tmp_path / "net.onnx")
    embedder = open_embedder(f"onnx:{network}")
    crops = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    X = embedder.embed(np.stack([cv2.resize(crop, embedder.input_size_wh) for crop in crops]))
    save_embedding_model(
        tmp_path / "m", fit_head(X, np.array(["a", "b"] * 15), LogisticSettings()), X,
        embedder_settings=embedder.settings, embedder_fingerprint=embedder.fingerprint,
        faces=CropSettings.whole(), weights=network,
    )  # fmt: skip
    expected = load_classifier(tmp_path / "m").predict_proba_of_embeddings(X)
    content = network.read_bytes()
    network.unlink()
    with pytest.raises(WeightsError, match=r"put a copy of it, with SHA-256 [0-9a-f]{64}, next to") as error:
        load_classifier(tmp_path / "m")
    assert "--weights" not in str(error.value)
    small_network(tmp_path / "m" / "another.onnx", dim=5)
    (tmp_path / "m" / "of any name.onnx").write_bytes(content)
    assert np.array_equal(load_classifier(tmp_path / "m").predict_proba_of_embeddings(X), expected)
