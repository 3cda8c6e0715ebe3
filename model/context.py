"""The context network of the autoregressive likelihood: what it sees of a photograph, its weights, its arithmetic.

A pixel's colours, in the order green, red, blue, are coded given the pixels above and to the left. From 36 of those a
small ReLU network (about 22,000 multiplications) computes, for each colour, a mixture of logistics. Encoder and decoder
must find the same parameters to the bit, on any machine: hence everything here is float32 with only + - * /, in an
order that is written down, compiled without leave to change it (no fused multiply-adds, no reassociation), and with a
logarithm of its own. There is no PyTorch in this module; model.context_training has the same network in PyTorch, fed
by the same compiled features.

All pixels a network may look at lie in planes, uint8 [3, PAD + H, W + 2 PAD], green, red, blue, with PAD more rows
above and PAD more columns on either side; see Planes below for what stands there.

A long module, as features, weights and arithmetic are one format: none can change without the others.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import npz, paths
from utils.compiled import compiled
from utils.errors import UserError

NAME = "context.npz"

PAD = 4
GREY = 128  # what stands for the pixels before the first
ORDER = (1, 0, 2)  # of the channels of an RGB image


def _nearest(count: int) -> list[tuple[int, int]]:
    causal = [(y, x) for y in range(-PAD, 1) for x in range(-PAD, PAD + 1) if y < 0 or x < 0]
    return sorted(causal, key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, -offset[0], abs(offset[1]), offset[1]))[
        :count
    ]


NEIGHBOURS = np.array(_nearest(36))  # int64 [36, 2], offsets (row, column)
NEAR = 36
ERRORS = 3 * NEAR + 1  # where the inputs that describe local errors begin
MEDS = ERRORS + 5
INPUTS = MEDS + 3
PERIOD = 16  # of the blocks of JPEG images, chrominance included
UNKNOWN = PERIOD  # the position of a pixel within a block, where there are no blocks
SMALL_GRID = 2  # pixels of a cell of the images that are small: their position is the one in the image
FEATURES = INPUTS + 2 * (PERIOD + 1)  # in training the position follows the inputs, as two one-hot vectors

HIDDEN = 64
WIDTH = 72  # of a row of weights: HIDDEN and the 3 outputs of the linear part, or the 3 heads' hidden units
HEAD = 24  # hidden units of a head
K = 5  # components of the mixture
MEANS, SCALES, COEFFICIENTS = K, 2 * K, 3 * K  # where a head's outputs begin, after K logits
OUTPUTS = 24  # of a head; 3 K + 2 are in use

LEAST_SPREAD = np.float32(0.6)
CUT = np.float32(12)
_THIRD = np.float32(1 / 3)
_TWO, _QUARTER = np.float32(2), np.float32(0.25)
_NEXT, _DIAGONAL = np.float32(0.24), np.float32(0.13)  # weights in a local error
_TENTH = np.float32(0.1)
SCALE_LIMIT = 8.0  # of the logarithm of a scale over the spread, either side
_LIMIT = np.float32(1e3)  # of a weight: with inputs of some 12 at most, and 2^11 given, no sum overflows


class Weights(NamedTuple):
    """The network's weights, float32. Rows that a network does not use are zero.

    A row of `first` and `head_in` holds what an input contributes to every output, side by side.
    """

    first: np.ndarray  # [INPUTS, WIDTH]: to the hidden units, and to the linear prediction of the 3 colours
    first_bias: np.ndarray  # [WIDTH]
    column: np.ndarray  # [PERIOD + 1, WIDTH]: what the pixel's position in its block adds
    row: np.ndarray  # [PERIOD + 1, WIDTH]
    residual: np.ndarray  # [2, HIDDEN, WIDTH]
    residual_bias: np.ndarray  # [2, WIDTH]
    head_in: np.ndarray  # [HIDDEN, WIDTH]: HEAD hidden units a colour
    head_seen: np.ndarray  # [2, WIDTH]: what green and red contribute, once they are known
    head_bias: np.ndarray  # [WIDTH]
    head_out: np.ndarray  # [3, HEAD, OUTPUTS]
    head_out_bias: np.ndarray  # [3, OUTPUTS]


SHAPES = Weights._make([  # of the arrays; the same names, but tuples
    (INPUTS, WIDTH), (WIDTH,), (PERIOD + 1, WIDTH), (PERIOD + 1, WIDTH), (2, HIDDEN, WIDTH), (2, WIDTH),
    (HIDDEN, WIDTH), (2, WIDTH), (WIDTH,), (3, HEAD, OUTPUTS), (3, OUTPUTS),
])  # fmt: skip


# Weights in a file


def save(path: str | Path, weights: Weights, **record: Any) -> None:
    """Write weights, and a record of how they came about (numbers, strings or arrays), as .npz."""
    npz.save(path, likelihood="context", **weights._asdict(), **{f"record_{name}": v for name, v in record.items()})


def load(path: str | Path, dataset: str = "<dataset>") -> tuple[Weights, str]:
    """Read weights: (Weights, identity, 16 hexadecimal digits). dataset: that an error's remedy names.

    Raises UserError where the file is absent, damaged, no context network, or holds a number that is not finite.
    """
    names = ("likelihood", *Weights._fields)
    likelihood, *arrays = npz.load(path, names, f"train it with model/{dataset}_train.py --likelihood=context")
    if likelihood != "context":
        raise UserError(f"{path} is a checkpoint of another likelihood, {str(likelihood)[:40]}")
    return check(Weights(*arrays), path)


def check(weights: Weights, what: str | Path = "the network") -> tuple[Weights, str]:
    """(weights, identity), the arrays laid out as the compiled functions take them. Raises UserError as load() does."""
    digest, sound = hashlib.sha256(), []
    for name, array, shape in zip(Weights._fields, weights, SHAPES, strict=True):
        if array.dtype != np.float32 or array.shape != shape:
            raise UserError(f"{what}: {name} is {array.dtype} {list(array.shape)}, not float32 {list(shape)}")
        if not np.abs(array).max() < _LIMIT:  # also false of NaN
            raise UserError(f"{what}: {name} holds numbers that are not finite, or too large to compute with")
        sound.append(np.ascontiguousarray(array))
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return Weights(*sound), digest.hexdigest()[:16]


def find(
    dataset: str, identity: str | None = None, path: str | Path | None = None, output: str | Path = paths.ROOT
) -> tuple[Weights, str]:
    """The network of a dataset that is at hand: (Weights, identity).

    path: where it is; by default one trained here, which is said, or else the one that ships. identity: that which is
    called for.
    Raises UserError where there is none, or none of that identity.
    """
    trained = [paths.params(dataset, folder) / NAME for folder in dict.fromkeys((output, paths.ROOT))]
    candidates = [Path(path)] if path else [*trained, paths.PRETRAINED / f"{dataset}_{NAME}"]
    for candidate in candidates:
        if candidate.exists() or candidate == candidates[-1]:
            with contextlib.nullcontext() if candidate == candidates[-1] else contextlib.suppress(UserError):
                found = load(candidate, dataset)
                if identity in (None, found[1]):
                    if candidate in trained:
                        print(f"Using the context network trained here, {candidate}")
                    return found
    raise UserError(f"it takes another context network, {identity}, than {candidate}; name it with --context")


# Planes: the pixels, and what stands outside of them


def planes_of(height: int, width: int) -> np.ndarray:
    """Planes for an image of this size, all grey."""
    return np.full((3, PAD + height, width + 2 * PAD), GREY, np.uint8)


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    """Planes of an image, uint8 [H, W, C], C = 3 or 1. What stands above the first row is for the second row on."""
    planes = planes_of(*pixels.shape[:2])
    put(planes, pixels)
    for row in range(PAD, PAD + len(pixels)):
        begin_row(planes, row)
        end_row(planes, row)
    return planes


def put(planes: np.ndarray, pixels: np.ndarray) -> None:
    """Put an image into planes, and nothing outside of it. A grey image is put into all three."""
    for plane, channel in zip(planes, ORDER if pixels.shape[2] == 3 else (0, 0, 0), strict=True):
        plane[PAD:, PAD:-PAD] = pixels[..., channel]


def take(planes: np.ndarray, pixels: np.ndarray) -> None:
    """The inverse of put(): fill in an image, uint8 [H, W, C]."""
    for plane, channel in zip(planes, ORDER if pixels.shape[2] == 3 else (0, 0, 0), strict=True):
        pixels[..., channel] = plane[PAD:, PAD:-PAD]


@compiled
def begin_row(planes: np.ndarray, row: int) -> None:
    """Fill in what stands left of a row: the pixel above its first one."""
    if row > PAD:
        for c in range(3):
            for x in range(PAD):
                planes[c, row, x] = planes[c, row - 1, PAD]


@compiled
def begin_pixel(planes: np.ndarray, row: int, column: int) -> None:
    """In the first row, let the pixel on the left stand for all those above."""
    if row == PAD:
        for c in range(3):
            for y in range(PAD):
                for x in range(column - PAD, column + PAD + 1):
                    planes[c, y, x] = planes[c, row, column - 1]


@compiled
def end_row(planes: np.ndarray, row: int) -> None:
    """Fill in what stands right of a row: its last pixel. The first row is repeated above itself."""
    end = planes.shape[2] - PAD
    for c in range(3):
        for x in range(end, end + PAD):
            planes[c, row, x] = planes[c, row, end - 1]
        if row == PAD:
            for y in range(PAD):
                for x in range(end + PAD):
                    planes[c, y, x] = planes[c, row, x]


# Features


@compiled
def log(x: np.float32) -> np.float32:
    """The natural logarithm of a positive float32 that is not denormal, to about 1e-7."""
    bits = np.int32(np.float32(x).view(np.int32))
    exponent = (bits >> 23) - 127
    mantissa = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    if mantissa > np.float32(1.4142135):
        mantissa *= np.float32(0.5)
        exponent += 1
    t = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    square = t * t
    series = np.float32(1 / 9)
    series = series * square + np.float32(1 / 7)
    series = series * square + np.float32(1 / 5)
    series = series * square + np.float32(1 / 3)
    series = series * square + np.float32(1)
    return np.float32(exponent) * np.float32(0.6931472) + np.float32(2) * t * series


@compiled
def features(planes: np.ndarray, row: int, column: int, inputs: np.ndarray, centre: np.ndarray) -> np.float32:
    """Describe the surroundings of a pixel.

    inputs: float32 [INPUTS], to be filled; centre: float32 [3], likewise, the point that each colour is measured from.
    Returns the spread, float32, the unit that it is measured in.
    """
    errors = np.zeros(5, np.float32)
    for c in range(3):
        west, north = np.float32(planes[c, row, column - 1]), np.float32(planes[c, row - 1, column])
        east, corner = np.float32(planes[c, row - 1, column + 1]), np.float32(planes[c, row - 1, column - 1])
        centre[c] = (_TWO * west + _TWO * north + east - corner) * _QUARTER
    for i in range(6):  # W, N, NW, NE, WW, NN
        y, x = row - (i == 1 or i == 2 or i == 3) - 2 * (i == 5), column - (i == 0 or i == 2) + (i == 3) - 2 * (i == 4)
        weight = _NEXT if i < 2 else _DIAGONAL
        green = np.float32(planes[0, y, x]) - centre[0]
        red = np.float32(planes[1, y, x]) - centre[1]
        blue = np.float32(planes[2, y, x]) - centre[2]
        errors[0] += weight * abs(green)
        errors[1] += weight * abs(red)
        errors[2] += weight * abs(blue)
        errors[3] += weight * abs(red - green)
        errors[4] += weight * abs(blue - green)
    spread = LEAST_SPREAD + (errors[0] + errors[1] + errors[2]) * _THIRD
    scale = np.float32(1) / spread
    for i in range(NEAR):
        y, x = row + NEIGHBOURS[i, 0], column + NEIGHBOURS[i, 1]
        green = (np.float32(planes[0, y, x]) - centre[0]) * scale
        red = (np.float32(planes[1, y, x]) - centre[1]) * scale - green
        blue = (np.float32(planes[2, y, x]) - centre[2]) * scale - green
        inputs[i] = min(max(green, -CUT), CUT)
        inputs[NEAR + i] = min(max(red, -CUT), CUT)
        inputs[2 * NEAR + i] = min(max(blue, -CUT), CUT)
    inputs[ERRORS - 1] = log(spread)
    for i in range(5):
        inputs[ERRORS + i] = log(errors[i] * scale + _TENTH)
    for c in range(3):
        west, north = planes[c, row, column - 1], planes[c, row - 1, column]
        corner = planes[c, row - 1, column - 1]
        low, high = min(west, north), max(west, north)
        if corner >= high:
            med = np.float32(low)
        elif corner <= low:
            med = np.float32(high)
        else:
            med = np.float32(west) + np.float32(north) - np.float32(corner)
        inputs[MEDS + c] = (med - centre[c]) * scale
    return spread


# The network


class Scratch(NamedTuple):
    """Where the compiled functions keep the numbers of a pixel, float32."""

    inputs: np.ndarray  # [INPUTS]
    centre: np.ndarray  # [3]
    hidden: np.ndarray  # [WIDTH]: the trunk's output, of HIDDEN units
    linear: np.ndarray  # [3]
    sums: np.ndarray  # [WIDTH]
    heads: np.ndarray  # [WIDTH]: the heads' hidden units before what the known colours contribute
    head: np.ndarray  # [HEAD]: a head's hidden units
    outputs: np.ndarray  # [OUTPUTS]: of a head
    residuals: np.ndarray  # [3]: of the colours known here, less the linear prediction, in units of the spread
    given: np.ndarray  # [HIDDEN]: what latents say of this pixel, added to the trunk's first layer; zeros without them


def scratch() -> Scratch:
    """A Scratch."""
    sizes = (INPUTS, 3, WIDTH, 3, WIDTH, WIDTH, HEAD, OUTPUTS, 3, HIDDEN)
    return Scratch(*(np.zeros(size, np.float32) for size in sizes))


@compiled
def _add_product(sums, x, rows, matrix):
    """sums += x[:rows] @ matrix, adding one row after the other; written so that it takes four in one pass."""
    for j in range(0, rows - 3, 4):
        a, b, c, d = x[j], x[j + 1], x[j + 2], x[j + 3]
        for k in range(WIDTH):
            sums[k] = (((sums[k] + a * matrix[j, k]) + b * matrix[j + 1, k]) + c * matrix[j + 2, k]) + d * matrix[
                j + 3, k
            ]
    for j in range(rows // 4 * 4, rows):
        a = x[j]
        for k in range(WIDTH):
            sums[k] += a * matrix[j, k]


@compiled
def trunk(
    planes: np.ndarray, row: int, column: int, block_row: int, block_column: int, weights: Weights, s: Scratch
) -> np.float32:
    """Everything that the three colours share; returns the spread. block_*: the position in a block, or UNKNOWN."""
    spread = features(planes, row, column, s.inputs, s.centre)
    for k in range(WIDTH):
        s.hidden[k] = (weights.first_bias[k] + weights.row[block_row, k]) + weights.column[block_column, k]
    for k in range(HIDDEN):
        s.hidden[k] += s.given[k]
    _add_product(s.hidden, s.inputs, INPUTS, weights.first)
    for c in range(3):
        s.linear[c] = s.hidden[HIDDEN + c]
    for k in range(HIDDEN):
        s.hidden[k] = max(s.hidden[k], np.float32(0))
    for i in range(2):
        for k in range(WIDTH):
            s.sums[k] = weights.residual_bias[i, k]
        _add_product(s.sums, s.hidden, HIDDEN, weights.residual[i])
        for k in range(HIDDEN):
            s.hidden[k] += max(s.sums[k], np.float32(0))
    for k in range(WIDTH):
        s.heads[k] = weights.head_bias[k]
    _add_product(s.heads, s.hidden, HIDDEN, weights.head_in)
    return spread


@compiled
def head(c: int, weights: Weights, s: Scratch) -> np.float32:
    """The mixture of colour c, given s.residuals of those before it: fills s.head and s.outputs.

    Returns the point, in units of the spread from s.centre, that the means of the components are measured from.
    """
    for k in range(HEAD):
        total = s.heads[c * HEAD + k]
        for i in range(c):
            total += s.residuals[i] * weights.head_seen[i, c * HEAD + k]
        s.head[k] = max(total, np.float32(0))
    for k in range(OUTPUTS):
        s.outputs[k] = weights.head_out_bias[c, k]
    for j in range(0, HEAD, 4):
        a, b, d, e = s.head[j], s.head[j + 1], s.head[j + 2], s.head[j + 3]
        for k in range(OUTPUTS):
            s.outputs[k] = (
                ((s.outputs[k] + a * weights.head_out[c, j, k]) + b * weights.head_out[c, j + 1, k])
                + d * weights.head_out[c, j + 2, k]
            ) + e * weights.head_out[c, j + 3, k]
    point = s.linear[c]
    for i in range(c):
        point += s.outputs[COEFFICIENTS + i] * s.residuals[i]
    return point


@compiled
def see(c: int, value: int, spread: np.float32, s: Scratch) -> None:
    """Take note of a colour's value, once it is known."""
    s.residuals[c] = (np.float32(value) - s.centre[c]) / spread - s.linear[c]
