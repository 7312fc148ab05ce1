"""The page, the Markdown and the JSON of a comparison: all numbers alike, nothing fetched, nothing injected."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferkit.core import style
from ferkit.core.errors import FerkitError, ImageError
from ferkit.core.texts import percent
from ferkit.datasets.dataset import read_folder
from ferkit.evaluation.comparison import CandidateResult, Comparison
from ferkit.evaluation.report.page import write_comparison, write_matrix_report
from tests.evaluation.reports import made_up, with_images

VOID = {"meta", "img", "br", "wbr"}


class Page(HTMLParser):
    """What a page holds: its elements, the numbers it shows, and its tables as text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[float, str]] = []
        self.intervals: list[tuple[float, float, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self._data: str | None = None
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "data":
            self._data = dict(attrs)["value"]
        elif tag == "small" and "data-low" in dict(attrs):
            self._interval = float(dict(attrs)["data-low"] or ""), float(dict(attrs)["data-high"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self.rows and {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
        if self._data is not None:
            self.numbers.append((float(self._data), data))
            self._data = None
        if self._open and self._open[-1] == "small" and hasattr(self, "_interval"):
            self.intervals.append((*self._interval, data))
            del self._interval


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return made_up()


@pytest.fixture(scope="module", params=["en", "ko"])
def report(
    request: pytest.FixtureRequest, comparison: Comparison, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp(request.param)
    images = read_folder(with_images(comparison, tmp_path_factory.mktemp("pictures")))
    write_comparison(comparison, folder, request.param, images)
    return folder, request.param


def numbers_in(values: Any) -> Iterator[float]:
    if isinstance(values, dict):
        for value in values.values():
            yield from numbers_in(value)
    elif isinstance(values, list):
        for value in values:
            yield from numbers_in(value)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield float(values)


def read(folder: Path) -> tuple[Page, dict[str, Any]]:
    values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Page((folder / "report.html").read_text(encoding="utf-8")), values


def test_every_number_of_the_page_is_one_of_the_json(report: tuple[Path, str]) -> None:
    page, values = read(report[0])
    known = set(numbers_in(values))
    # The matrix of pairs shows each difference from both sides.
    known |= {-pair["difference"] for pair in values["pairs"]}
    assert len(page.numbers) > 150
    for value, text in page.numbers:
        assert value in known, text
        digits = re.sub("[%,초분]|시간|< ", "", text.replace("−", "-")).split()[0]
        places = len(digits.partition(".")[2])
        ways = [100 * value, value, value / 60]
        assert any(abs(float(digits) - way) <= 0.51 * 10**-places for way in ways) or "<" in text, (
            value,
            text,
        )


def test_every_interval_of_the_page_is_one_of_the_json(report: tuple[Path, str]) -> None:
    page, values = read(report[0])
    known = set(numbers_in(values))
    assert len(page.intervals) > 30
    for low, high, text in page.intervals:
        assert {low, high} <= known
        ends = [float(end.replace("−", "-")) for end in re.split(" … | ~ |[–~]", text)]
        scale = 100 if abs(ends[0] - 100 * low) < abs(ends[0] - low) else 1
        assert ends == pytest.approx([scale * low, scale * high], abs=0.051)


def test_the_headline_says_of_each_candidate_its_own_figures(report: tuple[Path, str]) -> None:
    page, values = read(report[0])
    for one in values["contenders"][:2]:
        row = next(row for row in page.rows if row[0].startswith(one["name"]))
        found = one["evaluation"]
        for cell, name in zip(row[1:5], ("accuracy", "balanced_accuracy", "macro_f1", "top2"), strict=True):
            assert cell.startswith(percent(found[name]["value"]))
        assert row[6].startswith(percent(found["ece"]["value"]))


def test_figures_are_those_of_the_comparison(comparison: Comparison, report: tuple[Path, str]) -> None:
    _, values = read(report[0])
    for one in values["contenders"][:2]:
        accuracy = comparison.evaluation(one["name"]).figures["accuracy"]
        assert one["evaluation"]["accuracy"]["value"] == accuracy.value
        clean = comparison.evaluation(one["name"], with_leaks=False).figures["accuracy"]
        assert one["evaluation_without_leaks"]["accuracy"]["value"] == clean.value
        calibration = one["calibration"]["results"]
        assert calibration[0]["ece"] == pytest.approx(one["evaluation"]["ece"]["value"])
        assert [result["method"] for result in calibration] == ["none", "temperature", "isotonic"]
        assert sum(one["histogram"][0]["own"]) == pytest.approx(1)
        confidences = [mistake["confidence"] for mistake in one["mistakes"]]
        assert confidences == sorted(confidences, reverse=True)
        assert all(mistake["true"] != mistake["predicted"] for mistake in one["mistakes"])
    assert values["contenders"][values["best"]]["name"] == "head1@hog"


def test_the_page_needs_nothing_else(report: tuple[Path, str]) -> None:
    page, _ = read(report[0])
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value is not None
                assert value.startswith(("data:image/webp;base64,", "#")), (tag, value)
    html = (report[0] / "report.html").read_text(encoding="utf-8")
    assert "url(" not in html
    assert "@import" not in html
    targets = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert len(links) > 8
    assert all(str(link)[1:] in targets for link in links)


def test_the_page_holds_what_it_should(report: tuple[Path, str]) -> None:
    folder, language = report
    page, values = read(folder)
    ids = {attributes.get("id") for _, attributes in page.elements}
    wanted = {
        *("short", "headline", "pairs", "costs", "leaks", "subgroups", "classes", "calibration"),
        *("abstention", "conformal", "learning", "pictures", "failures", "method"),
    }
    assert wanted <= ids
    for text in (
        "deepface is not installed",
        {"en": "2 images could not be read", "ko": "이미지 2장을 읽을 수 없었습니다"}[language],
        "0123456789abcdef",
        "a note on it",
    ):
        assert text in page.text
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    best = values["contenders"][values["best"]]
    grids = [best["right"], best["mistakes"], best["unsure"], values["hard"]["pictures"]]
    assert len(images) == sum(map(len, grids)) + 2  # and the pair that leaks
    assert all(image["alt"] for image in images)
    expected = {
        "en": ("neutral", "Each candidate", "head1@hog is better than head0@hog."),
        "ko": ("중립", "비교 대상별 결과", "head0@hog: head1@hog보다 −30.0%p(p < 0.001), head1@hog 우세."),
    }
    assert all(word in page.text for word in expected[language])
    assert next(attributes for tag, attributes in page.elements if tag == "html")["lang"] == language
    assert len((folder / "report.html").read_bytes()) < 400_000


def test_the_markdown_has_the_same_tables(report: tuple[Path, str]) -> None:
    folder, _ = report
    page, values = read(folder)
    text = (folder / "report.md").read_text(encoding="utf-8")
    for one in values["contenders"][:2]:
        assert percent(one["evaluation"]["macro_f1"]["value"]) in text
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert len(headings) >= 8
    assert all(heading.replace("\\", "") in page.text for heading in headings)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    names = (evil, '"><img src=x onerror=alert(2)>', "a & b | `c`")
    comparison = made_up(
        names, 60, candidates=(f"x@{evil}", "'];--"), paths=tuple(f"{evil}/{i}" for i in range(120))
    )
    write_comparison(comparison, tmp_path, "en", lambda row: np.zeros((8, 8, 3), np.uint8))
    page, values = read(tmp_path)
    assert values["labels"]["names"] == list(names)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert evil in page.text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "<img" not in markdown


@pytest.mark.parametrize("error", [ImageError("damaged"), OSError("gone"), KeyError("no such row")])
def test_images_that_cannot_be_read_are_counted(tmp_path: Path, error: Exception) -> None:
    def read_some(row: int) -> np.ndarray:
        if row % 2:
            raise error
        return np.zeros((300, 200, 3), np.uint8)

    write_comparison(made_up(n=60), tmp_path, "en", read_some)
    page, _ = read(tmp_path)
    assert "could not be read again" in page.text
    assert any(tag == "img" for tag, _ in page.elements)


def test_without_images_it_says_so(tmp_path: Path) -> None:
    write_comparison(made_up(n=60), tmp_path)
    page, values = read(tmp_path)
    assert "were not at hand" in page.text
    assert values["contenders"][1]["mistakes"][0]["path"]


def test_no_page_where_none_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of an earlier report")
    files = write_comparison(made_up(n=60), tmp_path, page=False)
    assert [file.name for file in files] == ["report.md", "report.json"]
    assert not (tmp_path / "report.html").exists()


def test_nobody_finished(tmp_path: Path) -> None:
    found = made_up(n=60)
    failed = tuple(CandidateResult(one.name, "head", failure="out of memory") for one in found.candidates)
    write_comparison(Comparison(**{**vars(found), "candidates": failed, "pairs": ()}), tmp_path)
    page, values = read(tmp_path)
    assert values["best"] is None
    assert "No candidate finished" in page.text
    assert page.text.count("out of memory") == 3
    alone = {**vars(found), "candidates": failed[:1], "pairs": ()}
    write_comparison(Comparison(**alone), tmp_path, images=lambda row: np.zeros((8, 8, 3), np.uint8))
    assert read(tmp_path)[1]["best"] is None


def test_one_class_only(tmp_path: Path) -> None:
    found = made_up(("angry", "happy"), 40, by=(), leaking=0)
    only = Comparison(**{**vars(found), "y": np.full(80, "happy", object)})
    write_comparison(only, tmp_path)
    page, values = read(tmp_path)
    assert "expected two classes" in values["contenders"][0]["calibration"]["reason"]
    assert "Not done: expected two classes" in page.text
    assert values["contenders"][0]["evaluation"]["per_class"]["angry"]["support"] == 0


def test_few_images_and_one_person(tmp_path: Path) -> None:
    found = made_up(n=6, skills=(1.0,), failed=False, leaking=0)
    alone = Comparison(**{**vars(found), "groups": np.full(12, "p", object)})
    write_comparison(alone, tmp_path, "ko")
    page, values = read(tmp_path)
    assert values["contenders"][0]["evaluation"]["accuracy"]["low"] is None
    assert "reason" in values["contenders"][0]["conformal"]
    assert "nan" not in page.text.lower()


def test_classes_that_the_model_lacks_have_rows(tmp_path: Path) -> None:
    found = made_up(n=60, by=())
    y = found.y.copy()
    y[:20] = "contempt"
    write_comparison(Comparison(**{**vars(found), "y": y}), tmp_path)
    page, values = read(tmp_path)
    assert any(row[0] == "contempt *" for row in page.rows)
    assert values["contenders"][0]["evaluation"]["unknown_classes"] == {"contempt": 20}


def test_who_saw_the_test_images_is_not_the_best(tmp_path: Path) -> None:
    found = made_up(n=60)
    cheat = CandidateResult("shipped", "network", found.candidates[1].cells, seen=np.arange(40))
    honest = CandidateResult("honest", "head", found.candidates[0].cells)
    cheated = Comparison(**{**vars(found), "candidates": (cheat, honest), "pairs": ()})
    write_comparison(cheated, tmp_path)
    page, values = read(tmp_path)
    assert values["contenders"][values["best"]]["name"] == "honest"
    assert "shipped was, or may have been, trained on 40 of these test images" in page.text
    assert any(row[0].endswith("saw these images before") for row in page.rows)
    bold = [attributes for tag, attributes in page.elements if "best" in str(attributes.get("class")).split()]
    assert bold == []  # the only other one has no rival


def test_every_test_image_leaks(tmp_path: Path) -> None:
    write_comparison(made_up(n=60, leaking=60), tmp_path)
    page, values = read(tmp_path)
    assert page.text.count("Every test image leaks") == 2  # in short, and in its section
    assert "evaluation_without_leaks" not in values["contenders"][0]


def test_nothing_leaks(tmp_path: Path) -> None:
    found = made_up(n=60, leaking=0)
    write_comparison(Comparison(**{**vars(found), "leaks": {"sentence": "no leaks", "pairs": []}}), tmp_path)
    page, _ = read(tmp_path)
    assert page.text.count("The leak check found no test image") == 2


def test_korean_needs_no_font_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "hangul_font_file", lambda bold=False: None)
    write_comparison(made_up(n=60), tmp_path, "ko")
    page, _ = read(tmp_path)
    assert any("기쁨" in row[0] for row in page.rows)  # the reader's browser draws it


def test_two_spellings_of_one_expression_stay_apart(tmp_path: Path) -> None:
    write_comparison(made_up(("happy", "happiness", "sad"), 60), tmp_path)
    page, _ = read(tmp_path)
    assert {"happy", "happiness"} <= {row[0] for row in page.rows}


def test_a_perfect_candidate(tmp_path: Path) -> None:
    found = made_up(n=60, skills=(40.0,), failed=False)
    write_comparison(found, tmp_path, images=lambda row: np.zeros((8, 8, 3), np.uint8))
    page, values = read(tmp_path)
    assert values["contenders"][0]["mistakes"] == []
    assert values["hard"]["images"] == 0
    assert "nan" not in page.text.lower()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FerkitError, match="choose another place"):
        write_comparison(made_up(n=60), tmp_path / "file" / "report")


def test_data_sets_against_each_other(tmp_path: Path) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    cell = {
        "accuracy": figure,
        "balanced_accuracy": figure,
        "macro_f1": figure,
        "n": 1200,
        "classes": ["happy", "b"],
        "recall": {"happy": figure, "b": figure},
        "recall_change": {},
    }
    change = {"value": -0.25, "low": -0.375, "high": -0.125, "units": 90}
    other = {**cell, "recall_change": {"happy": change, "b": {**figure, "units": 3}}}
    values = {"data": ["west<b>", "동양"], "contenders": {"svm@hog": [[cell, None], [other, cell]]}}
    (tmp_path / "west<b>--동양").mkdir()
    (tmp_path / "west<b>--동양" / "report.html").touch()
    files = write_matrix_report(values, tmp_path, "en", ["contempt has no place"])
    page = Page(files[0].read_text(encoding="utf-8"))
    assert page.rows[1] == ["west<b>", "50.0%40.0–60.02 expressions", "failed"]
    assert "contempt has no place" in page.text
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["west%3Cb%3E--%EB%8F%99%EC%96%91/report.html"]
    markdown = files[1].read_text(encoding="utf-8")
    assert " failed |" in markdown
    # The recall of each expression by what was trained on, and its change: in the text, the page and the picture.
    assert re.search(
        r"happy \(tested on west.*동양.*50\.0% \(40\.0–60\.0\).*−25\.0 \(−37\.5 … −12\.5\)", markdown
    )
    assert "happy (tested on west<b>)" in page.text
    assert page.text.count("Newcombe, ") == 1  # by which method, where resamples say nothing
    assert "Newcombe, 3 persons" in page.text
    assert "fewer than 5 show the expression" in page.text
    assert "happy (tested on west<b>), 동양: −25.0" in page.text
    assert [file.name for file in files[2:]] == ["recall-svm@hog.png"]
    write_matrix_report(values, tmp_path, "ko")
    assert "기쁨 (테스트: west<b>)" in Page(files[0].read_text(encoding="utf-8")).text
