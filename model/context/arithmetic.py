"""The logarithm and the exponential function in float32, the same bits on every machine.

Encoder and decoder must compute the same distributions to the bit. So everything from the pixels to the mixture's
parameters is float32 with + - * / and square roots only, in an order that is written down. IEEE 754 rounds each of
these in one way. Numba compiles it without leave to reassociate or to fuse a multiplication with an addition, and the
functions here replace those of a library, which differ between machines.
"""

import numpy as np

from utils.compiled import compiled

_EXP_LIMIT = np.float32(80)
_LOG2_E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUNDING = np.float32(256.5)
_TERMS = np.array([1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1], np.float32)


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
    series = np.float32(1 / 9)
    series = series * square + np.float32(1 / 7)
    series = series * square + np.float32(1 / 5)
    series = series * square + np.float32(1 / 3)
    series = series * square + np.float32(1)
    return np.float32(exponent) * np.float32(0.6931472) + np.float32(2) * t * series


@compiled
def exp(x: np.float32) -> np.float32:
    """e to the power of a float32, which is first cut to +-80; to about 2e-7."""
    x = min(max(x, -_EXP_LIMIT), _EXP_LIMIT)
    n = np.int32(x * _LOG2_E + _ROUNDING) - np.int32(256)
    rest = (x - np.float32(n) * _LN2_HIGH) - np.float32(n) * _LN2_LOW
    total = _TERMS[0]
    for i in range(1, len(_TERMS)):
        total = total * rest + _TERMS[i]
    return total * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)
