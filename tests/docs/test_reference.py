"""The reference, manual pages and completion come from the commands, and lack nothing."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ferkit.cli.command import Command
from ferkit.cli.main import COMMANDS, main
from ferkit.cli.reference import commands, man_page, pages, write_man_pages

PAGES = {page.name: page for page in pages(main)}
ALL = {name: (command, context) for name, command, context in commands(main)}


def test_every_command_has_a_page() -> None:
    assert PAGES.keys() == ALL.keys()
    assert {f"fer {name}" for name in COMMANDS} <= PAGES.keys()
    assert all(page.summary.endswith(".") for page in PAGES.values())


@pytest.mark.parametrize("name", ALL)
def test_a_page_has_every_option_and_setting_under_the_name_that_the_environment_reads(name: str) -> None:
    command, context = ALL[name]
    rows = [row for group in PAGES[name].groups.values() for row in group]
    shown = " ".join(row.name for row in rows)
    options = [p for p in command.get_params(context) if isinstance(p, click.Option) and not p.hidden]
    for option in options:
        assert max(option.opts, key=len) in shown
    if not isinstance(command, Command):
        return
    assert {*command.settings, *command.listed} <= {row.name for row in rows}
    known = set(command.known_variables(context))
    for row in rows:
        assert row.text
        assert not row.variable or row.variable in known, row


def test_examples_are_the_lines_of_the_help() -> None:
    embed = PAGES["fer embed"]
    assert "fer embed data/" in embed.examples
    assert not any("Examples" in text for text in embed.text)
    assert embed.usage == "fer embed [OPTIONS] DATA"


def test_manual_pages_are_roff(tmp_path: Path) -> None:
    written = write_man_pages(main, tmp_path)
    assert {path.name for path in written} == {f"{name.replace(' ', '-')}.1" for name in ALL}
    for page in PAGES.values():
        text = man_page(page)
        assert text.startswith(".TH ")
        for line in text.splitlines():
            assert not line.startswith(".") or re.match(r"\.(TH|SH|TP|PP|nf|fi)\b", line), line
            assert not re.search(r"(?<!\\)-", line.removeprefix(".TH ")) or line.startswith(".TH"), line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    found = CliRunner().invoke(main, ["completion", shell], prog_name="fer")
    assert found.exit_code == 0
    assert "_FER_COMPLETE" in found.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fer", "fin"], "finetune"),
        (["fer", "embed", "--back"], "--backbone"),
        (["fer", "embed", "-b", "arc"], "arcface"),
        (["fer", "finetune", "data", "-r", "aih"], "aihub"),
        (["fer", "predict", "--model", "mine"], "mine-2"),
        (["fer", "predict", "ferk"], "ferkit2"),
        (["fer", "models", "fetch", "yun"], "yunet"),
    ],
)
def test_the_tab_key_completes(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine-2").mkdir(parents=True)
    (tmp_path / "models" / "mine-2" / "model.json").write_text("{}", encoding="utf-8")
    environment = {
        "_FER_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)
    }  # fmt: skip
    found = CliRunner().invoke(main, prog_name="fer", env=environment)
    assert f"plain,{expected}" in found.stdout.splitlines()
