"""One colour an expression, the same in every picture, overlay and plot."""

from ferkit.core.labels import LabelSet, meaning_of

RGB = tuple[int, int, int]

UNSURE: RGB = (170, 170, 170)

_BY_MEANING: dict[str, RGB] = {
    "angry": (226, 74, 66),
    "contempt": (178, 117, 66),
    "disgust": (116, 166, 56),
    "fear": (158, 104, 205),
    "happy": (250, 196, 44),
    "neutral": (148, 172, 186),
    "sad": (72, 134, 220),
    "surprise": (246, 137, 48),
    "embarrassed": (240, 126, 168),
    "anxious": (176, 126, 222),
    "uneasy": (206, 128, 200),
    "hurt": (92, 110, 190),
    "distressed": (96, 120, 200),
    "positive": (90, 190, 100),
    "negative": (214, 84, 90),
    "teasing": (214, 84, 90),
    "non-teasing": (90, 190, 100),
}

_OTHERS: tuple[RGB, ...] = (
    (78, 178, 180), (214, 126, 92), (140, 186, 86), (196, 112, 196), (104, 148, 214), (222, 178, 76),
)  # fmt: skip


def label_colors(labels: LabelSet) -> tuple[RGB, ...]:
    """A colour for each class: by its meaning where that is known."""
    return tuple(
        _BY_MEANING.get(meaning_of(name), _OTHERS[i % len(_OTHERS)]) for i, name in enumerate(labels.names)
    )


def ink_on(background: RGB) -> RGB:
    """Black or white, whichever can be read on ``background`` (relative luminance of ITU-R BT.709)."""
    luminance = 0.2126 * background[0] + 0.7152 * background[1] + 0.0722 * background[2]
    return (20, 20, 20) if luminance > 135 else (255, 255, 255)
