"""Reports: aligned text, plots with everything inside the image."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferkit.core import fonts
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
PLOTS: list[Callable[[Evaluation], object]] = [
    plots.plot_confusion,
    plots.plot_classes,
    plots.plot_reliability,
    plots.plot_probabilities,
]


def evaluation(names: tuple[str, ...], unknown: int = 0, n: int = 300) -> Evaluation:
    rng = np.random.default_rng(0)
    truth = rng.integers(len(names), size=n)
    proba = 0.7 * rng.dirichlet(np.ones(len(names)), n) + 0.3 * np.eye(len(names))[truth]
    y = np.array(names, dtype=object)[truth]
    y[:unknown] = "contempt"
    return evaluate(y, proba, LabelSet.from_names(names))


KOREAN = evaluation(LabelSet.named("fer2013").names)


def test_text_is_aligned_also_with_hangul() -> None:
    lines = format_report(KOREAN, "ko").splitlines()
    for first in ("figure", "class", "true"):
        start = next(i for i, line in enumerate(lines) if line.startswith(first))
        end = lines.index("", start) if "" in lines[start:] else len(lines)
        block = lines[start:end]
        assert len(block) > 5
        if first != "figure":  # the last column of the others ends flush
            assert len({width(line) for line in block}) == 1
    assert any(line.startswith("기쁨") for line in lines)


def test_text_names_what_the_figures_leave_out() -> None:
    text = format_report(evaluation(("a", "b"), unknown=12))
    assert "contempt (12)" in text
    assert "accuracy with the unknown classes as mistakes" in text
    assert "over images" in text


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


@pytest.mark.parametrize("draw", PLOTS)
@pytest.mark.parametrize(
    "shown",
    [evaluation(LONG, unknown=20), evaluation(("놀림", "놀림 아님"), n=30), KOREAN],
    ids=["long", "two", "seven"],
)
def test_nothing_is_cut_off(draw: Callable[[Evaluation], object], shown: Evaluation, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(shown).savefig(tmp_path / "plot.png")  # type: ignore[attr-defined]
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("L")).astype(int)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert border.min() == 255  # a mark on the outermost line would go on outside


def test_without_a_korean_font_plots_are_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "hangul_font_file", lambda bold=False: None)
    assert plots.display_names(KOREAN, "ko")[3] == "happy"
    assert fonts.plot_families() == ["DejaVu Sans"]


def test_with_a_korean_font_they_are_in_korean() -> None:
    if fonts.hangul_font_file() is None:
        pytest.skip("no font with Hangul on this machine")
    assert plots.display_names(KOREAN, "ko")[3] == "기쁨"


def test_nothing_global_is_changed() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.plot_confusion(KOREAN, "ko")
    assert dict(matplotlib.rcParams) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FerkitError, match="choose another place"):
        write_report(KOREAN, tmp_path / "file" / "report")
