import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ferkit.core import style
from ferkit.core.labels import LabelSet
from ferkit.faces.drawing import (
    TextPainter,
    draw_boxes,
    draw_caption,
    enlarged,
    ink_on,
    label_colors,
    shared_area,
)


@pytest.fixture
def painter() -> TextPainter:
    font = style.open_font(["happy"], 16)
    assert font is not None
    return TextPainter(font)


def canvas() -> np.ndarray:
    return np.zeros((120, 200, 3), np.uint8)


def test_text_has_the_color_asked_for_and_stays_in_its_box(painter: TextPainter) -> None:
    rgb = canvas()
    painter.draw(rgb, "happy", (20, 30), (255, 0, 0))
    ys, xs = np.nonzero(rgb[..., 0])
    assert rgb[..., 0].max() > 200
    assert not rgb[..., 1:].any()
    assert xs.min() >= 20
    assert xs.max() < 20 + painter.width("happy")
    assert ys.min() >= 30
    assert ys.max() < 30 + painter.height


@pytest.mark.parametrize("xy", [(-10, 10), (190, 10), (20, -6), (20, 115), (500, 500), (-400, 0)])
def test_text_over_the_border_is_cut_off(painter: TextPainter, xy: tuple[int, int]) -> None:
    inside, larger = canvas(), np.zeros((1400, 1400, 3), np.uint8)
    painter.draw(inside, "surprise", xy, (255, 255, 255))
    painter.draw(larger, "surprise", (xy[0] + 600, xy[1] + 600), (255, 255, 255))
    assert (inside == larger[600:720, 600:800]).all()


@pytest.mark.parametrize("box", [(0, 0, 199, 119), (-30, -20, 50, 40), (150, 80, 260, 170), (60, 40, 61, 41)])
def test_a_label_is_always_in_the_image(painter: TextPainter, box: tuple[int, ...]) -> None:
    rgb = canvas()
    draw_boxes(rgb, np.array([box], np.float32), ["fear 99%"], [(158, 104, 205)], painter)
    n_letters = int((rgb == 255).all(axis=2).sum())
    assert n_letters > 20


def test_small_crops_are_enlarged_until_a_caption_fits(painter: TextPainter) -> None:
    rgb, factor = enlarged(np.full((48, 48, 3), 90, np.uint8))
    assert (rgb.shape, factor) == ((240, 240, 3), 5)
    draw_caption(rgb, "sad 51%", (72, 134, 220), painter)
    assert (rgb[0] == 90).all()
    assert (rgb[-1] == (72, 134, 220)).all()


def test_colors_follow_the_meaning_and_ink_can_be_read() -> None:
    korean, english = label_colors(LabelSet(("기쁨", "x"))), label_colors(LabelSet(("y", "happiness")))
    assert korean[0] == english[1]
    for color in label_colors(LabelSet.named("ferplus")):
        assert abs(np.mean(color) - np.mean(ink_on(color))) > 60


@given(st.lists(st.sampled_from(["happy", "행복", "negative", "teasing", *"abcdefghijklmnopq"]), unique=True))
def test_no_two_classes_have_one_color(names: list[str]) -> None:
    colors = label_colors(LabelSet((*names, *(f"class {i}" for i in range(40)))))
    assert len(set(colors)) == len(colors)


def test_hangul_is_drawn_when_a_font_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if style.hangul_font_file() is None:
        pytest.skip("no font with Hangul on this machine (Debian: fonts-nanum)")
    font = style.open_font(["기쁨"], 20)
    assert font is not None
    painter = TextPainter(font)
    first, second = canvas(), canvas()
    painter.draw(first, "기쁨", (0, 0), (255, 255, 255))
    painter.draw(second, "슬픔", (0, 0), (255, 255, 255))
    assert (first != second).any()  # not the box for a missing letter, twice
    monkeypatch.setattr(style, "hangul_font_file", lambda bold=False: None)
    assert style.open_font(["기쁨"], 20) is None
    assert style.open_font(["happy"], 20) is not None


@given(
    boxes=st.lists(
        st.tuples(*[st.integers(0, 600)] * 2, *[st.integers(10, 200)] * 2), min_size=1, max_size=12
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_labels_never_lie_over_each_other(boxes: list[tuple[int, int, int, int]]) -> None:
    font = style.open_font(["happy"], 14)
    assert font is not None
    painter, written = TextPainter(font), []

    def note(rgb: np.ndarray, text: str, xy: tuple[int, int], color: object) -> None:
        written.append((*xy, xy[0] + painter.width(text), xy[1] + painter.height))

    painter.draw = note  # type: ignore[assignment,method-assign]
    xyxy = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], np.float32)
    bars = (500, 0, 640, 150)
    n = len(boxes)
    draw_boxes(
        np.zeros((360, 640, 3), np.uint8), xyxy, ["surprise 100%"] * n, [(9, 9, 9)] * n, painter, [bars]
    )
    everything = np.array([*written, bars])
    for i, label in enumerate(everything):
        assert not shared_area(label[None], np.delete(everything, i, axis=0)).any()
    assert (everything >= 0).all()
    assert (everything <= (640, 360, 640, 360)).all()
