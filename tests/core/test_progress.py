import pytest

from ferkit.core import console as module


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    caplog.set_level("INFO", "ferkit")
    clock = iter([0.0, 3.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with module.progress("embedding", total=100, done=20) as shown:
        shown.update(10)
        shown.update(20, failures=2)
        shown.update(10)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["embedding: 50/100 images (50%), 3/s, 00:16 left, 2 failed"]


def test_hidden_progress_shows_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    caplog.set_level("INFO", "ferkit")
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with module.hidden_progress(), module.progress("embedding", total=10) as shown:
        shown.update(10, failures=1)
    assert not caplog.messages
