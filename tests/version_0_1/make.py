"""Makes ``home.tar.xz`` and ``expected.npz`` with version 0.1's code: what a user of it has on the disk.

It was run once, before anything was changed, on a checkout of version 0.1 in ``/opt/ferkit-0.1``:

    git worktree add /opt/ferkit-0.1 1f992d2
    cp -r tests/version_0_1 /opt/ferkit-0.1/tests/ && cd /opt/ferkit-0.1 && python -m tests.version_0_1.make

Later versions are tested against what it made and never run it. Absolute paths are those of that run; where a user
moved the folder they lead nowhere, and that is part of the test.
"""

import csv
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.version_0_1.commands import (
    AUDIT,
    COMPARE,
    CROP,
    ENSEMBLE,
    FIX,
    HALF_FINISHED,
    HEADS,
    IMPORT,
    INTERRUPTED,
    NETWORK,
    STORES,
)

HERE = Path(__file__).parent
WORK = Path("/tmp/version-0.1")

TINY = """\
# A network of a few hundred weights.
[network]
backbone = "tiny.keras"
dropout = 0.0

[[stages]]
epochs = 1
learning_rate = 1e-2
augment = false

[optimizer]
name = "sgd"
"""

CONTENDERS = """\
contenders = [
    {use = "logistic@onnx:net.onnx#stage2", pool = [2, 2]},
    {use = "svm@ferkit", name = "own svm", C = 2.0},
    "model:models/network",
    "ensemble:shipped+own svm",
]
"""

CONFIG = """\
# Spellings of version 0.1.
[embed]
faceless = "whole"
backbone = "onnx:net.onnx"
tap = "stage2"
pool = "2x3"
detector = "haar"
name = "from-toml"

[fit]
head = "logistic"
class-weight = "balanced"
embeddings = "faces--ferkit"
name = "from-toml"

[crop]
faceless = "whole"
pictures = "photos"
detector = "haar"

[compare]
contender = ["dummy", "shipped"]
contenders = "contenders.toml"
allow-leaks = true

[finetune]
backbone = "compact"
class-weights = true
input-size = "16x16"
epochs = 1
batch-size = 16
set = ["augmentation.rotate=0"]
detector = "none"

[predict]
crops = true
json = true
"""

ENVIRONMENT = """\
FER_EMBED_FACELESS=whole
FER_EMBED_TAP=stage2
FER_EMBED_BACKBONE=onnx:net.onnx
FER_EMBED_DETECTOR=haar
FER_EMBED_NAME=from-env
FER_FIT_CLASS_WEIGHT=balanced
FER_FIT_HEAD=logistic
FER_FIT_EMBEDDINGS=faces--ferkit
FER_FIT_NAME=from-env
FER_CROP_PICTURES=photos
FER_CROP_FACELESS=whole
FER_CROP_DETECTOR=haar
FER_COMPARE_FILE=contenders.toml
FER_COMPARE_NAMES=dummy shipped
FER_COMPARE_ALLOW_LEAKS=1
FER_FINETUNE_BACKBONE=plain
FER_FINETUNE_SETTINGS=augmentation.rotate=0
FER_FINETUNE_INPUT_SIZE=16x16
FER_PREDICT_AS_JSON=1
FER_PREDICT_CROPS=1
"""


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    os.chdir(WORK)
    os.environ |= {"FER_OFFLINE": "1", "FER_WEIGHTS_DIR": str(WORK)}  # no detector but Haar
    _write_inputs()
    fer(*IMPORT)
    for command in STORES.values():
        fer(*command)
    third_shard = "ferkit.embedder.rows.write_atomically", lambda path, _: path.name == "shard-00002.json"
    _stopped(INTERRUPTED, *third_shard)
    for command in HEADS.values():
        fer(*command)
    fer(*NETWORK)
    fer(*ENSEMBLE)
    fer(*HALF_FINISHED)
    shutil.move("models/half-finished/history.csv", HERE / "undisturbed.csv")
    shutil.rmtree("models/half-finished")
    second_epoch = (
        "ferkit.classifiers.finetune.checkpoint.save_checkpoint",
        lambda _, run: len(run.history) == 2,
    )
    _stopped(HALF_FINISHED, *second_epoch)
    fer(*CROP)
    fer(*AUDIT)
    _write_plan()
    fer(*FIX)
    fer(*COMPARE)
    _record_expected()
    _tidy()
    with tarfile.open(HERE / "home.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(WORK.rglob("*")):
            if path.is_file():
                archive.add(path, path.relative_to(WORK).as_posix(), filter=_of_nobody)


def _of_nobody(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    return entry.replace(mtime=1_790_000_000, mode=0o644, uid=0, gid=0, uname="", gname="", deep=False)


def fer(*arguments: str) -> str:
    """The standard output of a command that succeeds."""
    from click.testing import CliRunner

    from ferkit.cli import main as command

    print("fer", *arguments, file=sys.stderr)
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _write_inputs() -> None:
    import cv2
    import keras
    from keras import layers

    from ferkit.datasets.synthetic import write_dataset
    from tests.networks import small_network

    write_dataset(Path("faces"), n_per_class=8, n_persons=8, size=28, seed=1)
    small_network(Path("net.onnx"))
    Path("tiny.toml").write_text(TINY)
    Path("contenders.toml").write_text(CONTENDERS)
    Path("ferkit.toml").write_text(CONFIG)
    Path("env").write_text(ENVIRONMENT)  # the tests call it .env
    keras.utils.set_random_seed(1)
    images = keras.Input((16, 16, 1))
    x = layers.Conv2D(8, 3, 2, "same", activation="relu", name="first")(images)
    x = layers.Conv2D(12, 3, 2, "same", activation="relu", name="second")(x)
    keras.Model(images, x, name="backbone").save("tiny.keras")
    # A face within each photo, where a table says.
    rows = []
    for i, face in enumerate(sorted(Path("faces/train").rglob("*.png"))[::8]):
        photo = np.full((48, 64, 3), 40 + 20 * i, np.uint8)
        left, top = 4 + 4 * i, 2 + 3 * i
        photo[top : top + 28, left : left + 28] = cv2.imread(str(face))
        path = Path("photos", face.parent.name, f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo)
        rows.append((path, face.parent.name, left, top, left + 28, top + 28))
    with Path("photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "left", "top", "right", "bottom"), *rows])


def _stopped(command: tuple[str, ...], function: str, when: Callable[[Any, Any], bool]) -> None:
    """Run a command to where ``function`` is called with what ``when`` says, and press Ctrl-C there."""
    from click.testing import CliRunner

    from ferkit.cli import main as fer

    module, _, name = function.rpartition(".")
    original = getattr(import_module(module), name)

    def stop(*arguments: Any) -> Any:
        if when(*arguments):
            raise KeyboardInterrupt
        return original(*arguments)

    print("fer", *command, "… stopped", file=sys.stderr)
    with mock.patch(function, stop):
        result = CliRunner().invoke(fer, command)
    assert result.exit_code == 130, result.output


def _write_plan() -> None:
    """As the page saves it: of the first findings one is dropped, one relabelled, one given a person."""
    import hashlib

    faces = sorted(Path("faces").rglob("*.png"))
    actions = ("drop", ""), ("relabel", "sad"), ("same-person", "p9999"), ("keep", "")
    with Path("plan.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "action", "value", "label", "content", "finding"))
        for path, (action, value) in zip(faces[::9], actions, strict=False):
            digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            shown = path.relative_to("faces").as_posix()
            writer.writerow((shown, action, value, path.parent.name, digest, "wrong_label"))


def _record_expected() -> None:
    """Probabilities of every model on four crops, and of every contender on the test part."""
    import cv2
    from ferkit.evaluation.comparison_file import load_comparison

    import ferkit

    faces = [cv2.imread(str(path))[:, :, ::-1] for path in sorted(Path("faces/test").rglob("*.png"))[::5]]
    arrays: dict[str, np.ndarray] = {"faces": np.stack(faces)}
    for folder in sorted(Path("models").iterdir()):
        classifier = ferkit.load_classifier(folder)
        size = classifier.input_size_wh
        crops = np.stack([cv2.resize(face, size) for face in faces])
        arrays[f"size/{folder.name}"] = np.array(size)
        arrays[f"models/{folder.name}"] = classifier.predict_proba(crops)
    comparison = load_comparison(Path("comparison/faces"))
    for one in comparison.contenders:
        (cell,) = one.cells
        arrays[f"compare/{one.name}"] = cell.proba
    np.savez_compressed(HERE / "expected.npz", **arrays)


def _tidy() -> None:
    """Leave out what is large and read by nobody again, and the name of the machine that it was made on."""
    for path in [
        *WORK.rglob("*.html"),
        *WORK.rglob("*.svg"),
        *WORK.rglob("curves.png"),
        *WORK.rglob("report.*"),
    ]:
        if "models" not in path.parts:  # every file of a model has its digest in model.json
            path.unlink(missing_ok=True)
    found = Path("comparison/faces/comparison.json")
    values = json.loads(found.read_text("utf-8"))
    values["machine"] = {name: "" if isinstance(v, str) else v for name, v in values["machine"].items()}
    found.write_text(json.dumps(values, indent=2, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
