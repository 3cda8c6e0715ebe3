"""The mixture of logistics that a head of the context network (model.context) describes, in fixed arithmetic.

From the head's outputs follow, for each of the K components, a weight (an integer), a mean in grey levels and an
inverse scale (float32). From there to the cumulative frequencies everything is monotone by construction: an edge less
a mean, times a positive number, cut, made an integer, looked up in a table of integers that never falls, with linear
interpolation, summed with weights that are not negative. Every symbol is given one unit before the mixture shares out
the rest, so that the cumulative frequencies rise by at least one, whatever the parameters.
"""

import functools
import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from model import context
from model.context import COEFFICIENTS, MEANS, SCALES, K, Scratch
from utils.compiled import compiled
from utils.fixed_point import PRECISION, decimals

SYMBOLS = 256
UNIFORM = 2.0**-8  # weight of the uniform distribution, which bounds what a pixel can cost
# The least that a symbol takes, in bits, as no probability is greater than this:
LEAST_BITS = -math.log2(1 - UNIFORM + UNIFORM / SYMBOLS + SYMBOLS / 2**PRECISION)

_REACH = 16  # beyond this the cdf of a logistic is taken to be 0 or 1, as nothing beside the uniform distribution
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
_SCALE_LIMIT = np.float32(context.SCALE_LIMIT)
_MASS = np.float32(1 - UNIFORM)
_FLOOR = np.float32(UNIFORM / SYMBOLS)
_PER_TABLE = np.float32(2.0**-_TABLE_BITS)
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0), np.float32(1)

_EXP_LIMIT = np.float32(80)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUNDING = np.float32(256.5)
_TERMS = np.array([1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1], np.float32)


@functools.cache
def table() -> np.ndarray:
    """The logistic cdf at multiples of 2^-_CELLS from -_REACH to _REACH and one more: int64, in 2^-_TABLE_BITS."""
    points = (2 * _REACH << _CELLS) + 2
    return decimals(lambda k: 1 / (1 + (_REACH - Decimal(k) / (1 << _CELLS)).exp()), points, _TABLE_BITS)


class Mixture(NamedTuple):
    """The parameters of one mixture."""

    weights: np.ndarray  # int64 [K], in units of 2^-_WEIGHT_BITS
    shares: np.ndarray  # float32 [K], the same without the uniform distribution, as they were before rounding
    means: np.ndarray  # float32 [K], in grey levels
    inverses: np.ndarray  # float32 [K], of the scales in grey levels


def mixture() -> Mixture:
    """A Mixture to be filled in."""
    return Mixture(np.zeros(K, np.int64), *(np.zeros(K, np.float32) for _ in range(3)))


@compiled
def exp(x: np.float32) -> np.float32:
    """e to the power of a float32, cut to +-80; to about 2e-7."""
    x = min(max(x, -_EXP_LIMIT), _EXP_LIMIT)
    n = np.int32(x * _LOG2_E + _ROUNDING) - np.int32(256)
    rest = (x - np.float32(n) * _LN2_HIGH) - np.float32(n) * _LN2_LOW
    total = _TERMS[0]
    for i in range(1, len(_TERMS)):
        total = total * rest + _TERMS[i]
    return total * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def describe(c: int, spread: np.float32, point: np.float32, s: Scratch, m: Mixture) -> None:
    """Fill in the Mixture m of colour c from the head's outputs in the context.Scratch s; point: as head() gives it."""
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
def cumulative(x: int, m: Mixture, table: np.ndarray) -> int:
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
def gradient(c: int, x: int, spread: np.float32, s: Scratch, m: Mixture, table: np.ndarray, out: np.ndarray) -> None:
    """The gradient of the code length of grey level x, in nats, by what the head of colour c computes.

    out: float32 [OUTPUTS], filled in: by the head's outputs.
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
        # Not of what is cut off: there the slopes are next to nothing, and z is of no size that could overflow.
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
