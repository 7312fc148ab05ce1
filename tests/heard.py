"""What ferkit logs while a block runs."""

import contextlib
import logging
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def heard(tell: Callable[[str], object] | None = None) -> Iterator[list[str]]:
    """The lines that are logged within the block; ``tell`` is called with each."""
    said: list[str] = []
    logger = logging.getLogger("ferkit")

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            if tell is not None:
                tell(said[-1])

    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
