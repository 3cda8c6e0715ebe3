"""Images coded pixel by pixel with the context network (model.context).

Whole images, and chains of small ones, take no latents and no initial bits; Pixels is the likelihood of small images
given latents. A long module, as all of these go through one compiled loop.

An image is cut into strips of rows, each a lane of its own: it has its own stack, its own copy of the weights where
they adapt, and sees nothing of the others. So strips can be coded side by side, on as many threads as there are, and
the bytes are the same for any number of threads.

Encoder and decoder run through a strip in raster order and in the very same compiled loop; all that differs is where
a grey level comes from. The encoder keeps the intervals and pushes them once it is through, the last one first.
"""

import concurrent.futures
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codec.bitsback import Progress
from codec.header import MAX_STRIPS
from codec.rans import Rans, pop_symbol, push_symbol, raise_if_empty, top
from model import context, context_adaptation, context_mixture
from model.context import PAD, PERIOD, SMALL_GRID, UNKNOWN, Weights
from model.context_adaptation import EVERY, Adaptation
from model.context_mixture import PRECISION, SYMBOLS, Mixture, cumulative
from utils import paths
from utils.compiled import compiled, processors
from utils.fixed_point import FRACTION

_ROWS = 64  # of a strip, at least
_PIXELS = 120_000  # of a strip, at least, up to _FEW strips
_FEW = 8
_MEMORY = 1 << 21  # pixels of a strip at most: its encoder takes some 40 bytes a pixel
_BANDS, _BAND, _BAND_WIDTH = 4, 2 * PERIOD, 512
_BATCH = 1 << 14  # pixels of a strip, about, that are coded between two looks at the progress
_LEAST_BITS = 0.99 * context_mixture.LEAST_BITS  # of a symbol, with room for how rANS rounds
_EMPTY = np.array([0, 1], np.uint32)  # the words of a lane on which nothing is
_NO_FEATURES = np.empty((0, 0, context.HIDDEN), np.float32)


class Coding(NamedTuple):
    """How an image is coded, beside the weights: what the header of a file says."""

    strips: int
    grid: int  # 1: the network is told where in its 16x16 block a pixel is; n: where in 16x16 cells of n pixels; 0: not
    adapting: bool


class ContextNetwork(NamedTuple):
    """A context network, ready to code, and what names it."""

    weights: Weights
    identity: str  # 16 hexadecimal digits


def open_network(
    path: Path | str | None = None,
    wanted: str | None = None,
    dataset: str = "imagenetcrop",
    output: Path | str = paths.ROOT,
) -> ContextNetwork:
    """The ContextNetwork at path, or the one at hand; wanted: its identity, where a file names it. Raises UserError."""
    return ContextNetwork(*context.find(dataset, wanted, path, output))


class _Strip(NamedTuple):
    """A strip in work: what the compiled loop reads and writes."""

    planes: np.ndarray
    intervals: np.ndarray  # uint32 [rows, columns, channels, 2]: start and freq; of the encoder
    features: np.ndarray  # float32 [rows, columns, HIDDEN]: what latents say of pixels; no rows without latents
    weights: Weights
    gradients: Weights
    adaptation: Adaptation
    scratch: context.Scratch
    mixture: Mixture
    seen: np.ndarray  # int64 [1]: pixels since the last step of the adaptation


def choose_strips(height: int, width: int) -> int | None:
    """Into how many strips an image is cut, or None where it is of no shape for that."""
    wanted = max(1, min(_FEW, height * width // _PIXELS, height // _ROWS))
    count = 1 << wanted.bit_length() - 1  # as many as threads go into
    count = max(count, -(-height // max(1, _MEMORY // width)))
    return count if count <= min(height, MAX_STRIPS) and width <= _MEMORY else None


def bounds(height: int, strips: int) -> list[int]:
    """The rows where strips begin, and where the last one ends: [strips + 1]."""
    return [height * i // strips for i in range(strips + 1)]


def encode(
    pixels: np.ndarray, weights: Weights, coding: Coding, progress: Progress = iter, threads: int | None = None
) -> list[np.ndarray]:
    """Code an image: each strip's words, a list of uint32 arrays.

    pixels: uint8 [H, W, C], C = 3 (RGB) or 1. weights: context.Weights. progress: wraps the steps. threads: by default
    as many as there are processors; the words are the same for any number.
    """
    ends, words = bounds(len(pixels), coding.strips), list[np.ndarray]()

    def begin(i):
        return _fill(pixels[ends[i] : ends[i + 1]], weights), Rans.from_words([_EMPTY])

    def finish(_, strip, coder):
        _push(strip, coder)
        words.extend(coder.to_words())

    _run(ends, pixels.shape[1:], coding, False, begin, finish, progress, threads)
    return words


def decode(
    words: Sequence[np.ndarray],
    shape: tuple[int, int, int],
    weights: Weights,
    coding: Coding,
    progress: Progress = iter,
    threads: int | None = None,
) -> np.ndarray:
    """Undo encode(): uint8 [H, W, C] of that shape.

    Raises ValueError where the words are not what encode() made of such an image.
    """
    height, width, channels = shape
    ends = bounds(height, coding.strips)
    for i, lane in enumerate(words):  # before any memory is taken for pixels
        if 32 * len(lane) < _LEAST_BITS * (ends[i + 1] - ends[i]) * width * channels:
            raise ValueError("a strip is shorter than its pixels can make it")
        if (ends[i + 1] - ends[i]) * width > _MEMORY:
            raise ValueError("a strip is larger than they are made")
    pixels = np.empty(shape, np.uint8)

    def begin(i):
        return _begin(ends[i + 1] - ends[i], width, channels, weights), Rans.from_words([words[i]])

    def finish(i, strip, coder):
        if not np.array_equal(coder.to_words()[0], _EMPTY):
            raise ValueError("something is left of a strip once all its pixels are decoded")
        context.take(strip.planes, pixels[ends[i] : ends[i + 1]])

    _run(ends, shape[1:], coding, True, begin, finish, progress, threads)
    return pixels


def encode_chain(images: np.ndarray, weights: Weights, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code images on top of each other, each for itself: (words, bits, costs).

    images: uint8 [N, H, W, C]. words: uint32, the last two of them the head. bits: int64 [N], which each image added
    to the stack. costs: float64 [N], bits, the sum of the logarithms of its frequencies.
    """
    coder, bits, costs = Rans.from_words([_EMPTY]), [], []
    for image in images:
        strip, before = _fill(image, weights), coder.counts[0]
        _code_image(strip, image.shape, grid, False, coder)
        _push(strip, coder)
        bits.append(32 * (coder.counts[0] - before))
        costs.append(_cost(strip))
    return coder.to_words()[0], np.array(bits), np.array(costs)


def decode_chain(words: np.ndarray, shape: tuple[int, ...], weights: Weights, grid: int) -> np.ndarray:
    """Undo encode_chain(): uint8 [N, H, W, C] of that shape. Raises ValueError where the words are not such images'."""
    coder, images = Rans.from_words([words]), np.empty(shape, np.uint8)
    for image in images[::-1]:
        height, width, channels = image.shape
        strip = _begin(height, width, channels, weights)
        if not _code_image(strip, image.shape, grid, True, coder):
            raise ValueError("the chain ends before its images do")
        context.take(strip.planes, image)
    if not np.array_equal(coder.to_words()[0], _EMPTY):
        raise ValueError("something is left of the chain once all its images are decoded")
    return images


def _code_image(strip, shape, grid, decoding, coder, lane=0):
    where = (0, shape[0], 0, shape[2], grid, False, decoding)
    return _code_rows(strip, context_mixture.table(), *where, *_stack(coder, lane))


def _stack(coder, lane):
    """One lane of a coder as compiled code takes it: views, until the coder makes room."""
    one = slice(lane, lane + 1)
    return coder.heads[one], coder.words[one], coder.counts[one]


class Pixels:
    """p(x|z_1) of small images, one a lane, by a context network that latents give features (bitsback.Distribution).

    features: int64 [lanes, HIDDEN, H, W] with FRACTION fraction bits, of each pixel what is added to the trunk's first
    layer. Symbols are grey levels, [lanes, C * H * W].
    """

    def __init__(self, weights: Weights, features: np.ndarray) -> None:
        self._weights = weights
        scaled = features.astype(np.float32) * np.float32(2.0**-FRACTION)  # rounded once; a power of two is exact
        self._features = np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))

    def push(self, coder: Rans, symbols: np.ndarray) -> None:
        """See bitsback.Distribution."""
        height, width = self._features.shape[1:3]
        images = symbols.astype(np.uint8).reshape(len(symbols), symbols.shape[1] // (height * width), height, width)
        coder.reserve(symbols.shape[1])

        def push(lane):
            image = images[lane].transpose(1, 2, 0)
            strip = _fill(image, self._weights)._replace(features=self._features[lane])
            _code_image(strip, image.shape, SMALL_GRID, False, coder, lane)
            _push_all(*_stack(coder, lane), strip.intervals.reshape(-1, 2))

        _each_lane(push, len(images))

    def pop(self, coder: Rans, lanes: int, dims: int) -> np.ndarray:
        """See bitsback.Distribution."""
        height, width = self._features.shape[1:3]
        channels = dims // (height * width)
        images = np.empty((lanes, height, width, channels), np.uint8)

        def pop(lane):
            strip = _begin(height, width, channels, self._weights)._replace(features=self._features[lane])
            if not _code_image(strip, images.shape[1:], SMALL_GRID, True, coder, lane):
                raise_if_empty(lane)
            context.take(strip.planes, images[lane])

        _each_lane(pop, lanes)
        return images.transpose(0, 3, 1, 2).reshape(lanes, dims).astype(np.int64)


def _each_lane(function, lanes):
    with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
        list(pool.map(function, range(lanes)))


def choose_grid(pixels: np.ndarray, weights: Weights) -> int:
    """Whether an image costs less where the network is told of blocks: judged by some bands of rows."""
    last = max(0, len(pixels) - _BAND)
    tops = np.linspace(0, last, _BANDS).astype(int) // PERIOD * PERIOD  # so that blocks stay where they are
    bands = [pixels[top : top + _BAND, :_BAND_WIDTH] for top in np.unique(tops)]
    return int(cost(bands, weights, Coding(1, 1, False)) < cost(bands, weights, Coding(1, 0, False)))


def cost(images: Sequence[np.ndarray], weights: Weights, coding: Coding) -> float:
    """What images take, in bits: the sum of the logarithms of the frequencies that encode() uses."""
    total = 0.0
    for image in images:
        ends = bounds(len(image), coding.strips)
        strips = [_fill(image[a:b], weights) for a, b in itertools.pairwise(ends)]

        def begin(i, strips=strips):
            return strips[i], Rans.from_words([_EMPTY])

        _run(ends, image.shape[1:], coding, False, begin, lambda *_: None)
        total += sum(map(_cost, strips))
    return total


def _begin(height: int, width: int, channels: int, weights: Weights) -> _Strip:
    adapted, gradients, adaptation = context_adaptation.begin(weights)
    return _Strip(
        context.planes_of(height, width), np.empty((0, width, channels, 2), np.uint32), _NO_FEATURES,
        adapted, gradients, adaptation, context.scratch(), context_mixture.mixture(), np.zeros(1, np.int64),
    )  # fmt: skip


def _fill(pixels: np.ndarray, weights: Weights) -> _Strip:
    """A strip for the encoder."""
    height, width, channels = pixels.shape
    strip = _begin(height, width, channels, weights)
    context.put(strip.planes, pixels)
    return strip._replace(intervals=np.empty((*pixels.shape, 2), np.uint32))


def _cost(strip: _Strip) -> float:
    """What the intervals of a strip take, in bits."""
    return (PRECISION - np.log2(strip.intervals[..., 1])).sum()


def _push(strip: _Strip, coder: Rans) -> None:
    """Push the intervals of a strip, the last one first."""
    coder.reserve(strip.intervals.size // 2)
    _push_all(coder.heads, coder.words, coder.counts, strip.intervals.reshape(-1, 2))


def _run(
    ends: list[int],
    shape: tuple[int, int],
    coding: Coding,
    decoding: bool,
    begin: Callable[[int], tuple[_Strip, Rans]],
    finish: Callable[[int, _Strip, Rans], None],
    progress: Progress = iter,
    threads: int | None = None,
) -> None:
    """Go through all strips, as many at a time as there are threads, some rows of each between two steps.

    shape: (width, channels). begin(i) gives a strip and its coder, finish(i, strip, coder) takes them back.
    """
    width, channels = shape
    threads = threads or processors()
    step = max(1, _BATCH // width)
    heights = [b - a for a, b in itertools.pairwise(ends)]
    groups = [range(i, min(i + threads, coding.strips)) for i in range(0, coding.strips, threads)]
    highest = {group: max(heights[i] for i in group) for group in groups}
    steps = [(group, first) for group in groups for first in range(0, highest[group], step)]
    table = context_mixture.table()
    opened: dict[int, tuple[_Strip, Rans]] = {}

    def advance(i: int, first: int) -> bool:
        strip, coder = opened[i]
        last = min(first + step, heights[i])
        where = (first, last, ends[i], channels, coding.grid, coding.adapting, decoding)
        return first >= last or _code_rows(strip, table, *where, coder.heads, coder.words, coder.counts)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for k in progress(range(len(steps))):
            group, first = steps[k]
            if first == 0:
                opened = {i: begin(i) for i in group}
            if not all(pool.map(advance, group, [first] * len(group))):
                raise ValueError("a strip ends before its pixels do")
            if first + step >= highest[group]:
                for i in group:
                    finish(i, *opened[i])


@compiled
def _code_rows(strip, table, first, last, offset, channels, grid, adapting, decoding, heads, words, counts):
    """Code rows first..last of a strip whose first row is the image's row `offset`; False where the words run out."""
    planes, s, m = strip.planes, strip.scratch, strip.mixture
    width = planes.shape[2] - 2 * PAD
    for y in range(first, last):
        row = PAD + y
        context.begin_row(planes, row)
        block_row = (offset + y) // grid % PERIOD if grid else UNKNOWN
        for x in range(width):
            column = PAD + x
            context.begin_pixel(planes, row, column)
            block_column = x // grid % PERIOD if grid else UNKNOWN
            if len(strip.features):
                s.given[:] = strip.features[y, x]
            spread = context.trunk(planes, row, column, block_row, block_column, strip.weights, s)
            for c in range(channels):
                point = context.head(c, strip.weights, s)
                context_mixture.describe(c, spread, point, s, m)
                if decoding:
                    value, start, end = _find(top(heads, 0), m, table)
                    if not pop_symbol(heads, words, counts, 0, start, end - start):
                        return False
                    planes[c, row, column] = value
                else:
                    value = np.int64(planes[c, row, column])
                    start, end = cumulative(value, m, table), cumulative(value + 1, m, table)
                    strip.intervals[y, x, c, 0] = start
                    strip.intervals[y, x, c, 1] = end - start
                if adapting:
                    context_adaptation.learn(c, value, spread, s, m, table, strip.gradients, strip.adaptation)
                context.see(c, value, spread, s)
            if channels == 1:
                for c in range(1, 3):
                    planes[c, row, column] = planes[0, row, column]
            if adapting:
                context_adaptation.learn_inputs(s, strip.gradients, strip.adaptation)
                strip.seen[0] += 1
                if strip.seen[0] == EVERY:
                    strip.seen[0] = 0
                    context_adaptation.step(EVERY, strip.weights, strip.adaptation)
        context.end_row(planes, row)
    return True


@compiled
def _find(frequency, m, table):
    """The grey level whose interval holds a cumulative frequency: (it, start, end)."""
    low, high = 0, SYMBOLS
    start, end = 0, 1 << PRECISION
    while high - low > 1:
        middle = (low + high) // 2
        value = cumulative(middle, m, table)
        if value <= frequency:
            low, start = middle, value
        else:
            high, end = middle, value
    return low, start, end


@compiled
def _push_all(heads, words, counts, intervals):
    for i in range(len(intervals) - 1, -1, -1):
        push_symbol(heads, words, counts, 0, np.int64(intervals[i, 0]), np.int64(intervals[i, 1]))
