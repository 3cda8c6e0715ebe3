"""The context codec: images coded pixel by pixel with the context network (model.context).

An image is cut into strips of rows. Each strip has a lane and, if they adapt, weights of its own, and sees nothing of
the other strips. So strips can be coded side by side on threads, and the bytes are the same for any number of threads.

push() and pop() code one strip on a coder of one lane. They are exact inverses, so a small image can also be pushed on
top of another one: a chain. Both run through the pixels in raster order, in the same compiled loop. push() keeps all
intervals and puts them on the lane at the end, the last one first.
"""

import concurrent.futures
import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from codec.bitsback import Progress
from codec.header import MAX_STRIPS
from codec.rans import Rans, pop_symbol, push_intervals, top
from model.context import adaptation, features, least_squares, mixture, network
from model.context.features import PAD, PERIOD, block_position
from model.context.weights import Weights
from utils.compiled import compiled, processors

_ROWS = 64  # of a strip, at least
_PIXELS = 120_000  # of a strip, at least, up to _FEW strips
_FEW = 8
_MEMORY = 1 << 21  # pixels of a strip, at most: encoding needs some 40 bytes a pixel
_WIDTH = 1 << 16  # pixels of a row, at most: least squares need 560 bytes a column
_BANDS, _BAND, _BAND_WIDTH = 4, PERIOD, 512  # of a sample
_BATCH = 1 << 14  # pixels, about, between two steps of the progress
_LEAST_BITS = 0.99 * mixture.LEAST_BITS  # a grey level costs at least this; 1 % is room for the rounding of rANS
_EMPTY = np.array([0, 1], np.uint32)  # the words of an empty lane

Advance = Callable[[], Any]  # called before each batch of rows


class Coding(NamedTuple):
    """How an image is coded, apart from the weights: what the header of a file says."""

    strips: int
    grid: int  # what the network knows of a pixel's position: see features.block_position()
    adapting: bool


def empty_lane() -> Rans:
    """A coder with one empty lane."""
    return Rans.from_words([_EMPTY])


def push(
    coder: Rans, pixels: np.ndarray, weights: Weights, coding: Coding, first_row: int = 0, advance: Advance = bool
) -> np.ndarray:
    """Push a strip of pixels, or a whole image, onto the one lane of a coder.

    pixels: uint8 [H, W, C], C = 3 (RGB) or 1. first_row: the strip's first row within the image.
    Returns the frequencies of the grey levels, uint32 [H, W, C], in units of 2^-PRECISION.
    """
    intervals = _code_strip(empty_lane(), pixels, weights, coding, first_row, advance, decoding=False)
    coder.reserve(pixels.size)
    push_intervals(coder.heads, coder.words, coder.counts, *intervals.reshape(2, 1, -1))
    return intervals[1]


def pop(
    coder: Rans, shape: tuple[int, ...], weights: Weights, coding: Coding, first_row: int = 0, advance: Advance = bool
) -> np.ndarray:
    """Undo push(): uint8 [H, W, C] of that shape. Raises ValueError if the lane ends before the pixels do."""
    pixels = np.empty(shape, np.uint8)
    _code_strip(coder, pixels, weights, coding, first_row, advance, decoding=True)
    return pixels


def code_lengths(pixels: np.ndarray, weights: Weights, coding: Coding) -> np.ndarray:
    """What each grey level of an image costs, in bits: float64 [H, W, C], -log2 of the probabilities in encode()."""
    strips = cut_rows(len(pixels), coding.strips)
    return np.concatenate([_bits(push(empty_lane(), pixels[a:b], weights, coding, a)) for a, b in strips])


def encode(
    pixels: np.ndarray, weights: Weights, coding: Coding, progress: Progress = iter, threads: int | None = None
) -> list[np.ndarray]:
    """Code an image: each strip's words, a list of uint32 arrays.

    pixels: uint8 [H, W, C], C = 3 (RGB) or 1. progress: wraps the steps. threads: one a processor by default; the words
    are the same for any number.
    """
    strips = cut_rows(len(pixels), coding.strips)

    def encode_strip(i, advance):
        coder = empty_lane()
        push(coder, pixels[slice(*strips[i])], weights, coding, strips[i][0], advance)
        return coder.to_words()[0]

    return _each_strip(encode_strip, strips, pixels.shape[1], progress, threads)


def decode(
    words: Sequence[np.ndarray], shape: tuple[int, int, int], weights: Weights, coding: Coding,
    progress: Progress = iter, threads: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Undo encode(): uint8 [H, W, C] of that shape.

    Raises ValueError if the words are not what encode() returns for such an image.
    """
    height, width, channels = shape
    strips = cut_rows(height, coding.strips)
    for (start, end), lane in zip(strips, words, strict=True):  # before memory is used for pixels
        if 32 * len(lane) < _LEAST_BITS * (end - start) * width * channels:
            raise ValueError("a strip has fewer words than its pixels require")
        if (end - start) * width > _MEMORY or width > _WIDTH:
            raise ValueError("a strip has more pixels than the encoder allows")
    pixels = np.empty(shape, np.uint8)

    def decode_strip(i, advance):
        (start, end), coder = strips[i], Rans.from_words([words[i]])
        pixels[start:end] = pop(coder, (end - start, width, channels), weights, coding, start, advance)
        _check_empty(coder)

    _each_strip(decode_strip, strips, width, progress, threads)
    return pixels


def encode_chain(images: np.ndarray, weights: Weights, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code small images on top of each other; the network sees each one alone: (words, bits, costs).

    images: uint8 [N, H, W, C]. words: uint32, the last two of them the head. bits: int64 [N], what each image added
    to the stack. costs: float64 [N], the sum of the code_lengths() of each image.
    """
    coder, coding, counts, costs = empty_lane(), Coding(1, grid, False), [0], []
    for image in images:
        costs.append(_bits(push(coder, image, weights, coding)).sum())
        counts.append(coder.counts[0])
    return coder.to_words()[0], 32 * np.diff(counts), np.array(costs)


def decode_chain(words: np.ndarray, shape: tuple[int, ...], weights: Weights, grid: int) -> np.ndarray:
    """Undo encode_chain(): uint8 [N, H, W, C] of that shape. Raises ValueError if the words hold no such images."""
    coder, coding, images = Rans.from_words([words]), Coding(1, grid, False), np.empty(shape, np.uint8)
    for image in images[::-1]:
        image[:] = pop(coder, image.shape, weights, coding)
    _check_empty(coder)
    return images


def choose_strips(height: int, width: int) -> int | None:
    """The number of strips for an image of this size, or None if the codec cannot code it."""
    wanted = max(1, min(_FEW, height * width // _PIXELS, height // _ROWS))
    count = 1 << wanted.bit_length() - 1  # a power of two, which suits most numbers of processors
    count = max(count, -(-height // max(1, _MEMORY // width)))
    return count if count <= min(height, MAX_STRIPS) and width <= _WIDTH else None


def choose_coding(pixels: np.ndarray, weights: Weights, strips: int, adapting: bool) -> Coding:
    """How to code an image, judged by a sample of its rows. adapting: whether it may adapt.

    A sample is too short to judge adaptation, which learns as it goes on. Only an image so small that it is its own
    sample may do without.
    """
    whole = pixels[..., 0].size <= _BANDS * _BAND * _BAND_WIDTH
    sample = pixels if whole else pixels[:, :_BAND_WIDTH]
    if not whole and len(pixels) > _BANDS * _BAND:
        tops = np.linspace(0, len(pixels) - _BAND, _BANDS).astype(int) // PERIOD * PERIOD  # blocks stay in place
        sample = np.concatenate([sample[row : row + _BAND] for row in tops])

    def cost(coding):
        return code_lengths(sample, weights, coding).sum()

    best = min((Coding(1, grid, False) for grid in range(2)), key=cost)
    if adapting:
        adapted = best._replace(adapting=True)
        best = min(best, adapted, key=cost) if whole else adapted
    return best._replace(strips=strips)


def cut_rows(height: int, strips: int) -> list[tuple[int, int]]:
    """The rows of each strip: where they start and end."""
    return list(itertools.pairwise(height * i // strips for i in range(strips + 1)))


def _each_strip(code_strip, strips, width, progress, threads):
    """[code_strip(i, advance) for each strip], on threads. An error or Ctrl-C ends all strips at their next batch."""
    steps = iter(progress(range(sum(len(_batches(end - start, width)) for start, end in strips))))
    lock, stopped = threading.Lock(), threading.Event()

    def advance():
        if stopped.is_set():
            raise concurrent.futures.CancelledError
        with lock:
            next(steps)

    with concurrent.futures.ThreadPoolExecutor(threads or processors()) as pool:
        tasks = [pool.submit(code_strip, i, advance) for i in range(len(strips))]
        try:
            for task in concurrent.futures.as_completed(tasks):
                task.result()  # raises the error of the task that failed first
        except BaseException:
            stopped.set()
            raise
    next(steps, None)  # a progress bar ends after its last step
    return [task.result() for task in tasks]


def _batches(height, width):
    """The first row of each batch of rows: a range."""
    return range(0, height, max(1, _BATCH // width))


def _bits(frequencies):
    return mixture.PRECISION - np.log2(frequencies)


def _check_empty(coder):
    if not np.array_equal(coder.to_words()[0], _EMPTY):
        raise ValueError("the words go on after the last pixel")


def _code_strip(coder, pixels, weights, coding, first_row, advance, decoding):
    """Find the intervals of pixels, uint32 [2, H, W, C], start and frequency; or decode: pop the lane, fill pixels."""
    height, width, channels = pixels.shape
    planes = features.make_planes(height, width, None if decoding else pixels)
    intervals = np.empty((2, 0 if decoding else height, width, channels), np.uint32)
    parts = adaptation.start_adaptation(weights), network.make_scratch(), least_squares.start(planes)
    state = planes, *parts, intervals
    lane, batches = (coder.heads, coder.words, coder.counts), _batches(height, width)
    for first in batches:
        advance()
        rows = first, min(first + batches.step, height)
        if not _code_rows(*rows, first_row, channels, coding.grid, coding.adapting, decoding, *state, *lane):
            raise ValueError("the words end before the last pixel")
    if decoding:
        pixels[:] = features.pixels_of(planes, channels)
    return intervals


@functools.partial(compiled, _nrt=False)  # counts no references to arrays, which takes longer than the heads
def _code_rows(
    first, last, offset, channels, grid, adapting, decoding, planes, adapted, s, ls, intervals, heads, words, counts
):  # fmt: skip
    """Code rows first..last of a strip whose first row is the image's row `offset`; False if the words run out."""
    weights, width = adapted.weights, planes.shape[2] - 2 * PAD
    for y in range(first, last):
        row, block_row = PAD + y, block_position(offset + y, grid)
        features.pad_left(planes, row)
        least_squares.begin_row(row, ls)
        known, ahead = 0, 0  # the trunk has run for `ahead` pixels from `known` on
        for x in range(width):
            column = PAD + x
            if x == known + ahead:  # no step of Adam comes between the pixels of a block
                ahead = 1 if decoding else min(network.BLOCK, width - x, adaptation.EVERY - adapted.pixels[0])
                for i in range(ahead):
                    least_squares.begin_pixel(planes, row, column + i, s.missed[i], ls)
                    if not decoding:
                        for c in range(3):
                            s.least[i, c] = least_squares.predict(planes, row, column + i, c, ls)
                        least_squares.end_pixel(planes, row, column + i, ls)
                network.run_trunk(planes, row, column, ahead, block_row, grid, weights, s)
                known = x
            i = x - known
            for c in range(channels):
                if decoding:
                    s.least[0, c] = least_squares.predict(planes, row, column, c, ls)
                mixture.fill_mixture(i, c, network.run_head(i, c, weights, s), s)
                if decoding:
                    value, start, end = mixture.find_level(top(heads, 0), s)
                    if not pop_symbol(heads, words, counts, 0, start, end - start):
                        return False
                    planes[c, row, column] = value
                else:
                    value = np.int64(planes[c, row, column])
                    start = mixture.cumulative_frequency(value, s)
                    intervals[0, y, x, c] = start
                    intervals[1, y, x, c] = mixture.cumulative_frequency(value + 1, s) - start
                if adapting:
                    adaptation.add_colour_gradient(c, value, s.spread[i], s, adapted)
                network.note_colour(i, c, value, s)
            for c in range(channels, 3):  # a grey pixel fills all three planes
                planes[c, row, column] = planes[0, row, column]
                if decoding:
                    least_squares.predict(planes, row, column, c, ls)
            if decoding:
                least_squares.end_pixel(planes, row, column, ls)
            if adapting:
                adaptation.adapt_after_pixel(i, s, adapted)
        features.pad_right(planes, row)
    return True
