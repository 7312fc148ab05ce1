"""The page's files: nothing from elsewhere, nothing inline, every sentence in both languages."""

import ast
import json
import re
from pathlib import Path

import pytest

from ferkit.serving.app import STATIC

SCRIPTS = sorted((STATIC / "js").glob("*.js"))
TEXT_FILES = sorted(file for file in STATIC.rglob("*") if file.suffix in (".html", ".css", ".js", ".svg"))
LONGEST = 300
BUILT = re.compile(r"t\(`([\w.]+\.)\$\{|hasText\(`([\w.]+\.)\$\{")
"""Keys that are put together as the page runs, known by their beginning."""


def texts(language: str) -> dict[str, str]:
    source = (STATIC / "js" / f"texts-{language}.js").read_text(encoding="utf-8")
    table = re.sub(r",\s*}", "}", source.strip().removeprefix("export default").strip().rstrip(";"))
    return dict(json.loads(table))


def test_both_languages_say_the_same_things():
    en, ko = texts("en"), texts("ko")
    assert en.keys() == ko.keys()
    assert all(text.strip() for text in (*en.values(), *ko.values()))
    for key in en:
        placeholders = [set(re.findall(r"\{(\w+)\}", text[key])) for text in (en, ko)]
        assert placeholders[0] == placeholders[1], key


def test_every_problem_of_the_server_has_words():
    codes = {"gone", "invalid"}
    for file in STATIC.parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ApiError":
                if isinstance(node.args[0], ast.Starred):  # one that was made before is made again
                    continue
                code = node.args[1]
                assert isinstance(code, ast.Constant), ast.unparse(node)
                codes.add({"large_frame": "too_large"}.get(code.value, code.value))
    assert len(codes) > 30
    assert {f"problem.{code}" for code in codes} <= texts("ko").keys()


def test_all_that_is_said_has_words_and_all_words_are_said():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    code = "\n".join(f.read_text(encoding="utf-8") for f in SCRIPTS if not f.name.startswith("texts-"))
    named = set(re.findall(r'data-t(?:-label)?="([\w.]+)"', page))
    asked = set(re.findall(r'\bt\("([\w.]+)"', code))
    known = set(texts("en"))
    assert named | asked <= known
    begun = {a or b for a, b in BUILT.findall(code)}
    quoted = set(re.findall(r'"([\w.]+)"', code))
    unsaid = {key for key in known - named - quoted if not any(key.startswith(start) for start in begun)}
    assert not unsaid


@pytest.mark.parametrize("file", TEXT_FILES, ids=lambda file: file.name)
def test_nothing_comes_from_elsewhere(file: Path):
    content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    content = content.replace("http://localhost", "")  # a sentence for visitors
    assert not re.search(r"https?://|(?<!:)//\w+\.\w+/|@import|url\(", content)


def test_the_page_has_no_inline_code_or_style():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r'\sstyle=|\son\w+="|<style|<script>', page)
    code = "".join(file.read_text(encoding="utf-8") for file in SCRIPTS)
    assert not re.search(
        r'innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function|setAttribute\("style"', code
    )


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_are_short(file: Path):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_every_icon_that_is_used_is_there():
    sprite = (STATIC / "icons" / "sprite.svg").read_text(encoding="utf-8")
    there = set(re.findall(r'<symbol id="([\w-]+)"', sprite))
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    code = "".join(file.read_text(encoding="utf-8") for file in SCRIPTS)
    used = set(re.findall(r"sprite\.svg#([\w-]+)", page)) | set(re.findall(r'icon\("([\w-]+)"', code))
    assert used <= there
    assert there - used <= {"sun", "moon", "auto"}  # named by the theme


def test_only_language_and_theme_are_remembered():
    code = {file.name: file.read_text(encoding="utf-8") for file in SCRIPTS}
    users = {
        name
        for name, text in code.items()
        if re.search(r"localStorage|sessionStorage|indexedDB|document\.cookie", text)
    }
    assert users == {"early.js", "preferences.js"}
    assert set(re.findall(r'(?:remember|recall)\("(\w+)"', code["preferences.js"])) == {"language", "theme"}
