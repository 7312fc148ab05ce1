import os
import subprocess
import sys
from importlib import import_module, metadata
from importlib.util import find_spec

import click
import pytest
from click.testing import CliRunner

from ferkit.cli import main as fer
from ferkit.cli.main import COMMANDS

HEAVY = {
    *("tensorflow", "keras", "deepface", "mediapipe", "openvino", "dask", "matplotlib", "sklearn", "skimage"),
    *("onnx", "onnxruntime", "skops", "joblib", "scipy", "pandas", "PIL", "cv2", "numpy", "tqdm"),
}


def command(name: str) -> click.Command:
    place, attribute = COMMANDS[name][0].split(":")
    module = f"ferkit.cli.{place}"
    if find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_command_and_loads_nothing_heavy(arguments: list[str]):
    code = (
        "import sys\nfrom ferkit.cli import main\n"
        "try: main(sys.argv[1:], prog_name='fer')\n"
        "except SystemExit: print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8",
        env={**os.environ, "COLUMNS": "100"}, check=True,
    )  # fmt: skip
    shown = done.stdout + done.stderr
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in shown
        assert summary in shown
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "LOADED"
    assert HEAVY & set(loaded) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_docstring_begins_with_its_summary(name: str):
    text = command(name).help or ""
    first = text.split("\n\n")[0].replace("\n", " ")
    assert COMMANDS[name][1].rstrip(".") in (first.rstrip("."), first.split(";")[0].rstrip("."))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_without_loading_anything_heavy(name: str):
    command(name)
    code = (
        "import sys\nfrom ferkit.cli import main\n"
        "try: main(sys.argv[1:], prog_name='fer')\n"
        "except SystemExit as end: print('LOADED', end.code, *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, "--help"], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.startswith(f"Usage: fer {name}")
    assert done.stderr == ""
    _, code, *loaded = done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert HEAVY & set(loaded) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name: str):
    found = command(name)
    for inner in found.commands.values() if isinstance(found, click.Group) else [found]:
        silent = [
            option.opts[-1] for option in inner.params
            if isinstance(option, click.Option) and not option.help and not option.show_default
        ]  # fmt: skip
        assert silent == []


def test_the_version_is_the_package_s():
    result = CliRunner().invoke(fer, ["--version"])
    assert result.output.strip() == f"fer, version {metadata.version('ferkit')}"


def test_an_unknown_command_is_wrong_usage():
    result = CliRunner().invoke(fer, ["embedd"])
    assert result.exit_code == 2
    assert "No such command 'embedd'" in result.stderr


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "ferkit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("fer, version ")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "Error: /data/x: Permission denied\n"),
        (OSError("two\nlines"), "Error: two lines\n"),
    ],
)
def test_errors_of_the_system_are_one_line_too(monkeypatch: pytest.MonkeyPatch, error: OSError, line: str):
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr("ferkit.cli.embed.embed", broken)
    result = CliRunner().invoke(fer, ["embed"])
    assert result.exit_code == 1
    assert result.stderr == line


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch):
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ferkit.cli.embed.embed", interrupted)
    result = CliRunner().invoke(fer, ["embed"])
    assert result.exit_code == 130
    assert result.stderr.strip().startswith("stopped; what was finished is kept")
