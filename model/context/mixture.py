"""The mixture of logistics that a head of the context network describes, in fixed arithmetic.

The head's outputs give each of the K components a weight (an integer), a mean in grey levels and an inverse scale
(float32). From there to the cumulative frequencies every step is monotone. An edge less a mean, times a positive number,
is cut, made an integer, and looked up in a table of integers that never falls, with linear interpolation. The results
are summed with weights that are not negative. Every grey level first receives one unit, and the mixture shares out the
rest. So the cumulative frequencies rise by at least one a level, whatever the parameters.
"""

import functools
import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from model.context.arithmetic import exp
from model.context.network import Scratch
from model.context.weights import COEFFICIENTS, MEANS, SCALES, K
from utils.compiled import compiled
from utils.fixed_point import PRECISION, decimals

SYMBOLS = 256
UNIFORM = 2.0**-8  # weight of the uniform distribution, which bounds what a pixel can cost
SCALE_LIMIT = 8.0  # of the logarithm of a scale over the spread, either side
# The least that a grey level can cost, in bits: no probability is greater than this.
LEAST_BITS = -math.log2(1 - UNIFORM + UNIFORM / SYMBOLS + SYMBOLS / 2**PRECISION)

_REACH = 16  # beyond this the cdf of a logistic counts as 0 or 1: the uniform distribution outweighs the difference
_CELLS = 6  # the table has 2^_CELLS cells a unit
_FRACTION = 18  # bits after the binary point of where an edge is
_CELL_SHIFT = _FRACTION - _CELLS
_TABLE_BITS = 30
_WEIGHT_BITS = 20
_MASS_BITS = 34
_SUM_SHIFT = _TABLE_BITS + _WEIGHT_BITS - _MASS_BITS
_UNIFORM_STEP = 1 << (_MASS_BITS - 16)  # 2^-8 / 256
_SHARED = (1 << PRECISION) - SYMBOLS  # what the mixture shares out
_TOTAL = 1 << PRECISION

_WHOLE = np.float32((1 << _WEIGHT_BITS) * (1 - UNIFORM))
_ONES = np.float32(1 << _FRACTION)
_FAR = np.float32(_REACH)
_FURTHEST = np.float32(2 * _REACH)
_LEVELS = np.float32(4096)  # no mean is further away, in grey levels
_SCALE_LIMIT = np.float32(SCALE_LIMIT)
_MASS = np.float32(1 - UNIFORM)
_FLOOR = np.float32(UNIFORM / SYMBOLS)
_PER_TABLE = np.float32(2.0**-_TABLE_BITS)
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0), np.float32(1)


@functools.cache
def logistic_table() -> np.ndarray:
    """The logistic cdf at multiples of 2^-_CELLS from -_REACH to _REACH and one more: int64, in 2^-_TABLE_BITS."""
    points = (2 * _REACH << _CELLS) + 2
    return decimals(lambda k: 1 / (1 + (_REACH - Decimal(k) / (1 << _CELLS)).exp()), points, _TABLE_BITS)


class Mixture(NamedTuple):
    """The parameters of one mixture."""

    weights: np.ndarray  # int64 [K], in units of 2^-_WEIGHT_BITS
    shares: np.ndarray  # float32 [K], the weights before rounding, of a mixture without the uniform distribution
    means: np.ndarray  # float32 [K], in grey levels
    inverses: np.ndarray  # float32 [K], of the scales in grey levels


def make_mixture() -> Mixture:
    """A Mixture of zeros."""
    return Mixture(np.zeros(K, np.int64), *(np.zeros(K, np.float32) for _ in range(3)))


@compiled
def fill_mixture(c: int, spread: np.float32, point: np.float32, s: Scratch, m: Mixture) -> None:
    """Compute the Mixture m of colour c from the head's outputs in s. point: what network.run_head() returned."""
    top = s.outputs[0]
    for k in range(1, K):
        top = max(top, s.outputs[k])
    total = _ZERO
    for k in range(K):
        m.shares[k] = exp(s.outputs[k] - top)
        total += m.shares[k]
    for k in range(K):
        m.shares[k] = m.shares[k] / total
        m.weights[k] = np.int64(m.shares[k] * _WHOLE)
        mean = s.centre[c] + spread * (point + s.outputs[MEANS + k])
        m.means[k] = min(max(mean, -_LEVELS), _LEVELS)
        scale = min(max(s.outputs[SCALES + k], -_SCALE_LIMIT), _SCALE_LIMIT)
        m.inverses[k] = exp(-scale) / spread


@compiled
def _logistic(z, table):
    """The logistic cdf at z, float32: int64 in units of 2^-_TABLE_BITS."""
    at = np.int64(min(max(z + _FAR, _ZERO), _FURTHEST) * _ONES)
    cell, rest = at >> _CELL_SHIFT, at & ((1 << _CELL_SHIFT) - 1)
    low = table[cell]
    return low + ((table[cell + 1] - low) * rest >> _CELL_SHIFT)


@compiled
def cumulative_frequency(x: int, m: Mixture, table: np.ndarray) -> int:
    """The cumulative frequency below grey level x, 0..256: from 0 to 2^PRECISION, rising by at least 1 a level."""
    if x <= 0:
        return 0
    if x >= SYMBOLS:
        return _TOTAL
    edge = np.float32(x) - _HALF
    total = 0
    for k in range(K):
        total += m.weights[k] * _logistic((edge - m.means[k]) * m.inverses[k], table)
    return x + (_SHARED * ((total >> _SUM_SHIFT) + x * _UNIFORM_STEP) >> _MASS_BITS)


@compiled
def find_level(frequency: int, m: Mixture, table: np.ndarray) -> tuple[int, int, int]:
    """The grey level whose interval holds a cumulative frequency: (level, start, end)."""
    low, high = 0, SYMBOLS
    start, end = 0, _TOTAL
    while high - low > 1:
        middle = (low + high) // 2
        value = cumulative_frequency(middle, m, table)
        if value <= frequency:
            low, start = middle, value
        else:
            high, end = middle, value
    return low, start, end


@compiled
def mixture_gradient(
    c: int, x: int, spread: np.float32, s: Scratch, m: Mixture, table: np.ndarray, out: np.ndarray
) -> None:
    """Compute the gradient of the code length of grey level x, in nats, with respect to the outputs of head c.

    out: float32 [OUTPUTS], the result.
    """
    mass, point = _ZERO, _ZERO
    for k in range(K):
        upper_z = (np.float32(x) + _HALF - m.means[k]) * m.inverses[k]
        lower_z = (np.float32(x) - _HALF - m.means[k]) * m.inverses[k]
        upper = np.float32(_logistic(upper_z, table)) * _PER_TABLE
        lower = np.float32(_logistic(lower_z, table)) * _PER_TABLE
        upper_slope, lower_slope = upper * (_ONE - upper), lower * (_ONE - lower)
        if x == SYMBOLS - 1:
            upper, upper_slope = _ONE, _ZERO
        if x == 0:
            lower, lower_slope = _ZERO, _ZERO
        # The cut of z has no gradient of its own: beyond it the slopes are next to zero. z is too small to overflow.
        share = m.shares[k]
        out[k] = share * (upper - lower)
        mass += out[k]
        out[MEANS + k] = share * (upper_slope - lower_slope) * (m.inverses[k] * spread)
        out[SCALES + k] = share * (upper_slope * upper_z - lower_slope * lower_z)
        if abs(s.outputs[SCALES + k]) > _SCALE_LIMIT:
            out[SCALES + k] = _ZERO
    factor = _MASS / (_MASS * mass + _FLOOR)
    for k in range(K):
        out[k] = (m.shares[k] * mass - out[k]) * factor
        out[MEANS + k] *= factor
        out[SCALES + k] *= factor
        point += out[MEANS + k]
    for i in range(2):
        out[COEFFICIENTS + i] = point * s.residuals[i] if i < c else _ZERO
