"""Fonts for plots."""

import functools
from pathlib import Path

_PREFERRED = (
    "NanumGothic",
    "NanumBarunGothic",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "Malgun Gothic",
    "Apple SD Gothic Neo",
    "Pretendard",
    "NanumSquare",
    "UnDotum",
    "Baekmuk Dotum",
    "Noto Sans CJK JP",
)


@functools.cache
def hangul_font() -> Path | None:
    """The file of a font with Hangul that Matplotlib can use; None if this machine has none."""
    from matplotlib import font_manager

    # Matplotlib remembers the fonts of its first start: look at the folders again for those installed since.
    known = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    if not any(name in known for name in _PREFERRED):
        for path in font_manager.findSystemFonts():
            if any(name.replace(" ", "").lower() in Path(path).stem.lower() for name in _PREFERRED):
                font_manager.fontManager.addfont(path)
        known = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    return next(
        (Path(known[name]) for name in _PREFERRED if name in known and Path(known[name]).is_file()), None
    )


def can_draw(texts: tuple[str, ...]) -> bool:
    """Whether plots can show ``texts``: Matplotlib's own font has no Hangul."""
    return (
        not any("\u1100" <= sign <= "\ud7a3" for text in texts for sign in text) or hangul_font() is not None
    )


def families() -> list[str]:
    """Font families for plots, the Latin one first."""
    from matplotlib import font_manager

    font = hangul_font()
    return ["DejaVu Sans"] + ([] if font is None else [font_manager.FontProperties(fname=font).get_name()])
