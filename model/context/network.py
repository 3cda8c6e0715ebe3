"""The arithmetic of the context network, compiled: a small ReLU network, about 65,000 multiplications a pixel.

A trunk, which the three colours share, and a head for each colour. A head also sees the colours that are known, and the
prediction by least squares of its own. So run_head(0), note_colour(0), run_head(1), note_colour(1), run_head(2) follow
each other.
The trunk computes in integers, and the heads, whose weights adapt, in float32 in a fixed order: see
model.context.arithmetic. The encoder, which knows all pixels, computes up to BLOCK of them at once, so that it loads
weights less often.
"""

from typing import NamedTuple

import numpy as np

from model.context.arithmetic import exp, logistic_table
from model.context.features import AROUND, CUT, INPUTS, PAD, block_position, describe_pixel, pad_above
from model.context.products import make_product
from model.context.weights import (
    COEFFICIENTS,
    GATE,
    HEAD,
    HIDDEN,
    INPUT_BITS,
    KNOWN,
    MAX_INPUT,
    MAX_UNIT,
    OUTPUTS,
    TRUNK,
    UNIT_BITS,
    WIDTH,
    K,
    Weights,
)
from utils.compiled import compiled

BLOCK = 8  # pixels that the trunk runs for at once, at most

_add_trunk, _add_wide, _add_outputs = make_product(TRUNK), make_product(WIDTH), make_product(OUTPUTS)
_INPUT, _UNIT = np.float32(1 << INPUT_BITS), np.float32(2.0**-UNIT_BITS)
_ROUNDING = np.float32(MAX_INPUT + 0.5)  # positive, so that cutting off the fraction rounds


class Scratch(NamedTuple):
    """Where the compiled functions keep the numbers of a pixel, or of a block: float32, unless it says otherwise."""

    inputs: np.ndarray  # [BLOCK, INPUTS]
    centre: np.ndarray  # [BLOCK, 3]
    spread: np.ndarray  # [BLOCK]
    hidden: np.ndarray  # [BLOCK, TRUNK]: the trunk's output, HIDDEN units, and the linear prediction of the 3 colours
    heads: np.ndarray  # [BLOCK, WIDTH]: the heads' hidden units before what the known colours contribute
    head: np.ndarray  # [1, HEAD]: a head's hidden units
    outputs: np.ndarray  # [1, OUTPUTS]: of a head
    least: np.ndarray  # [BLOCK, 3]: the predictions by least squares, in grey levels; an input
    missed: np.ndarray  # [BLOCK, 3, AROUND]: their errors around the pixel; an input
    known: np.ndarray  # [KNOWN + 1]: each colour by least squares, and itself, in units of the spread from linear
    gate: np.ndarray  # [2]: the share of the prediction by least squares in a head's point, and what it replaces
    shares: np.ndarray  # [K]: the weights of a mixture's logistics
    means: np.ndarray  # [K]: in grey levels
    inverses: np.ndarray  # [K]: of the scales in grey levels
    whole: np.ndarray  # int16 [BLOCK, INPUTS]: the inputs
    units: np.ndarray  # int16 [BLOCK, TRUNK]: the trunk's output
    sums: np.ndarray  # int32 [BLOCK, TRUNK]: of a layer of the trunk
    masses: np.ndarray  # int64 [K]: the shares in units of 2^-20, less what the uniform distribution has
    table: np.ndarray  # int64: arithmetic.logistic_table()


def make_scratch() -> Scratch:
    blocks = [(BLOCK, INPUTS), (BLOCK, 3), BLOCK, (BLOCK, TRUNK), (BLOCK, WIDTH)]
    heads = [(1, HEAD), (1, OUTPUTS), (BLOCK, 3), (BLOCK, 3, AROUND), KNOWN + 1, 2, K, K, K]
    floats = [np.zeros(shape, np.float32) for shape in (*blocks, *heads)]
    layers = ((BLOCK, INPUTS), np.int16), ((BLOCK, TRUNK), np.int16), ((BLOCK, TRUNK), np.int32)
    trunk = [np.zeros(*layer) for layer in layers]
    return Scratch._make([*floats, *trunk, np.zeros(K, np.int64), logistic_table()])


@compiled
def run_trunk(
    planes: np.ndarray, row: int, column: int, count: int, block_row: int, grid: int, weights: Weights, s: Scratch
) -> None:
    """Compute what the three colours share, for `count` pixels of a row from a column on, up to BLOCK.

    block_row, grid: their row in a block, and what features.block_position() requires for their columns.
    """
    at, x, units, sums = weights.row[block_row], s.whole, s.units, s.sums[:count]
    for i in range(count):
        pad_above(planes, row, column + i)
        s.spread[i] = describe_pixel(planes, row, column + i, s.missed[i], s.inputs[i], s.centre[i])
        for j in range(INPUTS):
            x[i, j] = np.int32(min(max(s.inputs[i, j], -CUT), CUT) * _INPUT + _ROUNDING) - MAX_INPUT
        by_column = weights.column[block_position(column + i - PAD, grid)]
        for k in range(TRUNK):
            sums[i, k] = weights.first_bias[k] + at[k] + by_column[k]
    _add_trunk(sums, x, weights.first)
    for i in range(count):
        for k in range(HIDDEN):
            units[i, k] = min(max(_shift(sums[i, k], weights.first_shift[k]), 0), MAX_UNIT)
        for k in range(HIDDEN, TRUNK):
            units[i, k] = min(max(_shift(sums[i, k], weights.first_shift[k]), -MAX_UNIT), MAX_UNIT)
            s.hidden[i, k] = np.float32(sums[i, k]) / np.float32(1 << weights.first_shift[k] + UNIT_BITS)
    for layer in range(2):
        for i in range(count):
            for k in range(HIDDEN):
                sums[i, k] = weights.residual_bias[layer, k]
        _add_trunk(sums, units, weights.residual[layer])
        for i in range(count):
            for k in range(HIDDEN):
                added = max(_shift(sums[i, k], weights.residual_shift[layer, k]), 0)
                units[i, k] = min(units[i, k] + added, MAX_UNIT)
    for i in range(count):
        for k in range(HIDDEN):
            s.hidden[i, k] = np.float32(units[i, k]) * _UNIT
    for i in range(count):
        for k in range(WIDTH):
            s.heads[i, k] = weights.head_bias[k]
    _add_wide(s.heads[:count], s.hidden, weights.head_in)


@compiled
def _shift(value, bits):
    """value / 2^bits, rounded."""
    return value + (1 << bits - 1) >> bits


@compiled
def run_head(i: int, c: int, weights: Weights, s: Scratch) -> np.float32:
    """Compute s.head and s.outputs of colour c of pixel i of the block, given s.known of the colours before it.

    Returns the point, in units of the spread from s.centre, that the means of the mixture are measured from.
    """
    heads, head, outputs = s.heads[i], s.head[0], s.outputs[0]
    prediction = (s.least[i, c] - s.centre[i, c]) / s.spread[i] - s.hidden[i, HIDDEN + c]
    s.known[2 * c] = min(max(prediction, -CUT), CUT)
    for j in range(max(0, 2 * c - 1), 2 * c + 1):  # what is new is added to all heads
        known, seen = s.known[j], weights.head_seen[j]
        for k in range(WIDTH):
            heads[k] += known * seen[k]
    for k in range(HEAD):
        head[k] = max(heads[c * HEAD + k], np.float32(0))
    for k in range(OUTPUTS):
        outputs[k] = weights.head_out_bias[c, k]
    _add_outputs(s.outputs, s.head, weights.head_out[c])
    shift = np.float32(0)
    for j in range(c):
        shift += outputs[COEFFICIENTS + j] * s.known[2 * j + 1]
    s.gate[0] = np.float32(1) / (np.float32(1) + exp(-outputs[GATE]))
    s.gate[1] = s.known[2 * c] - shift
    return s.hidden[i, HIDDEN + c] + (shift + s.gate[0] * s.gate[1])


@compiled
def note_colour(i: int, c: int, value: int, s: Scratch) -> None:
    """Store colour c of pixel i in s.known once its value is known."""
    s.known[2 * c + 1] = (np.float32(value) - s.centre[i, c]) / s.spread[i] - s.hidden[i, HIDDEN + c]
