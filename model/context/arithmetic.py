"""The logarithm, the exponential function and the logistic cdf, the same bits on every machine.

Encoder and decoder must compute the same distributions to the bit. So everything from the pixels to the mixture's
parameters is float32 with + - * / and square roots only, in an order that is written down. IEEE 754 rounds each of
these in one way. Numba may not reassociate, or fuse a multiplication with an addition. The functions here replace those
of a library, which differ between machines.
"""

import functools
from decimal import Decimal

import numpy as np

from utils.compiled import compiled
from utils.fixed_point import decimals

_EXP_LIMIT = np.float32(80)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUNDING = np.float32(256.5)
_EXP_TERMS = np.array([1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1], np.float32)
_LOG_TERMS = np.array([1 / 9, 1 / 7, 1 / 5, 1 / 3, 1], np.float32)

TABLE_BITS = 30  # after the binary point, of the logistic cdf
_REACH = 16  # beyond this the cdf counts as 0 or 1: the mixture's uniform distribution outweighs the difference
_CELLS = 6  # the table has 2^_CELLS cells a unit
_FRACTION = 18  # bits after the binary point of an argument of the cdf
_CELL_SHIFT = _FRACTION - _CELLS
_FAR, _FURTHEST, _ONES = np.float32(_REACH), np.float32(2 * _REACH), np.float32(1 << _FRACTION)


@compiled
def log(x: np.float32) -> np.float32:
    """The natural logarithm of a positive, normal float32, to about 1e-7."""
    bits = np.int32(np.float32(x).view(np.int32))
    exponent = (bits >> 23) - 127
    mantissa = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32)
    if mantissa > np.float32(1.4142135):
        mantissa *= np.float32(0.5)
        exponent += 1
    t = (mantissa - np.float32(1)) / (mantissa + np.float32(1))
    square = t * t
    series = _LOG_TERMS[0]
    for i in range(1, len(_LOG_TERMS)):
        series = series * square + _LOG_TERMS[i]
    return np.float32(exponent) * np.float32(0.6931472) + np.float32(2) * t * series


@compiled
def exp(x: np.float32) -> np.float32:
    """e to the power of a float32, which is first cut to +-80; to about 2e-7."""
    x = min(max(x, -_EXP_LIMIT), _EXP_LIMIT)
    n = np.int32(x * _LOG2_E + _ROUNDING) - np.int32(256)
    rest = (x - np.float32(n) * _LN2_HIGH) - np.float32(n) * _LN2_LOW
    total = _EXP_TERMS[0]
    for i in range(1, len(_EXP_TERMS)):
        total = total * rest + _EXP_TERMS[i]
    return total * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def flush(x: np.float32, least: np.float32) -> np.float32:
    """x, or 0 if it is next to 0, at most `least`: many processors are slow with denormal numbers."""
    return x if abs(x) > least else np.float32(0)


@functools.cache
def logistic_table() -> np.ndarray:
    """The logistic cdf at multiples of 2^-_CELLS from -_REACH to _REACH and one more: int64, in 2^-TABLE_BITS."""
    points = (2 * _REACH << _CELLS) + 2
    return decimals(lambda k: 1 / (1 + (_REACH - Decimal(k) / (1 << _CELLS)).exp()), points, TABLE_BITS)


@compiled
def logistic(z: np.float32, table: np.ndarray) -> np.int64:
    """The logistic cdf at z, interpolated in logistic_table(): int64, in 2^-TABLE_BITS."""
    at = np.int64(min(max(z + _FAR, np.float32(0)), _FURTHEST) * _ONES)
    cell, rest = at >> _CELL_SHIFT, at & ((1 << _CELL_SHIFT) - 1)
    low = table[cell]
    return low + ((table[cell + 1] - low) * rest >> _CELL_SHIFT)
