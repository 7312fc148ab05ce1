"""The language of help texts, usage errors and lists: known before the command line is parsed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ferkit.cli.main import COMMANDS, CONTEXT, main
from ferkit.cli.models import CHECKS
from ferkit.core.console import width
from ferkit.core.texts import current_language, has_hangul, speaking, translated
from ferkit.core.weights import known_weights
from ferkit.embedder.engines import REMEDIES
from tests.test_counts import commands


def said(*args: str, code: int = 0, **variables: str) -> str:
    result = CliRunner(env={"LC_ALL": "C.UTF-8", **variables}).invoke(main, list(args), prog_name="fer")
    assert result.exit_code == code, result.output
    assert current_language() == "en"
    return result.output


MAP_FILE = ("[", "mood3", "good", "bad", "other")
"""How the lines of the file in the help text of ``fer dataset map`` begin."""


class Texts(click.HelpFormatter):
    """Keeps what a help text is made of."""

    def __init__(self) -> None:
        super().__init__(width=10_000)
        self.texts: list[str] = []

    def write_heading(self, heading: str) -> None:
        self.texts.append(heading)

    def write_text(self, text: str) -> None:
        for part in text.split("\n\n"):
            self.texts += [part.replace("\n", " ")] if part[0] != "\b" else part[2:].split("\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], *_: Any, **__: Any) -> None:
        self.texts += [text for _, text in rows]


@pytest.mark.parametrize(
    ("command", "context"), [one[1:] for one in commands()], ids=[one[0] for one in commands()]
)
def test_all_that_help_shows_has_korean_words(command: click.Command, context: click.Context) -> None:
    found = Texts()
    context.help_option_names = CONTEXT["help_option_names"]  # click remembers the option
    context.meta["ferkit.help_all"] = True
    command.format_help(context, found)
    examples = ("    fer ", "    FER_", "KIND ", "my_labels.toml:", *(" " * 4 + one for one in MAP_FILE))
    english = [t for t in found.texts if not t.startswith(examples) and not has_hangul([translated(t, "ko")])]
    assert english == []


@pytest.mark.parametrize(
    "args",
    [
        ("--lang", "ko", "predict", "--help"),
        ("predict", "--help", "--lang", "ko"),
        ("predict", "--lang=ko", "--help"),
    ],
)
def test_help_is_in_the_language_wherever_it_is_named(args: tuple[str, ...]) -> None:
    shown = said(*args)
    assert shown.startswith(
        "사용법: fer predict [OPTIONS] [MODEL] IMAGE...\n\n  이미지 속 표정을 인식합니다.\n"
    )
    assert "[기본값: auto]" in shown
    assert "\0" not in shown
    assert "[default: auto]" in said("predict", "--help")


def test_lines_of_korean_help_fit_the_terminal() -> None:
    shown = said("--lang", "ko", "--help", COLUMNS="80")
    assert all(width(line) <= 80 for line in shown.splitlines())
    assert sum(width(line) > 60 for line in shown.splitlines()) > 5


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["predict", "--nope"], "'--nope' 옵션이 없습니다. ('--crops', '--model' 중 하나를 찾으시나요?)"),
        (["predict"], "인수 '[MODEL] IMAGE...'이(가) 필요합니다."),
        (["predict", "x", "--crop"], "'--crop' 옵션이 없습니다. '--crops'을(를) 찾으시나요?"),
        (["completion"], "인수 '{bash|zsh|fish}'이(가) 필요합니다. 다음 중 하나를 고르세요: bash, zsh, fish"),
        (["serve", "--port", "x"], "'--port' 값이 올바르지 않습니다: 'x'은(는) 정수가 아닙니다."),
        (["serve", "--port", "70000"], "'--port' 값이 올바르지 않습니다: 70000은 범위 0<=x<=65535를 벗어납니다."),
        (["fit", "--config", "/nope"], "'--config' 값이 올바르지 않습니다: /nope을(를) 읽을 수 없습니다: "
                                       "파일이나 폴더가 없음. 경로를 확인하세요"),
        (["models", "show"], "'show' 명령이 없습니다."),
        (["predct"], "'predct' 명령이 없습니다. 'predict'을(를) 찾으시나요?"),
        (["--nope"], "'--nope' 옵션이 없습니다."),
    ],
)  # fmt: skip
def test_usage_errors_are_korean(args: list[str], error: str) -> None:
    for shown in (said(*args, code=2, FER_LANG="ko"), said(*args, "--lang", "ko", code=2)):
        usage, hint, *_, last = shown.splitlines()
        assert usage.startswith("사용법: fer")
        assert hint.startswith("도움말을 보려면 'fer")
        assert last == f"오류: {error}"
    assert "\nError: " in said(*args, code=2)


def test_other_errors_are_korean_too(tmp_path: Path) -> None:
    shown = said("embed", str(tmp_path / "nope"), "--lang", "ko", code=1)
    assert shown.startswith("오류: ")
    assert "Error" not in shown


def test_a_group_without_a_command_shows_its_help_and_no_error() -> None:
    for name in ("models", "dataset"):
        shown = said(name, code=2)
        assert shown.startswith(f"Usage: fer {name} [OPTIONS]")
        assert f"  {COMMANDS[name][1]}" in shown
        assert "Error" not in shown
        assert "사용법" in said(name, code=2, FER_LANG="ko")


def test_the_language_can_stand_in_a_file_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_LANG", "")  # so that it is put back
    monkeypatch.delenv("FER_LANG")
    (tmp_path / ".env").write_text("FER_LANG=ko\n")
    assert "사용법" in said("models", code=2)


def test_the_language_of_class_names_is_not_that_of_messages(tmp_path: Path) -> None:
    assert "Error" in said("dataset", "map", str(tmp_path / "nope"), "--lang", "ko", "-o", "x.csv", code=1)


def test_lists_of_weights_and_models_are_korean() -> None:
    shown = said("models", "list", "--lang", "ko")
    for english in ("published", "network", "images", "numbers", "comes with"):
        assert english not in shown
    for entry in known_weights().values():
        assert has_hangul([translated(entry.about, "ko")]), entry.about


@pytest.mark.parametrize(
    ("english", "korean"),
    [
        ("faces: 1,400 images", "faces: 이미지 1,400장"),
        ("look at a.png and b; then try:", "a.png, b을(를) 확인한 다음 실행해 보세요:"),
        ("0.7% to 79.0%", "0.7~79.0%"),
        ("--backbone-layer is now --layer", "--backbone-layer의 새 이름은 --layer입니다"),
        ("data (3 images); its backbone: training part of FER2013", "data(이미지 3장), 백본: FER2013의 학습 부분"),
        ("expected a whole number for k, found 'x'", "k에는 정수가 필요합니다(입력값: 'x')"),
    ],
)  # fmt: skip
def test_what_the_first_hour_says_is_korean(english: str, korean: str) -> None:
    assert translated(english, "ko") == korean


def test_doctor_is_korean() -> None:
    for device, remedy in REMEDIES.items():
        if not remedy.startswith("pip install"):
            assert (
                translated(f"for x: {remedy}; for {device}: {remedy}", "ko").count(translated(remedy, "ko"))
                == 2
            )
            assert has_hangul([translated(remedy, "ko")]), remedy
    with speaking("ko"):
        for finding in (finding for check in CHECKS for finding in check()):
            assert not finding.remedy or has_hangul([translated(finding.remedy)]), finding
    assert translated("a missing, b 1.2, c missing", "ko") == "a 없음, b 1.2, c 없음"
    assert translated("4.14.0 loads, but has no face detectors, of 2 wheels over one cv2: a, b", "ko") == (
        "4.14.0 로드됨, 얼굴 검출기 없음, 패키지 2개가 cv2 하나를 덮어씀: a, b"
    )
