"""Progress bars, which all scripts show on stderr."""

import sys
import time
from typing import Any

try:
    from tqdm import tqdm
except ModuleNotFoundError:  # cli.progress() shows nothing then
    tqdm = None

SECONDS = 30  # between the lines that stand for a bar where stderr is no terminal


class _Lines:
    """A file for bars, which passes on to stderr only one line every half minute."""

    shown = time.monotonic()  # when the last line was, of all bars

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip()
        if line and time.monotonic() - _Lines.shown >= SECONDS:
            _Lines.shown = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


def bar(*args: Any, **options: Any) -> "tqdm":
    """A bar of tqdm, with its arguments; where stderr is no terminal, a line every half minute."""
    if sys.stderr.isatty():
        return tqdm(*args, dynamic_ncols=True, **options)
    return tqdm(*args, file=_Lines(), **options)
