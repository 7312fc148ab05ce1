"""Colours and fonts of images, plots, reports and pages.

Latin letters are drawn with the fonts of Pillow and Matplotlib, Hangul with the system's. Style sheets repeat the
colours, and a test compares. Series differ in lightness, so that they can be told apart in gray, and in hue as people
with red-green blindness see it (after Okabe and Ito, 2002).
"""

import functools
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

from ferkit.core.errors import DependencyError, require_extra
from ferkit.core.labels import LabelSet
from ferkit.core.texts import has_hangul, translated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

ACCENT = "#0b6e69"
"""Links, buttons and the logo."""
INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
SERIES = ("#2f6db3", "#d9822b", "#3b8f5a", "#a4479b", "#c23b3b", "#1b8a96", "#8a6a1f", "#6b7280")
"""For things that are told apart by colour, in this order."""
BLUE, ORANGE, GREEN = SERIES[:3]

HINT = (
    "no font with Hangul was found, so labels are drawn in English; install one (Debian and Ubuntu: "
    "apt-get install fonts-nanum; Fedora: dnf install google-noto-sans-cjk-fonts)"
)

_PREFERRED = (
    "nanumgothic.", "nanumbarungothic.", "notosanskr", "notosanscjk", "malgun.", "applesdgothicneo",
    "pretendard", "nanumsquare", "nanum", "notoserifcjk", "undotum", "baekmuk", "d2coding", "gulim", "batang",
    "unifont",
)  # fmt: skip
_SUFFIXES = (".ttf", ".otf", ".ttc")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def hangul_font_file(bold: bool = False) -> Path | None:
    """A font file on this machine that holds Hangul, a sans-serif one first; None if there is none.

    Args:
        bold: rather a bold one, which is easier to read over an image.
    """
    ranked = []
    for file in (file for folder in _font_folders() for file in _font_files(folder)):
        name = file.name.lower()
        plain = name.replace("bold", "").replace("-.", ".")
        rank = next((i for i, preferred in enumerate(_PREFERRED) if preferred in plain), None)
        if rank is not None:
            ranked.append((rank, ("bold" in name) != bold, name, file))
    return next((file for *_, file in sorted(ranked) if _draws_hangul(file)), None)


def can_draw(texts: Iterable[str]) -> bool:
    """Whether images and plots can show ``texts`` on this machine."""
    return not has_hangul(texts) or hangul_font_file() is not None


def drawable_names(labels: LabelSet, language: str) -> tuple[str, ...]:
    """What the classes are called in ``language``; where no font here can draw that, in Latin letters."""
    names = labels.display(language)
    return names if can_draw(names) else labels.in_latin()


def drawable_text(text: str) -> str:
    """What a plot says, in the language that is spoken; unchanged where no font here can draw that."""
    return translated(text, None if hangul_font_file() else "en")


@functools.cache
def can_plot(what: str) -> bool:
    """Whether plots can be drawn; if not, one sentence says once that ``what`` is left out."""
    try:
        require_extra("plots", "drawing plots")
    except DependencyError as error:
        logger.info("%s left out: %s", what, error)
        return False
    return True


def plot_families(texts: Iterable[str] = ()) -> list[str]:
    """Font families for Matplotlib to draw ``texts``; one that has Hangul draws their Latin letters too."""
    file = hangul_font_file()
    if file is None or not has_hangul(texts):
        return ["DejaVu Sans"]
    from matplotlib import font_manager

    name = font_manager.FontProperties(fname=file).get_name()
    if str(file) not in {font.fname for font in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(file)  # installed since Matplotlib first looked
    return [name, "DejaVu Sans"]


def set_fonts(figure: "Figure") -> None:
    """Set the fonts of all that is written in a figure, without a change to Matplotlib's global settings."""
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    families = plot_families([text.get_text() for text in texts])
    for text in texts:
        text.set_fontfamily(families)


def open_font(texts: Iterable[str], size: int) -> Font | None:
    """A font of ``size`` pixels that can draw ``texts``; None if they need Hangul and no font has it."""
    if has_hangul(texts):
        file = hangul_font_file(bold=True)
        return None if file is None else ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _font_folders() -> Iterator[Path]:
    home = Path.home()
    if sys.platform == "win32":  # pragma: no cover
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield home / "AppData/Local/Microsoft/Windows/Fonts"
    elif sys.platform == "darwin":  # pragma: no cover
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts")
    else:
        yield from (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
        yield from (home / ".local/share/fonts", home / ".fonts")


def _font_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names if name.lower().endswith(_SUFFIXES))


def _draws_hangul(file: Path) -> bool:
    try:
        font = ImageFont.truetype(str(file), 16)
    except OSError:
        return False
    # A font without a letter draws the same empty box for every one.
    return bytes(font.getmask("한")) != bytes(font.getmask("글"))
