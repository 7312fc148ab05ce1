"""What needs Keras says so, and what does not never loads it."""

import os
import subprocess
import sys

import pytest

from ferkit.classifiers.finetune import recipe as backend
from ferkit.core.console import native_output_to_log
from ferkit.core.errors import DependencyError


def test_predicting_never_loads_what_trains() -> None:
    code = (
        "import sys, ferkit.classifiers.kinds, ferkit.classifiers.kinds, ferkit.cli.train\n"
        "import ferkit.classifiers.finetune.run, ferkit.classifiers.finetune.recipe\n"
        "print([name for name in ('keras', 'tensorflow', 'sklearn', 'onnxruntime') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_a_backend_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'ferkit\[train\]'"):
        backend.open_keras()


def test_native_remarks_are_logged_and_standard_error_comes_back(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ferkit")
    with native_output_to_log("keras"):
        os.write(2, b"cuda is not here\n")
    os.write(2, b"a result\n")
    assert capfd.readouterr().err == "a result\n"
    assert [record.getMessage() for record in caplog.records] == ["keras: cuda is not here"]
