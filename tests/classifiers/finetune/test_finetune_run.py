from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from ferkit.classifiers.finetune import data as pixels
from ferkit.classifiers.finetune import training as callbacks
from ferkit.classifiers.finetune.data import divide
from ferkit.classifiers.finetune.recipe import NetworkSettings, RecipeSettings, RunOptions, StageSettings
from ferkit.classifiers.finetune.run import finetune
from ferkit.classifiers.kinds import NetworkClassifier
from ferkit.classifiers.model import load_classifier, read_model
from ferkit.core.errors import DataError, FerkitError, ModelError, TrainingError
from ferkit.core.labels import LabelSet
from ferkit.datasets.load import load_dataset
from ferkit.faces.cropping import Cropping, FaceCropper
from tests.heard import heard

RECIPE = RecipeSettings(
    network=NetworkSettings(backbone="plain", input_size_wh=(24, 24)),
    stages=(StageSettings(epochs=1, learning_rate=3e-3, augment=False),),
    batch_size=16,
)
TWO = {"angry": 24, "happy": 24}
Write = Callable[..., Path]


def options(tmp_path: Path, **changes: object) -> RunOptions:
    values = {"model": tmp_path / "models" / "net", "work": tmp_path / "work", **changes}
    return RunOptions(**values)  # type: ignore[arg-type]


def run(data: Path, tmp_path: Path, recipe: RecipeSettings = RECIPE, **changes: object) -> list[str]:
    with heard() as said:
        finetune(load_dataset(data), recipe, Cropping.ask("none"), options(tmp_path, **changes))
    return said


def test_a_folder_of_images_becomes_a_model_like_any_other(write_folder: Write, tmp_path: Path) -> None:
    data = write_folder({"train": {"angry": 40, "happy": 40}, "val": {"angry": 8, "happy": 8}})
    recipe = replace(RECIPE, stages=(StageSettings(epochs=8, learning_rate=5e-3, augment=False),))
    run(data, tmp_path, recipe)
    model = tmp_path / "models" / "net"
    record = read_model(model).record
    assert record.labels == ("angry", "happy")
    assert record.data["class_counts"] == {"angry": 40, "happy": 40}
    assert record.split == {"origin": "given", "validated_on": "val", "train_rows": 80, "validation_rows": 16}
    assert record.metrics["validation"]["accuracy"] > 0.9
    classifier = load_classifier(model)
    assert isinstance(classifier, NetworkClassifier)
    bright_corner = np.full((2, 24, 24, 3), 90, np.uint8)
    bright_corner[0, :12, :12] += 100
    bright_corner[1, :12, 12:] += 100
    assert classifier.predict_proba(bright_corner).argmax(axis=1).tolist() == [0, 1]
    assert not list((tmp_path / "work").glob("*.npz"))  # a finished run leaves nothing to resume


def test_without_a_validation_part_persons_are_held_out_whole(write_folder: Write, tmp_path: Path) -> None:
    data = load_dataset(write_folder({"train": TWO}))
    samples = [replace(s, group=f"p{i % 8}") for i, s in enumerate(data.samples)]
    parts = divide(replace(data, samples=tuple(samples)), options(tmp_path))
    assert parts.origin == "drawn"
    assert not {s.group for s in parts.train.samples} & {s.group for s in parts.validation.samples}
    assert len(parts.train) + len(parts.validation) == 48


def test_given_classes_keep_their_order_and_spelling_and_others_are_left_out_aloud(
    write_folder: Write, tmp_path: Path
) -> None:
    data = load_dataset(write_folder({"train": {**TWO, "fear": 3}}))
    with heard() as said:
        parts = divide(data, options(tmp_path, labels=LabelSet.from_text("happiness,분노")))
    assert parts.labels.names == ("happiness", "분노")
    assert {s.label for s in parts.train.samples} == {"happiness", "분노"}
    assert "taken as: angry = 분노, happy = happiness" in said[0]
    assert said[1] == "left out, since --labels does not name their class: fear 3"


@pytest.mark.parametrize("no_face", ["skip", "whole"])
def test_photos_without_a_face_are_kept_and_named_where_that_is_asked_for(
    write_folder: Write, no_face: Literal["skip", "whole"]
) -> None:
    data = load_dataset(write_folder({"train": {"angry": 3, "happy": 4}}, size=200))
    asked = Cropping.ask("haar", no_face=no_face)
    cropper = FaceCropper(asked.settings, asked.open_detector, (24, 24), "stretch")
    with heard() as said:
        if no_face == "skip":
            with pytest.raises(DataError, match="no face found by haar"):
                pixels.load_pixels(data, ("angry", "happy"), cropper, "gray")
            return
        found = pixels.load_pixels(data, ("angry", "happy"), cropper, "gray")
    assert len(found) == 7
    names = ", ".join(sample.path for sample in data.samples[:5])
    assert said == [f"7 images without a face were taken whole: {names} and 2 more"]


def test_the_test_part_is_never_looked_at_unless_asked_for(write_folder: Write, tmp_path: Path) -> None:
    data = load_dataset(write_folder({"train": TWO, "test": {"angry": 5, "happy": 5}}))
    parts = divide(data, options(tmp_path))
    assert {s.split for s in parts.train.samples + parts.validation.samples} == {"train"}
    parts = divide(data, options(tmp_path, validate_on="test"))
    assert {s.split for s in parts.validation.samples} == {"test"}
    assert len(parts.train) == 48


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ({"train": {"happy": 5}}, {}, "at least two classes.*'happy'"),
        ({"train": {"angry": 5, "happy": 1}}, {}, r"at least 2 images of every class.*happy \(1\)"),
        ({"train": TWO, "val": {"angry": 3, "sad": 3}}, {}, "same classes: sad not among angry, happy"),
        ({"train": TWO, "val": {"angry": 3}}, {}, "no validation images of happy"),
        ({"train": TWO}, {"labels": LabelSet(("angry", "happy", "fear"))}, "no training images of fear"),
        ({"train": TWO}, {"labels": LabelSet(("angry", "sad"))}, "no training images of sad"),
        ({"train": TWO}, {"validate_on": "test"}, "expected a part test/"),
        ({"test": TWO}, {}, "expected a part train/"),
        ({"train": TWO}, {"cache": "tape"}, "auto, memory, disk"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(
    write_folder: Write, tmp_path: Path, counts: dict, changes: dict, message: str
) -> None:
    with pytest.raises(FerkitError, match=message):
        run(write_folder(counts), tmp_path, **changes)
    assert not (tmp_path / "models").exists()


def test_odd_images_are_used_or_named(write_folder: Write, tmp_path: Path) -> None:
    data = write_folder({"train": TWO})
    folder = data / "train" / "happy"
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    for name, shape in (("wide.png", (30, 90, 3)), ("tiny.png", (2, 3, 3)), ("one.png", (1, 1))):
        image = np.full(shape, 100, np.uint8)
        (folder / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    said = run(data, tmp_path)
    (left_out,) = [line for line in said if "left out" in line]
    assert "text.png: the content is not an image" in left_out
    assert "empty.png" in left_out
    record = read_model(tmp_path / "models" / "net").record
    assert record.split["train_rows"] + record.split["validation_rows"] == 48 + 3


def test_a_class_of_unreadable_images_counts_as_empty(write_folder: Write, tmp_path: Path) -> None:
    data = write_folder({"train": TWO, "val": {"angry": 2, "happy": 2}})
    for path in (data / "train" / "happy").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="no training images of happy"):
        run(data, tmp_path)
    for path in (data / "train" / "angry").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="none of the 48 images"):
        run(data, tmp_path)


def test_a_model_is_not_replaced_unasked_and_not_after_the_work(write_folder: Write, tmp_path: Path) -> None:
    data = write_folder({"train": TWO})
    run(data, tmp_path)
    with pytest.raises(ModelError, match="exists; choose another --name"):
        run(data, tmp_path)
    before = read_model(tmp_path / "models" / "net").record.created
    run(data, tmp_path, replace(RECIPE, seed=1), overwrite=True)
    after = read_model(tmp_path / "models" / "net").record
    assert after.seeds == {"run": 1}
    assert after.created >= before


def test_too_little_memory_says_which_option_helps_and_the_disk_will_do(
    write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_folder({"train": TWO})
    monkeypatch.setattr(pixels, "free_memory", lambda: 1000)
    seen: list[type] = []
    original = callbacks.Validation.__init__

    def spy(
        self: callbacks.Validation, run: object, core: object, part: pixels.Pixels, order: object
    ) -> None:
        seen.append(type(part.images.base))
        original(self, run, core, part, order)  # type: ignore[arg-type]

    monkeypatch.setattr(callbacks.Validation, "__init__", spy)
    run(data, tmp_path)
    assert seen == [np.memmap]
    monkeypatch.setattr(pixels.np, "empty", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(TrainingError, match=r"use --set cache=disk, a smaller network\.input_size_wh"):
        pixels._allocate((10, 24, 24, 1), "memory", tmp_path / "file.npy")


def test_float16_on_a_processor_is_warned_of_and_part_of_the_validation_is_measured(
    write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ferkit.classifiers.finetune.training.train", lambda *_: (_ for _ in ()).throw(KeyError)
    )
    recipe = replace(RECIPE, precision="mixed_float16", validation_steps=1, batch_size=4)
    data = load_dataset(write_folder({"train": TWO, "val": {"angry": 5, "happy": 5}}))
    with heard() as said, pytest.raises(KeyError):
        finetune(data, recipe, Cropping.ask("none"), options(tmp_path))
    assert "validation on 4 of 10 images (validation_steps)" in said
    assert any("mixed_float16 is made for accelerators" in line for line in said)


def test_memory_that_runs_out_while_training_says_which_option_helps(
    write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor")

    monkeypatch.setattr("ferkit.classifiers.finetune.training.LossModel.fit", run_out)
    with pytest.raises(TrainingError, match="batches of 16; use a smaller --batch-size"):
        run(write_folder({"train": TWO}), tmp_path)


def test_after_nan_the_best_epoch_is_a_model_and_the_message_says_so(
    write_folder: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = callbacks.EpochStart.on_epoch_begin

    def poisoned(self: callbacks.EpochStart, epoch: int, logs: object = None) -> None:
        original(self, epoch)
        self.model.optimizer.learning_rate = float("nan") if epoch else 1e-3

    monkeypatch.setattr(callbacks.EpochStart, "on_epoch_begin", poisoned)
    recipe = replace(RECIPE, stages=(StageSettings(epochs=3, augment=False),))
    with pytest.raises(TrainingError, match=r"NaN in epoch 2; .* weights of epoch 1 are kept in .*net"):
        run(write_folder({"train": TWO}), tmp_path, recipe)
    proba = load_classifier(tmp_path / "models" / "net").predict_proba(np.zeros((1, 24, 24, 3), np.uint8))
    assert np.isfinite(proba).all()


def test_votes_and_a_teacher_change_what_is_learnt(write_folder: Write, tmp_path: Path) -> None:
    data = write_folder({"train": TWO})
    plain = run(data, tmp_path)
    names = [sample.path for sample in load_dataset(data).samples]
    swapped = "\n".join(f"{name},{int('happy' in name) * 9},{int('angry' in name) * 9}" for name in names)
    (tmp_path / "votes.csv").write_text(f"path,angry,happy\n{swapped}\n")
    teacher = tmp_path / "models" / "net"
    taught = run(
        data, tmp_path, model=tmp_path / "models" / "taught", votes=tmp_path / "votes.csv", teacher=teacher
    )
    losses = [
        next(line.split("loss ")[1].split(",")[0] for line in said if "loss" in line)
        for said in (plain, taught)
    ]
    assert losses[0] != losses[1]
