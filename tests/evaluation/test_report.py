"""Reports: aligned text, plots with everything inside the image."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.core import style
from ferkit.core.console import width
from ferkit.core.errors import FerkitError
from ferkit.core.labels import LabelSet
from ferkit.evaluation import plots
from ferkit.evaluation.metrics import Evaluation, evaluate
from ferkit.evaluation.report.page import format_report, write_report

LONG = (
    "aggressively angry",
    "somewhat disgusted",
    "fearful and anxious",
    "happy beyond words",
    "neutral",
    "profoundly sad",
    "surprise or astonishment",
)


def evaluation(names: tuple[str, ...], unknown: int = 0, n: int = 300) -> Evaluation:
    rng = np.random.default_rng(0)
    truth = rng.integers(len(names), size=n)
    proba = 0.7 * rng.dirichlet(np.ones(len(names)), n) + 0.3 * np.eye(len(names))[truth]
    y = np.array(names, dtype=object)[truth]
    y[:unknown] = "contempt"
    return evaluate(y, proba, LabelSet.from_names(names))


KOREAN = evaluation(LabelSet.named("fer2013").names)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_text_is_aligned_also_with_hangul(language: str) -> None:
    blocks = format_report(KOREAN, language).split("\n\n")
    assert len(blocks) >= 4
    for block in blocks[1:4]:
        assert len({width(line.rstrip()) for line in block.splitlines()}) == 1
    assert (blocks[2].splitlines()[0].split()[0], blocks[2].splitlines()[4].split()[0]) == {
        "en": ("expression", "happy"),
        "ko": ("표정", "기쁨"),
    }[language]


def test_text_names_what_the_figures_leave_out() -> None:
    text = format_report(evaluation(("a", "b"), unknown=12))
    assert "contempt (12)" in text
    assert "accuracy with the unknown classes as mistakes" in text
    assert "over images" in text
    many = format_report(evaluation(tuple(f"expression number {i}" for i in range(30))))
    assert "The confusion matrix of 30 expressions is too wide" in many
    assert max(map(len, many.splitlines())) < 200


def test_the_folder_has_text_json_and_plots(tmp_path: Path) -> None:
    files = write_report(KOREAN, tmp_path / "deep" / "report", "ko")
    assert [path.name for path in files] == [
        "report.txt",
        "metrics.json",
        "confusion.png",
        "classes.png",
        "reliability.png",
        "probabilities.png",
    ]
    assert json.loads(files[1].read_text(encoding="utf-8"))["n"] == 300
    for path in files[2:]:
        assert min(Image.open(path).size) > 300
    write_report(KOREAN, tmp_path / "deep" / "report", "en")
    assert "happy" in files[0].read_text(encoding="utf-8")


GIVEN = evaluation(("짜증", "행복", "무표정", "슬픔"), n=60)


@pytest.mark.parametrize("shown", [evaluation(LONG, unknown=20), evaluation(("놀림", "놀림 아님"), n=30), KOREAN],
                         ids=["long", "two", "seven"])  # fmt: skip
def test_nothing_is_cut_off(shown: Evaluation, tmp_path: Path) -> None:
    for name, drawing in plots.evaluation_drawings(shown, "ko").items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plots.draw_png(drawing, tmp_path / f"{name}.png")
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")).astype(int)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert border.min() == 255, name  # a mark on the outermost line would go on outside


def written(found: Evaluation, language: str) -> set[str]:
    """All that its drawings say."""
    drawings = plots.evaluation_drawings(found, language).values()
    return {shape.words for drawing in drawings for shape in drawing.shapes}


def test_without_a_korean_font_plots_are_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "hangul_font_file", lambda bold=False: None)
    for found, names in ((KOREAN, {"happy", "sad"}), (GIVEN, {"happy", "neutral"})):
        words = written(found, "ko")
        assert {*names, "Confusion matrix", "precision"} <= words
    assert not style.has_hangul(written(KOREAN, "ko"))
    assert style.plot_families(["슬픔"]) == ["DejaVu Sans"]


def test_with_a_korean_font_they_are_in_korean_throughout() -> None:
    if style.hangul_font_file() is None:
        pytest.skip("no font with Hangul on this machine")
    words = written(KOREAN, "ko")
    assert {"기쁨", "혼동 행렬", "정밀도", "예측 →"} <= words
    assert not {
        word for word in words if any(en in word for en in ("predicted", "true", "images", "accuracy"))
    }
    assert style.plot_families(words)[0] != "DejaVu Sans"  # one font draws Hangul and Latin letters


def test_classes_named_in_korean_are_drawn_in_those_words() -> None:
    if style.hangul_font_file() is None:
        pytest.skip("no font with Hangul on this machine")
    for language in ("en", "ko"):
        assert set(GIVEN.labels.names) <= written(GIVEN, language)
        assert all(name in format_report(GIVEN, language) for name in GIVEN.labels.names)


def test_nothing_global_is_changed(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.draw_png(plots.evaluation_drawings(KOREAN, "ko")["confusion"], tmp_path / "plot.png")
    assert dict(matplotlib.rcParams) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FerkitError, match="choose another place"):
        write_report(KOREAN, tmp_path / "file" / "report")
