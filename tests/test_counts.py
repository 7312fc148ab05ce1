"""How large the package is, how much a user has to look at, and which words are left: limits that only go down.

Run as a script it prints the counts: ``python tests/test_counts.py``.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import ferkit
from ferkit.cli.command import COMMON, Command
from ferkit.cli.main import main

MODULES = 116
"""Modules, without ``__init__``."""
CODE_LINES = 27_860
"""Lines of code: no blank lines, comments, docstrings and imports."""
OPTIONS = 260
"""Options of all commands together; those that every command has count once."""
VISIBLE_OPTIONS = 14
"""Options in the ``--help`` of one command."""
CYCLES = 0
"""Modules that need each other."""
WORDS_GIVEN_UP = 0
"""Lines with a word of :data:`GIVEN_UP`."""

PACKAGE = Path(ferkit.__file__).parent

GIVEN_UP = (
    r"\b[Pp]ictures?\b|\bpicture_\w+|\bPicture\w+",
    r"\b[Ff]ilms?\b|\bFilm\w+",
    r"\b[Cc]ontenders?\b|\bWorkbench\b|\bBenchOptions\b",
    r"\bfaceless\b|\blook_first\b|\bsettle_\w+|\bFaceFinding\b|\bFaceSettings\b|\bCropOptions\b",
    r"\bCellCache\b|\bcrossfit\b|\bgallery\b|\bAssignSettings\b|\bTrainedModel\b|\bModelArtifact\b",
    r"\bJobBoard\b|\bImpatient\w*|\bown_fault\b|\bzoo\b|\blegacy\b|whole way",
    r"\banew\b|\b[Bb]eside\b|\b[Ww]hatever\b|\b[Ll]ikeness\b|\b[Ss]urveys?\b",
)
"""Words that the glossary of the redesign replaced; add one when its last use is gone."""

ALLOWED = (
    r"core/spellings\.py",  # the table of old spellings
    r"\"likeness(-.*)?\"",  # a key in files, and the beginning of their names
    r"[\"'`](column\.contender|film.*|faceless|pictures?|films?|contenders?)[\"'`]",  # keys on disk and on the wire
    r"\b0\.1\b|contenders is now candidates|img imgpath|docs/|https?://",
)
"""Places and lines that may have them."""


def modules() -> list[Path]:
    """All files of the package but ``__init__``."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def code_lines(path: Path) -> int:
    """Lines that do something."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        lines = (
            range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if isinstance(node, ast.stmt)
            else range(0)
        )
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if (is_text and isinstance(node.value.value, str)) or isinstance(node, (ast.Import, ast.ImportFrom)):  # type: ignore[attr-defined]
            left_out |= set(lines)
    used: set[int] = set()
    nothing = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used - left_out)


def commands(
    command: click.Command = main, parent: click.Context | None = None, name: str = "fer"
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command with the words that call it."""
    context = click.Context(command, info_name=name.split()[-1], parent=parent)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(found, context, f"{name} {inner}")
    yield name, command, context


def n_options() -> int:
    """Options that the commands declare, and those that all have, once."""
    own = [p for _, command, _ in commands() for p in command.params if isinstance(p, click.Option)]
    return len(own) + len(COMMON)


def visible(command: click.Command, context: click.Context) -> list[str]:
    """What ``--help`` lists."""
    return re.findall(r"^  (-[\w-]+)(?:[ ,]|$)", command.get_help(context), re.MULTILINE)


def cycle() -> list[str]:
    """The modules that are in a circle, or need one that is; imports inside functions count too."""
    files = {
        path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path
        for path in modules()
    }
    needs = {}
    for name, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        needs[name] = (found & files.keys()) - {name}
    while free := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in free:
            del needs[name]
    return sorted(needs)


def given_up() -> list[str]:
    """Lines with words that were given up."""
    pattern = re.compile("|".join(GIVEN_UP))
    allowed = re.compile("|".join(ALLOWED))
    found = []
    for path in PACKAGE.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            where = f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
            if pattern.search(line) and not allowed.search(where):
                found.append(where)
    return found


def test_the_package_does_not_grow() -> None:
    assert len(modules()) <= MODULES
    assert sum(map(code_lines, modules())) <= CODE_LINES


def test_modules_do_not_need_each_other() -> None:
    assert len(cycle()) == CYCLES, cycle()


def test_words_given_up_stay_away() -> None:
    assert len(given_up()) == WORDS_GIVEN_UP, "\n".join(given_up())


def test_all_options_together_are_few() -> None:
    assert n_options() <= OPTIONS


@pytest.mark.parametrize(
    ("name", "command", "context"),
    list(commands()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_help_text_shows_few_options(name: str, command: click.Command, context: click.Context) -> None:
    assert len(visible(command, context)) <= VISIBLE_OPTIONS, name


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, command) for name, command, _ in commands() if isinstance(command, Command)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_option_is_called_by_its_own_name_and_every_setting_is_explained(
    name: str, command: Command
) -> None:
    for param in command.params:
        if isinstance(param, click.Option):
            own = max(param.opts, key=len).lstrip("-").replace("-", "_")
            assert param.name == own, f"{name}: the environment would call {own} {param.name}"
            assert param.help, f"{name}: {own} is not explained"
    for setting in (*command.settings.values(), *command.listed.values()):
        assert setting.help, f"{name}: {setting.key} is not explained where {setting.owner} is"
    assert not command.settings.keys() & {param.name for param in command.params}


if __name__ == "__main__":
    print(f"modules: {len(modules())} (at most {MODULES})")
    print(f"lines of code: {sum(map(code_lines, modules()))} (at most {CODE_LINES})")
    print(f"options: {n_options()} (at most {OPTIONS})")
    for name, command, context in commands():
        print(f"  {name}: {len(visible(command, context))} visible (at most {VISIBLE_OPTIONS})")
    print(f"modules in a circle: {len(cycle())} (at most {CYCLES})")
    print(f"lines with words given up: {len(given_up())} (at most {WORDS_GIVEN_UP})")
