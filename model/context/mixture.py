"""The mixture of logistics that a head of the context network describes, in fixed arithmetic.

The head's outputs give each of the K components a weight (an integer), a mean in grey levels and an inverse scale
(float32). From there to the cumulative frequencies every step is monotone. An edge less a mean, times a positive
number, is cut, made an integer, and looked up in a table of integers that never falls, with linear interpolation. The
results are summed with weights that are not negative. Every grey level first receives one unit, and the mixture shares
out the rest. So the cumulative frequencies rise by at least one a level, whatever the parameters.
"""

import math

import numpy as np

from model.context.arithmetic import TABLE_BITS, exp, flush, log, logistic
from model.context.network import Scratch
from model.context.weights import COEFFICIENTS, GATE, MEANS, OUTPUTS, SCALES, K
from utils.compiled import compiled
from utils.fixed_point import PRECISION

SYMBOLS = 256
UNIFORM = 2.0**-8  # weight of the uniform distribution, which bounds what a pixel can cost
SCALE_LIMIT = 8.0  # of the logarithm of a scale over the spread, either side
# The least that a grey level can cost, in bits: no probability is greater than this.
LEAST_BITS = -math.log2(1 - UNIFORM + UNIFORM / SYMBOLS + SYMBOLS / 2**PRECISION)

_WEIGHT_BITS, _MASS_BITS = 20, 34
_SUM_SHIFT = TABLE_BITS + _WEIGHT_BITS - _MASS_BITS
_UNIFORM_STEP = 1 << (_MASS_BITS - 16)  # 2^-8 / 256
_TOTAL = 1 << PRECISION
_SHARED = _TOTAL - SYMBOLS  # what the mixture shares out

_WHOLE = np.float32((1 << _WEIGHT_BITS) * (1 - UNIFORM))
_LEVELS = np.float32(4096)  # no mean is further away, in grey levels
_SCALE_LIMIT = np.float32(SCALE_LIMIT)
_MASS, _FLOOR = np.float32(1 - UNIFORM), np.float32(UNIFORM / SYMBOLS)
_PER_TABLE = np.float32(2.0**-TABLE_BITS)
_TINY = np.float32(1e-15)
_SURE = np.float32(0.98)  # of a level, so that it is all but certain
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0), np.float32(1)


@compiled
def fill_mixture(i: int, c: int, point: np.float32, s: Scratch) -> None:
    """Compute the mixture of colour c of pixel i from its head's outputs. point: what network.run_head() returned."""
    outputs, spread = s.outputs[0], s.spread[i]
    top = outputs[0]
    for k in range(1, K):
        top = max(top, outputs[k])
    total = _ZERO
    for k in range(K):
        s.shares[k] = exp(outputs[k] - top)
        total += s.shares[k]
    for k in range(K):
        s.shares[k] = s.shares[k] / total
        s.masses[k] = np.int64(s.shares[k] * _WHOLE)
        mean = s.centre[i, c] + spread * (point + outputs[MEANS + k])
        s.means[k] = min(max(mean, -_LEVELS), _LEVELS)
        scale = min(max(outputs[SCALES + k], -_SCALE_LIMIT), _SCALE_LIMIT)
        s.inverses[k] = exp(-scale) / spread


@compiled
def cumulative_frequency(x: int, s: Scratch) -> int:
    """The cumulative frequency below grey level x, 0..256: from 0 to 2^PRECISION, rising by at least 1 a level."""
    if x <= 0:
        return 0
    if x >= SYMBOLS:
        return _TOTAL
    edge = np.float32(x) - _HALF
    total = 0
    for k in range(K):
        total += s.masses[k] * logistic((edge - s.means[k]) * s.inverses[k], s.table)
    return x + (_SHARED * ((total >> _SUM_SHIFT) + x * _UNIFORM_STEP) >> _MASS_BITS)


@compiled
def find_level(frequency: int, s: Scratch) -> tuple[int, int, int]:
    """The grey level whose interval holds a cumulative frequency: (level, start, end).

    The search starts from the quantile of one logistic with the mixture's mean and average scale. Any start will do.
    """
    mean, scale = _HALF, _ZERO
    for k in range(K):
        mean += s.shares[k] * s.means[k]
        scale += s.shares[k] / s.inverses[k]
    guess = mean + scale * log((np.float32(frequency) + _ONE) / np.float32(_TOTAL - frequency))
    middle, step = int(min(max(guess, _ONE), np.float32(SYMBOLS - 1))), 1
    low, high, start, end = 0, SYMBOLS, 0, _TOTAL
    while high - low > 1:
        value = cumulative_frequency(middle, s)
        if value <= frequency:
            low, start = middle, value
            middle += step
        else:
            high, end = middle, value
            middle -= step
        step *= 2
        if not low < middle < high:
            middle = (low + high) // 2
    return low, start, end


@compiled
def mixture_gradient(c: int, x: int, spread: np.float32, s: Scratch, out: np.ndarray) -> None:
    """Compute the gradient of the code length of grey level x, in nats, with respect to the outputs of head c.

    out: float32 [OUTPUTS], the result; zero for a level that was all but certain. A flat area would otherwise make the
    weights extreme, from which they do not return.
    """
    mass, point = _ZERO, _ZERO
    for k in range(K):
        upper_z = (np.float32(x) + _HALF - s.means[k]) * s.inverses[k]
        lower_z = (np.float32(x) - _HALF - s.means[k]) * s.inverses[k]
        upper = np.float32(logistic(upper_z, s.table)) * _PER_TABLE
        lower = np.float32(logistic(lower_z, s.table)) * _PER_TABLE
        upper_slope, lower_slope = upper * (_ONE - upper), lower * (_ONE - lower)
        if x == SYMBOLS - 1:
            upper, upper_slope = _ONE, _ZERO
        if x == 0:
            lower, lower_slope = _ZERO, _ZERO
        # The cut of z has no gradient of its own: beyond it the slopes are next to zero. z is too small to overflow.
        share = s.shares[k]
        out[k] = share * (upper - lower)
        mass += out[k]
        out[MEANS + k] = share * (upper_slope - lower_slope) * (s.inverses[k] * spread)
        out[SCALES + k] = share * (upper_slope * upper_z - lower_slope * lower_z)
        if abs(s.outputs[0, SCALES + k]) > _SCALE_LIMIT:
            out[SCALES + k] = _ZERO
    if mass > _SURE:
        out[:] = _ZERO
        return
    factor = _MASS / (_MASS * mass + _FLOOR)
    for k in range(K):
        out[k] = (s.shares[k] * mass - out[k]) * factor
        out[MEANS + k] *= factor
        out[SCALES + k] *= factor
        point += out[MEANS + k]
    for i in range(2):
        out[COEFFICIENTS + i] = point * (_ONE - s.gate[0]) * s.known[2 * i + 1] if i < c else _ZERO
    out[GATE] = point * (s.gate[0] * (_ONE - s.gate[0])) * s.gate[1]
    for k in range(OUTPUTS):
        out[k] = flush(out[k], _TINY)  # products with smaller ones would be denormal
