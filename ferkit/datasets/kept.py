"""Arrays that take long to make: made once, kept in a file, and made anew if that is gone or damaged."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ferkit.core.files import write_atomically

Arrays = Mapping[str, np.ndarray]


def kept(
    file: Path | None, make: Callable[[], Arrays], fits: Callable[[Arrays], bool]
) -> tuple[Arrays, bool]:
    """What ``file`` holds, or else what ``make`` gives, which is then written there.

    Args:
        file: ``.npz``; its name says what the arrays depend on. None keeps nothing.
        make: makes the arrays.
        fits: whether arrays that were read are what they should be.

    Returns:
        The arrays, and whether they were there.

    Raises:
        FerkitError: the file cannot be written.
    """
    if file is not None:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            if fits(arrays):
                return arrays, True
        except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile):
            pass  # it is not there, or cannot be read: it is made anew
    made = make()
    if file is not None:
        content = io.BytesIO()
        np.savez(content, **made)  # type: ignore[arg-type]
        write_atomically(file, lambda out: out.write(content.getbuffer()))
    return made, False
