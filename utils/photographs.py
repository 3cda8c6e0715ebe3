"""The photographs of the full-resolution experiment: choosing them, and cutting them into blocks.

A photograph is cropped so that both sides are multiples of 32 pixels: rows at the bottom and columns on the right are
left out. Its 32x32 blocks, row by row of blocks from the left to the right, are the images of one chain.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import datasets, paths
from utils.cli import UserError
from utils.images import WEBP_SIDE  # one of the compressors to compare with

BLOCK = datasets.PATCH  # pixels a side
COUNT = 100  # the paper's experiment


class Photograph(NamedTuple):
    """A photograph, cropped."""

    name: str  # its path in the folder
    pixels: np.ndarray  # uint8 [H, W, 3], H and W multiples of BLOCK


def choose(folder: str | Path, count: int | None, seed: int) -> list[Photograph]:
    """Draw photographs from a folder and its sub-folders, none twice.

    count: how many; None stands for COUNT, or all there are, with a note where that is fewer. Files that are of no
    use (see datasets.decode()) are named and passed over, in favour of the next one drawn. Only files that are drawn
    are opened.
    Returns the Photographs, those with most blocks first: all at once in memory, as bytes.
    Raises UserError where there are not enough.
    """
    folder = Path(folder)
    try:
        names = sorted(paths.list_files(folder) if folder.exists() else [], key=os.fsencode)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
    names = [name for name in names if (folder / name).is_file()]
    if not names:
        raise UserError(f"there are no photographs in {folder}; put some there (JPEG or PNG, in sub-folders or not)")
    chosen = []
    # Drawing all is drawing the first `count`, and then more in case some of these are of no use.
    for i in datasets.sample_chains(len(names), 1, len(names), seed)[0]:
        pixels = _read(folder / names[i])
        name = os.fsencode(names[i]).decode(errors="replace")  # one that can be printed
        if isinstance(pixels, str):
            print(f"skipped {name}: {pixels}")
            continue
        chosen.append(Photograph(name, pixels))
        if len(chosen) == (count or COUNT):
            break
    if not chosen or len(chosen) < (count or 1):
        raise UserError(f"{folder} holds {len(chosen)} photographs that are of use, not {count or 'one'}")
    if len(chosen) < (count or COUNT):
        print(f"Note: there are {len(chosen)} photographs: using all of them")
    return sorted(chosen, key=lambda photograph: -photograph.pixels.size)


def _read(path):
    """The pixels of a photograph, cropped, or a string that says why it is of no use."""
    pixels = datasets.decode(path)
    if isinstance(pixels, str):
        return pixels
    pixels = crop(pixels)
    return pixels if max(pixels.shape) <= WEBP_SIDE else f"over {WEBP_SIDE} pixels a side, which WebP cannot hold"


def crop(pixels: np.ndarray) -> np.ndarray:
    """Leave out the rows at the bottom and the columns on the right beyond the last multiple of BLOCK; a copy."""
    height, width = (side // BLOCK * BLOCK for side in pixels.shape[:2])
    return pixels[:height, :width].copy()


def to_blocks(pixels: np.ndarray) -> np.ndarray:
    """The blocks of a cropped photograph, as the models take them: uint8 [H, W, 3] -> [N, 3, BLOCK, BLOCK]."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, channels, BLOCK, BLOCK)


def digest(photographs: Iterable[Photograph]) -> str:
    """A digest of all pixels: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for photograph in photographs:
        total.update(f"{photograph.pixels.shape}\n".encode())
        total.update(photograph.pixels.data)
    return total.hexdigest()[:16]
