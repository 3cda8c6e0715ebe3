"""The arithmetic of the context network, compiled: a small ReLU network, about 22,000 multiplications a pixel.

A trunk, which the three colours share, and a head for each colour. A head also sees the residuals of the colours that
are known, so run_head(0), note_colour(0), run_head(1), note_colour(1), run_head(2) follow each other.
model.context.arithmetic says why every sum has its written order.
"""

from typing import NamedTuple

import numpy as np

from model.context.arithmetic import logistic_table
from model.context.features import INPUTS, describe_pixel
from model.context.weights import COEFFICIENTS, HEAD, HIDDEN, OUTPUTS, WIDTH, K, Weights
from utils.compiled import compiled


class Scratch(NamedTuple):
    """Where the compiled functions keep the numbers of a pixel: float32, except where it says int64."""

    inputs: np.ndarray  # [INPUTS]
    centre: np.ndarray  # [3]
    hidden: np.ndarray  # [WIDTH]: the trunk's output, of HIDDEN units
    linear: np.ndarray  # [3]
    sums: np.ndarray  # [WIDTH]
    heads: np.ndarray  # [WIDTH]: the heads' hidden units before what the known colours contribute
    head: np.ndarray  # [HEAD]: a head's hidden units
    outputs: np.ndarray  # [OUTPUTS]: of a head
    residuals: np.ndarray  # [3]: the known colours less their linear prediction, in units of the spread
    shares: np.ndarray  # [K]: the weights of a mixture's logistics
    means: np.ndarray  # [K]: in grey levels
    inverses: np.ndarray  # [K]: of the scales in grey levels
    masses: np.ndarray  # int64 [K]: the shares in units of 2^-20, less what the uniform distribution has
    table: np.ndarray  # int64: arithmetic.logistic_table()


def make_scratch() -> Scratch:
    sizes = (INPUTS, 3, WIDTH, 3, WIDTH, WIDTH, HEAD, OUTPUTS, 3, K, K, K)
    floats = [np.zeros(size, np.float32) for size in sizes]
    return Scratch._make([*floats, np.zeros(K, np.int64), logistic_table()])


@compiled
def _add_product(sums, x, rows, matrix):
    """sums += x[:rows] @ matrix, adding one row after the other; four rows in one pass over the sums."""
    for j in range(0, rows - 3, 4):
        a, b, c, d = x[j], x[j + 1], x[j + 2], x[j + 3]
        for k in range(WIDTH):
            total = ((sums[k] + a * matrix[j, k]) + b * matrix[j + 1, k]) + c * matrix[j + 2, k]
            sums[k] = total + d * matrix[j + 3, k]
    for j in range(rows // 4 * 4, rows):
        a = x[j]
        for k in range(WIDTH):
            sums[k] += a * matrix[j, k]


@compiled
def run_trunk(
    planes: np.ndarray, row: int, column: int, block_row: int, block_column: int, weights: Weights, s: Scratch
) -> np.float32:
    """Compute what the three colours share; returns the spread. block_*: the position in a block, or UNKNOWN."""
    spread = describe_pixel(planes, row, column, s.inputs, s.centre)
    for k in range(WIDTH):
        s.hidden[k] = (weights.first_bias[k] + weights.row[block_row, k]) + weights.column[block_column, k]
    _add_product(s.hidden, s.inputs, INPUTS, weights.first)
    s.linear[:] = s.hidden[HIDDEN : HIDDEN + 3]
    for k in range(HIDDEN):
        s.hidden[k] = max(s.hidden[k], np.float32(0))
    for i in range(2):
        s.sums[:] = weights.residual_bias[i]
        _add_product(s.sums, s.hidden, HIDDEN, weights.residual[i])
        for k in range(HIDDEN):
            s.hidden[k] += max(s.sums[k], np.float32(0))
    s.heads[:] = weights.head_bias
    _add_product(s.heads, s.hidden, HIDDEN, weights.head_in)
    return spread


@compiled
def run_head(c: int, weights: Weights, s: Scratch) -> np.float32:
    """Compute s.head and s.outputs of colour c, given the s.residuals of the colours before it.

    Returns the point, in units of the spread from s.centre, that the means of the mixture are measured from.
    """
    for k in range(HEAD):
        total = s.heads[c * HEAD + k]
        for i in range(c):
            total += s.residuals[i] * weights.head_seen[i, c * HEAD + k]
        s.head[k] = max(total, np.float32(0))
    s.outputs[:] = weights.head_out_bias[c]
    for j in range(0, HEAD, 4):
        a, b, d, e = s.head[j], s.head[j + 1], s.head[j + 2], s.head[j + 3]
        for k in range(OUTPUTS):
            total = (s.outputs[k] + a * weights.head_out[c, j, k]) + b * weights.head_out[c, j + 1, k]
            s.outputs[k] = (total + d * weights.head_out[c, j + 2, k]) + e * weights.head_out[c, j + 3, k]
    point = s.linear[c]
    for i in range(c):
        point += s.outputs[COEFFICIENTS + i] * s.residuals[i]
    return point


@compiled
def note_colour(c: int, value: int, spread: np.float32, s: Scratch) -> None:
    """Store the residual of colour c once its value is known."""
    s.residuals[c] = (np.float32(value) - s.centre[c]) / spread - s.linear[c]
