"""The table of texts: both languages complete, nothing stale, and what the border translates."""

import ast
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferkit
from ferkit.cli.command import Command
from ferkit.core.console import shortened, table, width
from ferkit.core.errors import DataError, mask_credentials, printable
from ferkit.core.texts import (
    Translations,
    current_language,
    language_of_locale,
    speaking,
    text_table,
    translated,
    with_particles,
)
from ferkit.core.weights import known_weights
from tests.test_counts import commands

MESSAGES = text_table()["message"]
OF_CLICK = (
    "No such option",
    "Missing ",
    "Option '",
    "Got unexpected",
    "Invalid value",
    "{value} is not",
    "{what} '{name}' ",
    "{what}  [",
    *("Usage:", "Error: ", "Try '", " Choose from: ", " (Did you mean", "Show th", "Options", "Commands"),
    "expected a folder, a .zip",  # of a constant and the sentence around it
    *("integer", "float", "boolean", "File", "Directory", "Path"),
)
OF_THE_SYSTEM = (
    *("No such file", "[Errno ", "Permission denied", "Is a", "Not a dir", "File exists", "No space left"),
    *(
        "Read-only",
        "Address already",
        "Connection refused",
        "Network is",
        "Name or",
        "Temporary",
        "timed out",
    ),
)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def source_texts() -> set[str]:
    """All texts of the package, with {} for what is filled in, and each paragraph of help texts in one line."""
    found = {entry.about for entry in known_weights().values()}
    for _, command, _ in commands():
        if isinstance(command, Command):
            found |= {setting.help for setting in (*command.settings.values(), *command.listed.values())}
    for path in Path(ferkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[srd]", "{}", node.value))
                found |= {" ".join(part.split()) for part in node.value.split("\n\n")}
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
                found.add("".join(map(str, parts)))
    return found


def test_every_text_is_there_in_both_languages_with_the_same_fields() -> None:
    entries = [*MESSAGES]
    for area in text_table().keys() - {"message"}:
        entries += [entry for group in text_table()[area].values() for entry in group.values()]
    assert len(entries) > 400
    for entry in entries:
        assert entry.keys() == {"en", "ko"}
        assert entry["en"].strip()
        assert fields(entry["ko"]) <= fields(entry["en"]), entry["en"]
        assert not re.search(r"\{address\}\S", entry["ko"]), entry["ko"]  # terminals make links of addresses


def test_every_message_is_one_that_the_code_says() -> None:
    said = source_texts()
    pieces = "\x00".join(said)
    stale = []
    for message in (entry["en"] for entry in MESSAGES):
        template = re.sub(r"\{\w+\}", "{}", message)
        if template in said or message.startswith((*OF_CLICK, *OF_THE_SYSTEM)):
            continue
        # A sentence that is put together of several texts: all of its pieces are there.
        if not all(piece.strip() in pieces for piece in template.split("{}") if len(piece.strip()) > 2):
            stale.append(message)
    assert "\n".join(stale) == ""


def test_a_message_is_translated_by_its_own_line() -> None:
    for entry in MESSAGES:
        filled = {name: f"<{name}>" for name in fields(entry["en"])} | {
            "hint": "; <hint>",
            "more": ", <more>",
        }
        filled |= {name: "12" for name in filled if name in ("n", "all") or name.startswith("n_")}
        said = translated(entry["en"].format(**filled), "ko")
        assert said == with_particles(entry["ko"].format(**filled))


@given(st.text(max_size=40), st.integers(1, 30))
def test_what_is_shortened_fits_and_keeps_both_ends(text: str, columns: int) -> None:
    kept = shortened(text, columns)
    assert width(kept) <= columns
    if width(text) <= columns:
        assert kept == text
    elif kept != "…":
        left, _, right = kept.partition("…") if "…" not in text else (kept[0], "", "")
        assert text.startswith(left)
        assert text.endswith(right)


@given(st.text())
def test_any_other_text_stays_or_becomes_korean_without_an_error(text: str) -> None:
    assert isinstance(translated(text, "ko"), str)
    assert translated(text, "en") == text


def test_a_clause_within_a_message_is_translated_too() -> None:
    assert translated("unreadable: a.png: the file is empty", "ko") == "읽을 수 없음: a.png: 파일이 비어 있음"
    said = translated("unreadable: a.png: cannot be read: No such file or directory", "ko")
    assert said == "읽을 수 없음: a.png: 파일이나 폴더가 없음"


def test_english_is_spoken_unless_another_language_is_asked_for() -> None:
    assert translated("no face") == "no face"
    with speaking("ko"):
        assert current_language() == "ko"
        assert translated("no face") == "얼굴 없음"
    assert current_language() == "en"


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LC_MESSAGES": "ko"}, "ko"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_locale_decides(
    variables: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language_of_locale() == language


@given(st.text("가나다슬픔행복0123456789", min_size=1))
def test_particles_fit_the_letter_before(word: str) -> None:
    last = word[-1]
    final = (ord(last) - ord("가")) % 28 if last > "9" else "0136 78".find(last) >= 0
    assert with_particles(f"{word}은(는)") == word + ("은" if final else "는")


def test_a_particle_behind_a_quotation_mark_fits_the_word_in_it() -> None:
    assert with_particles("'슬픔'이(가) '분노'을(를) 'sad'이(가)") == "'슬픔'이 '분노'를 'sad'이(가)"


def test_a_word_that_ends_in_rieul_takes_ro() -> None:
    assert (
        with_particles("서울(으)로 부산(으)로 8(으)로 3(으)로 53%(으)로 x(으)로")
        == "서울로 부산으로 8로 3으로 53%로 x(으)로"
    )


def test_numbers_are_written_as_readers_of_the_language_write_them() -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    en, ko = Translations("en"), Translations("ko")
    assert (en.interval(figure), ko.interval(figure)) == ("40.0–60.0", "40.0~60.0")
    assert (en.duration(12), ko.duration(12), ko.duration(600), ko.duration(7200)) == (
        "12.0 s", "12.0초", "10분", "2.0시간",
    )  # fmt: skip


@pytest.mark.parametrize(
    "address",
    ["rtsp://user:SECRET@host/x", "rtsp://user:SEC%40RET@host/x", "https://SECRET@host/x", "http://host/x?key=SECRET&a=1",
     "http://host/cgi?loginuse=admin&loginpas=SECRET", "rtsp://host:554/user=admin_password=SECRET_channel=1.sdp",
     "http://host/x?access_token=SECRET", "http://host/x#jwt=SECRET", "http://host/?of=http%3A%2F%2Fu%3ASECRET%40g%2Fx",
     "http://host/x?a=1&PHPSESSID=SECRET", "http://host/x?sid=SECRET", "http://host/x?code=SECRET",
     "http://host/x?%70assword=SECRET", "http://host/x?pass%77ord=SECRET"],
)  # fmt: skip
def test_no_spelling_of_an_address_shows_its_secret(address: str) -> None:
    shown = mask_credentials(f"no video from '{address}' (refused)")
    assert not {"SEC", "RET"} & set(re.findall("SEC|RET", shown)), shown
    assert "host" in shown
    assert shown.endswith("(refused)")
    assert mask_credentials(shown) == shown


@pytest.mark.parametrize(
    "text", ["http://host:80/a@b", "data/key=3/part.csv", "write to a@b.c", "a=b&c=d?frame=3"]
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert mask_credentials(text) == text


@given(st.text())
def test_no_name_of_a_file_steers_a_terminal_or_breaks_a_line(name: str) -> None:
    bad = {c for c in map(chr, range(0xA0)) if not c.isprintable()} | set("\u202a\u202e\u2066\u2069")
    assert not bad - {"\n", "\t"} & set(printable(name))
    assert not bad - {"\t"} & set(str(DataError(name)))
    assert table(["image"], [[name]]).count("\n") == 1
    assert printable(printable(name)) == printable(name)


def test_names_in_any_script_are_shown_as_they_are() -> None:
    for name in ("슬픔/사진 1.jpg", "\u3000全角.png", "👩\u200d🔬.jpg", "a\tb", "été"):
        assert printable(name) == name
    assert printable("\x1b[31mred\n.png", lines=False) == "\\u001b[31mred\\n.png"
