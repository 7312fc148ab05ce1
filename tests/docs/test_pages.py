"""Documents keep what they promise: links lead somewhere, Python compiles and finds its names, commands exist."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

import ferkit
from ferkit.cli.command import Command
from ferkit.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
GENERATED = ("reference/",)
"""Where links may lead that only the site has."""


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each block of code."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def without_code(text: str) -> str:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path: Path) -> set[str]:
    """What headings are called in addresses."""
    found = set()
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()))
    return found


def links(path: Path) -> list[str]:
    text = without_code(path.read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img[^>]* src="([^"]+)"', text)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = page if not target else (page.parent / target)
        assert target.startswith(GENERATED) or file.exists(), f"{name}: {link}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles_and_finds_its_names(name: str) -> None:
    for language, code in blocks((ROOT / name).read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(code, name)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ferkit"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{name}: {node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ferkit":
                assert node.attr in {*ferkit.__all__, "sklearn"}, f"{name}: ferkit.{node.attr}"


def command_lines(text: str) -> Iterator[str]:
    """Every line of code that calls ``fer``, and every piece of inline code that does."""
    for language, code in blocks(text):
        if language in ("", "sh", "bash", "console"):
            for line in code.replace("\\\n", " ").splitlines():
                if re.match(r"(\$ )?fer ", line.strip()):
                    yield line.strip().removeprefix("$ ")
    yield from re.findall(r"`(fer [^`\n]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def check_command(line: str) -> None:
    """Parse a line as click would, without running anything.

    Raises:
        click.ClickException, AssertionError: it would be refused, or is a spelling of an older version.
    """
    line = re.split(r"\s#\s|\s[|>&<]|;|\s\(", line)[0]
    words = [word for word in shlex.split(line)[1:] if word not in ("…", "...")]
    command: click.Command = main
    context = click.Context(main, info_name="fer", **main.context_settings)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-") or not words[0].islower():
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    assert isinstance(command, Command)
    notices: list[str] = []
    words = list(command._renamed(context, words, notices))
    assert not notices, notices
    if not words:
        return
    given, _, order = command.make_parser(context).parse_args(args=words)
    for param in order:
        value = given.get(param.name)
        if (
            isinstance(param.type, click.Choice)
            and value is not None
            and not isinstance(param, click.Argument)
        ):
            for one in [value] if isinstance(value, str) else value:
                param.type.convert(one, param, context)
    for pair in given.get("set") or []:
        key = pair.partition("=")[0]
        assert key in command.settings or command.rest, f"no setting {key}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_commands_are_understood(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for line in command_lines(text):
        if "명령" in line or "COMMAND" in line:
            continue
        try:
            check_command(line)
        except (click.ClickException, AssertionError, ValueError) as error:
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            pytest.fail(f"{name}: {line}: {message}")


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("docs/") or n.startswith("README")])
def test_a_page_says_what_it_is_for_before_anything_else(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    first = next(line for line in lines[1:] if line.strip())
    assert not first.startswith(("#", "|", "```", "-", "!", "<", ">")), f"{name}: {first}"


def test_the_readme_is_short() -> None:
    for name in ("README.md", "README.ko.md"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150, name


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w./-]+\.md)$", text.partition("\nnav:")[2], re.MULTILINE))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert there <= listed, there - listed


def test_commands_of_the_readme_are_all_that_there_are() -> None:
    for name in ("README.md", "README.ko.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        missing = [word for word in COMMANDS if f"fer {word}" not in text]
        assert not missing, f"{name}: {missing}"


def test_address_and_version_are_the_same_everywhere() -> None:
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    (url,) = re.findall(r"^url = (.*)$", setup, re.MULTILINE)
    (version,) = re.findall(r"^version = (.*)$", setup, re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {version}\n" in citation
    assert f"repository-code: {url}\n" in citation
    assert f'"{url}/blob/main/"' in (ROOT / "docs/.theme/pages.py").read_text(encoding="utf-8")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    owner = url.removeprefix("https://github.com/")
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        assert f"colab.research.google.com/github/{owner}/blob/main/examples/{notebook.name}" in (
            notebook.read_text(encoding="utf-8")
        )


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs MkDocs; pip install 'ferkit[docs]'")
def test_the_site_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mkdocs.commands.build import build  # type: ignore[import-untyped]
    from mkdocs.config import load_config  # type: ignore[import-untyped]

    monkeypatch.chdir(ROOT)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    python = (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    for name in ferkit.__all__[1:]:
        assert f"ferkit.{name}" in python, name
    for page in tmp_path.rglob("*.html"):
        sources = re.findall(
            r'(?:src|href)="(https?:[^"]+\.(?:js|css|woff2?)[^"]*)"', page.read_text("utf-8")
        )
        assert not sources, f"{page} asks for {sources}"


def shell_words(name: str) -> list[str]:
    """The commands of a page's blocks for the shell, without comments, names of images and languages."""
    found = [code for language, code in blocks((ROOT / name).read_text(encoding="utf-8")) if language == "sh"]
    lines = (
        line.partition("  #")[0].replace(" --lang ko", "").strip()
        for code in found
        for line in code.splitlines()
    )
    return [line for line in lines if line]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.endswith(".ko.md") and "earlier" not in name]
)
def test_korean_pages_have_the_commands_of_the_english_ones(name: str) -> None:
    assert shell_words(name) == shell_words(name.replace(".ko.md", ".md"))
