import pytest

from ferkit.core import progress as module
from ferkit.core.progress import Progress


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 3.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with Progress("embedding") as progress:
        progress.start(total=100, done=20)
        progress.update(10)
        progress.update(20, failures=2)
        progress.update(10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "embedding: 50/100 images (50%), 3/s, 00:16 left, 2 failed\n"


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("embedding", quiet=True) as progress:
        progress.start(10)
        progress.update(10, failures=1)
    assert capsys.readouterr() == ("", "")
