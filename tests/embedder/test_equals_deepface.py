"""Our embeddings against DeepFace's own, from the same weights file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import arcface_resnet34, small_network

from ferkit.core.weights import entry_of
from ferkit.embedder.embedders import known_backbones, open_embedder

pytest.importorskip("onnx")

THEIR_NAMES = {
    "arcface": "ArcFace",
    "facenet": "Facenet",
    "facenet512": "Facenet512",
    "vgg-face": "VGG-Face",
    "ghostfacenet": "GhostFaceNet",
    "sface": "SFace",
    "openface": "OpenFace",
    "deepid": "DeepID",
    "fbdeepface": "DeepFace",
}
"""Buffalo_L is missing: DeepFace runs it by insightface, which is not installed here."""

REPRESENT = """
import sys
import numpy as np
from deepface import DeepFace
crops, out = np.load(sys.argv[1]), {}
for name in sys.argv[3:]:
    rows = [DeepFace.represent(crop[:, :, ::-1], model_name=name, detector_backend="skip") for crop in crops]
    out[name] = np.array([row[0]["embedding"] for row in rows])
np.savez(sys.argv[2], **out)
"""


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Wider than high, so that the letterbox is seen, and with more than one image."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 9, 12, 3), np.uint8)
    return np.kron(coarse, np.ones((1, 10, 10, 1), np.uint8))


def represented(home: Path, crops: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    """Embeddings (n, dim) of DeepFace, in a process of its own: it chooses its engine when it is imported."""
    np.save(home / "crops.npy", crops)
    environment = os.environ | {"DEEPFACE_HOME": str(home), "DEEPFACE_BACKEND_ENGINE": "onnx"}
    command = [sys.executable, "-c", REPRESENT, str(home / "crops.npy"), str(home / "out.npz"), *names]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    if "No module named 'deepface'" in run.stderr:
        pytest.skip("needs the extra 'deepface'")
    assert run.returncode == 0, run.stderr
    return dict(np.load(home / "out.npz"))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_arcface_resnet34(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crops: np.ndarray) -> None:
    arcface_resnet34(tmp_path / ".deepface" / "weights" / "arcface_weights.onnx")
    theirs = represented(tmp_path, crops, ["ArcFace"])["ArcFace"]
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    monkeypatch.setenv("FER_WEIGHTS_DIR", str(tmp_path / "ours"))
    monkeypatch.setenv("FER_OFFLINE", "1")
    ours = open_embedder("arcface").embed(crops)
    assert ours.shape == (4, 512)
    assert cosine(theirs[:1], theirs[1:]).max() < 0.999  # otherwise anything would be equal
    assert cosine(ours, theirs).min() > 0.999999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1), rtol=1e-4)


def test_the_input_of_every_other_recogniser(tmp_path: Path, crops: np.ndarray) -> None:
    """Small networks in the place of the real ones: compared is what is put in, and what is done after."""
    weights = tmp_path / ".deepface" / "weights"
    for name in THEIR_NAMES:
        sface = name == "sface"
        small_network(
            weights / entry_of(name).file,
            size_wh=known_backbones()[name].settings.input_size_wh,
            channels_first=sface,
            batch=1 if sface else "batch",
        )
    theirs = represented(tmp_path, crops, list(THEIR_NAMES.values()))
    for name, their_name in THEIR_NAMES.items():
        ours = open_embedder(name, weights=weights / entry_of(name).file).embed(crops)
        np.testing.assert_allclose(ours, theirs[their_name], rtol=2e-4, atol=1e-4, err_msg=name)
