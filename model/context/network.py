"""The arithmetic of the context network, compiled: a small ReLU network, about 43,000 multiplications a pixel.

A trunk, which the three colours share, and a head for each colour. A head also sees the colours that are known, and the
prediction by least squares of its own. So run_head(0), note_colour(0), run_head(1), note_colour(1), run_head(2) follow
each other.
The encoder, which knows all pixels, runs the trunk for up to BLOCK of them at once, so that it loads each weight once.
The decoder runs it for one. Both add the same numbers in the same order: model.context.arithmetic says why they must.
"""

from typing import NamedTuple

import numpy as np

from model.context.arithmetic import exp, logistic_table, make_product
from model.context.features import CUT, INPUTS, PAD, block_position, describe_pixel, pad_above
from model.context.weights import COEFFICIENTS, GATE, HEAD, HIDDEN, KNOWN, OUTPUTS, WIDTH, K, Weights
from utils.compiled import compiled

BLOCK = 8  # pixels that the trunk runs for at once, at most

_add_wide, _add_outputs = make_product(WIDTH), make_product(OUTPUTS)


class Scratch(NamedTuple):
    """Where the compiled functions keep the numbers of a pixel, or of a block: float32, except where it says int64."""

    inputs: np.ndarray  # [BLOCK, INPUTS]
    centre: np.ndarray  # [BLOCK, 3]
    spread: np.ndarray  # [BLOCK]
    hidden: np.ndarray  # [BLOCK, WIDTH]: the trunk's output, HIDDEN units, and the linear prediction of the 3 colours
    sums: np.ndarray  # [BLOCK, WIDTH]
    heads: np.ndarray  # [BLOCK, WIDTH]: the heads' hidden units before what the known colours contribute
    head: np.ndarray  # [1, HEAD]: a head's hidden units
    outputs: np.ndarray  # [1, OUTPUTS]: of a head
    least: np.ndarray  # [BLOCK, 3]: the predictions by least squares, in grey levels; an input
    local: np.ndarray  # [BLOCK, 3]: how far off they were around the pixel; an input
    known: np.ndarray  # [KNOWN + 1]: each colour by least squares, and itself, in units of the spread from linear
    gate: np.ndarray  # [2]: the share of the prediction by least squares in a head's point, and what it replaces
    shares: np.ndarray  # [K]: the weights of a mixture's logistics
    means: np.ndarray  # [K]: in grey levels
    inverses: np.ndarray  # [K]: of the scales in grey levels
    masses: np.ndarray  # int64 [K]: the shares in units of 2^-20, less what the uniform distribution has
    table: np.ndarray  # int64: arithmetic.logistic_table()


def make_scratch() -> Scratch:
    blocks = [(BLOCK, INPUTS), (BLOCK, 3), BLOCK, (BLOCK, WIDTH), (BLOCK, WIDTH), (BLOCK, WIDTH)]
    heads = [(1, HEAD), (1, OUTPUTS), (BLOCK, 3), (BLOCK, 3), KNOWN + 1, 2, K, K, K]
    floats = [np.zeros(shape, np.float32) for shape in (*blocks, *heads)]
    return Scratch._make([*floats, np.zeros(K, np.int64), logistic_table()])


@compiled
def run_trunk(
    planes: np.ndarray, row: int, column: int, count: int, block_row: int, grid: int, weights: Weights, s: Scratch
) -> None:
    """Compute what the three colours share, for `count` pixels of a row from a column on, up to BLOCK.

    block_row, grid: their row in a block, and what features.block_position() requires for their columns.
    """
    for i in range(count):
        pad_above(planes, row, column + i)
        s.spread[i] = describe_pixel(planes, row, column + i, s.local[i], s.inputs[i], s.centre[i])
        h, by_row = s.hidden[i], weights.row[block_row]
        by_column = weights.column[block_position(column + i - PAD, grid)]
        for k in range(WIDTH):
            h[k] = (weights.first_bias[k] + by_row[k]) + by_column[k]
    _add_wide(s.hidden[:count], s.inputs, weights.first)
    for i in range(count):
        h = s.hidden[i]
        for k in range(HIDDEN):
            h[k] = max(h[k], np.float32(0))
    for layer in range(2):
        _fill(s.sums[:count], weights.residual_bias[layer])
        _add_wide(s.sums[:count], s.hidden, weights.residual[layer])
        for i in range(count):
            h, total = s.hidden[i], s.sums[i]
            for k in range(HIDDEN):
                h[k] += max(total[k], np.float32(0))
    _fill(s.heads[:count], weights.head_bias)
    _add_wide(s.heads[:count], s.hidden, weights.head_in)


@compiled
def _fill(rows, values):
    for i in range(len(rows)):
        for k in range(len(values)):
            rows[i, k] = values[k]


@compiled
def run_head(i: int, c: int, weights: Weights, s: Scratch) -> np.float32:
    """Compute s.head and s.outputs of colour c of pixel i of the block, given s.known of the colours before it.

    Returns the point, in units of the spread from s.centre, that the means of the mixture are measured from.
    """
    heads, head = s.heads[i], s.head[0]
    for k in range(HEAD):
        head[k] = heads[c * HEAD + k]
    prediction = (s.least[i, c] - s.centre[i, c]) / s.spread[i] - s.hidden[i, HIDDEN + c]
    s.known[2 * c] = min(max(prediction, -CUT), CUT)
    for j in range(2 * c + 1):
        seen, known = weights.head_seen[j], s.known[j]
        for k in range(HEAD):
            head[k] += known * seen[c * HEAD + k]
    for k in range(HEAD):
        head[k] = max(head[k], np.float32(0))
    _fill(s.outputs, weights.head_out_bias[c])
    _add_outputs(s.outputs, s.head, weights.head_out[c])
    shift = np.float32(0)
    for j in range(c):
        shift += s.outputs[0, COEFFICIENTS + j] * s.known[2 * j + 1]
    s.gate[0] = np.float32(1) / (np.float32(1) + exp(-s.outputs[0, GATE]))
    s.gate[1] = s.known[2 * c] - shift
    return s.hidden[i, HIDDEN + c] + (shift + s.gate[0] * s.gate[1])


@compiled
def note_colour(i: int, c: int, value: int, s: Scratch) -> None:
    """Store colour c of pixel i in s.known once its value is known."""
    s.known[2 * c + 1] = (np.float32(value) - s.centre[i, c]) / s.spread[i] - s.hidden[i, HIDDEN + c]
