"""Where the bits of a coded image go: the bits of each pixel."""

import math

import numpy as np

from codec import blocks, context
from codec.header import Blocks, Coding, Context
from codec.models import SHIPPED, Models
from utils.images import Picture

_AT_ONCE = 64  # blocks


def bits_per_pixel(picture: Picture, coding: Coding, models: Models = SHIPPED) -> np.ndarray:
    """The bits that a picture's colours take: float [H, W].

    coding: how they were coded (codec.header). What the context network codes has a number of its own for each pixel;
    blocks of Bit-Swap and conventionally coded rectangles have their mean.
    """
    if isinstance(coding, Context):
        how = context.Coding(len(coding.words), coding.grid, coding.adapting)
        return context.code_lengths(picture.pixels, models.context(coding.identity).weights, how).sum(axis=2)
    side, count = (coding.side, coding.blocks) if isinstance(coding, Blocks) else (0, 0)
    bits = np.empty(picture.pixels.shape[:2])
    parts = coding.parts[picture.mode == "P" :]  # without the palette
    for place, (_, length) in zip(blocks.regions(*picture.size, side, count), parts, strict=True):
        bits[place] = 8 * length / math.prod(bits[place].shape)
    if isinstance(coding, Blocks):
        from codec import block_codec

        codec = models.bitswap(coding)
        for first in range(0, count, _AT_ONCE):
            places = range(first, min(first + _AT_ONCE, count))
            pixels = np.stack([np.moveaxis(blocks.view(picture.pixels, side, k), 2, 0) for k in places])
            words, _ = block_codec.trial(codec, pixels)
            for k, taken in zip(places, words, strict=True):
                blocks.view(bits[..., None], side, k)[:] = 32 * taken / side**2
    return bits
