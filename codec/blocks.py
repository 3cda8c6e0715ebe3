"""Where the blocks of an image are. The rest of the image is coded by conventional methods."""

import numpy as np

from codec import conventional
from utils.images import Picture


def regions(width: int, height: int, side: int, blocks: int) -> list[tuple[slice, slice]]:
    """What is left of an image without its first `blocks` blocks of side x side pixels in raster order.

    Returns the rectangles that are not empty, as pairs of slices (rows, columns): right of the rows of blocks, right
    of the last block where that row is not full, and everything below.
    """
    if not blocks:
        return [(slice(0, height), slice(0, width))]
    across = width // side
    rows, rest = divmod(blocks, across)
    lower, bottom = side * rows, side * (rows + (rest > 0))
    found = [
        (slice(0, lower), slice(side * across, width)),
        (slice(lower, bottom), slice(side * rest, width)),
        (slice(bottom, height), slice(0, width)),
    ]
    return [(y, x) for y, x in found if y.start < y.stop and x.start < x.stop]


def count(width: int, height: int, side: int) -> int:
    """How many blocks fit into an image."""
    return (width // side) * (height // side)


def view(pixels: np.ndarray, side: int, k: int) -> np.ndarray:
    """A view of block k of pixels [H, W, C], in raster order: [side, side, C]."""
    y, x = divmod(k, pixels.shape[1] // side)
    return pixels[side * y : side * (y + 1), side * x : side * (x + 1)]


def fit(picture: Picture, channels: int, side: int) -> bool:
    """Whether a picture has blocks for a model of so many channels."""
    return picture.mode != "P" and picture.pixels.shape[2] == channels and count(*picture.size, side) > 0


def encode_rest(picture: Picture, side: int = 0, blocks: int = 0) -> tuple[tuple[tuple[int, int], ...], bytes]:
    """Code everything but the blocks, a palette first.

    Returns (index into conventional.METHODS, bytes) of each part, and the bytes of all.
    """
    parts = [picture.pixels[region] for region in regions(*picture.size, side, blocks)]
    if picture.mode == "P":
        parts.insert(0, np.frombuffer(picture.palette, np.uint8).reshape(1, -1, 3))
    coded = [conventional.encode_part(part) for part in parts]
    return tuple((method, len(data)) for method, data in coded), b"".join(data for _, data in coded)
