"""Tables as CSV files."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils import paths


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write rows below a header in UTF-8, a whole file or none; returns the path. Raises UserError if that fails."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with paths.replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
    return Path(path)
