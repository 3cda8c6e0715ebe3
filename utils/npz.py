"""Arrays in .npz files: no pickles, written whole or not at all, a CRC-32 on every array."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from utils import paths
from utils.errors import UserError


def save(path: str | Path, **arrays: Any) -> None:
    """Write named arrays (or numbers and strings) to path."""
    with paths.replacing(path) as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


def load(path: str | Path, names: Iterable[str], remedy: str) -> list[np.ndarray]:
    """Read the named arrays from path: a list in the order of names.

    Raises UserError, with the file and the remedy, if it does not exist, is corrupt or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {remedy}") from None
    except Exception as error:  # zipfile and NumPy may raise any on a damaged file
        raise UserError(f"{path} is corrupt or of another kind ({type(error).__name__}: {error}); {remedy}") from None
