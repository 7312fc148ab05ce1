"""A small data set with one fault of each kind, and embeddings of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ferkit.audit.findings import Audit
from ferkit.audit.run import AuditSettings, Embedded, audit
from ferkit.datasets.dataset import Dataset
from ferkit.datasets.load import load_dataset
from ferkit.embedder.store import EmbeddingTable

PERSON = r"^(p\d+)_"
CLASSES = ("angry", "happy", "sad")


def image(seed: int, side: int = 64) -> np.ndarray:
    """An image of its own, with structure at every scale; gray."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 30, (k, k)), (side, side), interpolation=cv2.INTER_CUBIC) for k in (3, 6, 12)
    ]
    return np.clip(sum(layers) + 128 + rng.normal(0, 4, (side, side)), 0, 255).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """90 images of three classes in train/ and 30 in test/, each of a person of its own, and faults."""
    root = tmp_path / "faces"
    for i in range(120):
        split, label = ("train", "test")[i >= 90], CLASSES[i % 3]
        write(root / split / label / f"p{i:03d}_a.png", image(i))
    train, test = root / "train", root / "test"
    write(test / "happy" / "p900_copy.png", image(1)[:, ::-1])  # of train/happy/p001, mirrored
    write(train / "sad" / "p901_copy.png", image(0))  # of train/angry/p000
    write(train / "happy" / "p902_copy.png", image(4))  # of train/happy/p004
    write(train / "sad" / "p903_빈.png", np.full((64, 64), 7, np.uint8))
    write(train / "sad" / "p904_tiny.png", image(904, 16))
    write(train / "sad" / "p905_blur.png", cv2.GaussianBlur(image(905), (0, 0), 8))
    write(test / "sad" / "p002_b.png", image(906))  # p002 is in training
    (train / "sad" / "p907_broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture
def dataset(data: Path) -> Dataset:
    return load_dataset(data, PERSON)


@pytest.fixture
def embedded(dataset: Dataset) -> Embedded:
    """Embeddings that tell the classes apart: five images in training have those of another class."""
    rng = np.random.default_rng(0)
    samples = [sample for sample in dataset.samples if "broken" not in sample.path]
    X = rng.normal(0, 1, (len(samples), 8)).astype(np.float32)
    for i, sample in enumerate(samples):
        label = CLASSES.index(str(sample.label))
        X[i, (label + 1) % 3 if sample.path in WRONG else label] += 8
        if "blur" in sample.path:
            X[i, 3:] += 12
    columns = [
        np.array([getattr(s, name) for s in samples], object) for name in ("label", "path", "group", "split")
    ]
    return Embedded(EmbeddingTable(X, *columns), "drawn")


WRONG = {f"train/{CLASSES[i % 3]}/p{i:03d}_a.png" for i in (10, 20, 30, 40, 50)}


@pytest.fixture
def found(dataset: Dataset, embedded: Embedded) -> Audit:
    return audit(dataset, embedded, AuditSettings())
