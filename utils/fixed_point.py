"""Real numbers as integers, the same on every machine.

A real number r is the integer nearest to r * 2^FRACTION. A scale is an index into a table of SCALES scales, with
SCALES_PER_OCTAVE scales to a factor of two, from 2^LEAST_SCALE_LOG2 up. quantize() turns a network's mu and scale from
floats into integers; the bins of latents and pixels have integer edges and centres. From here to the bits there are
only integers.

Tables of non-linear functions are made with Python's decimal module. It rounds exp and ln correctly, and the same on
every machine, unlike the math library behind floating-point code.
"""

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np

from utils.compiled import compiled
from utils.errors import UserError

# Bits of a cumulative frequency. A push of rANS (codec/rans.py) rounds, with a relative error of up to
# 2^PRECISION / 2^32. Measured over logistic distributions of all widths, that costs 5e-4 bits a symbol at 31 bits, 1e-4
# at 30 and 1e-5 at 28. At 28 bits, the least frequency that each of 1024 bins gets (codec/logistic.py) costs 1e-5 bits.
PRECISION = 28
FRACTION = 20  # bits after the binary point of mu, edges and centres
SCALES_PER_OCTAVE = 256
LEAST_SCALE_LOG2 = -12
SCALES = 24 * SCALES_PER_OCTAVE
FINE = 12  # more bits for the width of a bin, which is multiplied by a symbol
MU_LIMIT = 1 << 31  # 2^11 as a real number
EDGE_LIMIT = 1 << 40  # together these keep (edge - mu) / scale within 64 bits

_ONE = 1 << FRACTION
_INFINITY = 1 << 62
_NO_NUMBER = -_INFINITY


def digits(count: int) -> AbstractContextManager:
    """A context in which Decimals have so many digits, and nothing that an application set for its own matters."""
    return localcontext(Context(count, ROUND_HALF_EVEN, -999_999, 999_999, capitals=1, clamp=0, flags=[], traps=[]))


def decimals(function: Callable[[int], Decimal], count: int, bits: int) -> np.ndarray:
    """[function(k) * 2^bits for k in range(count)], to the nearest integers, from Decimals of 40 digits."""
    with digits(40):
        return np.array([int((function(k) * 2**bits).to_integral_value()) for k in range(count)], np.int64)


@functools.cache
def _mantissas():
    """The scale nearest to 1 + (m + 0.5) / 2^11, in steps from 1, for m = 0 ... 2^11 - 1."""
    ln2 = Decimal(2).ln()
    return decimals(lambda m: (1 + (m + Decimal("0.5")) / 2**11).ln() / ln2 * SCALES_PER_OCTAVE, 1 << 11, 0)


@functools.cache
def _logits(n):
    """ln(k / (n - k)) for k = 1 ... n - 1."""
    return decimals(lambda k: (Decimal(k + 1) / (n - 1 - k)).ln(), n - 1, FRACTION)


def quantize(mu: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers that stand for parameters: (mu, scale), int64, from float32 or float64 arrays.

    Values out of range become the nearest in range, +-2^11 for mu.
    Raises UserError if mu is not finite, or scale is not finite and positive.
    """
    values, scales = _quantize_mu(np.ravel(mu)), _quantize_scale(np.ravel(scale), _mantissas())
    if min(values.min(initial=0), scales.min(initial=0)) == _NO_NUMBER:
        raise UserError("the network's outputs are not finite, or a scale is 0; use another checkpoint")
    return values.reshape(np.shape(mu)), scales.reshape(np.shape(scale))


@dataclass(frozen=True)
class UniformBins:
    """n bins of equal width on each dimension; the first and last reach to infinity.

    lo: int64 [dims], the lower edge of bin 0; width: int64 [dims], in units of 2^-(FRACTION + 12).
    """

    n: int
    lo: np.ndarray
    width: np.ndarray

    @classmethod
    def between(cls, lo: np.ndarray, hi: np.ndarray, n: int) -> "UniformBins":
        """n bins between lo and hi, float64 [dims] each. Raises ValueError if these are not ranges."""
        lo, width = np.asarray(lo, np.float64), (np.asarray(hi, np.float64) - lo) / n
        limit = EDGE_LIMIT / _ONE / 2
        if not (np.abs(lo).max() < limit and width.min() > 0 and width.max() * n < limit):
            raise ValueError(f"bins from {lo.min():g} to {np.max(hi):g} cannot be coded with")
        width = np.rint(width * (_ONE << FINE)).astype(np.int64)
        return cls(n, np.rint(lo * _ONE).astype(np.int64), np.maximum(width, 1))

    def centres(self, symbols: np.ndarray) -> np.ndarray:
        """Bin centres, int64 [lanes, dims], of symbols [lanes, dims]."""
        return self.lo + ((2 * symbols.astype(np.int64) + 1) * self.width >> FINE + 1)

    edges = np.empty(0, np.int64)  # they follow from lo and width


@dataclass(frozen=True)
class EqualMassBins:
    """n bins that each hold 1/n of the mass of Logistic(0, 1), the same on every dimension.

    edges: int64 [n + 1], the lower edge of every bin and the end of the last.
    """

    n: int

    lo = width = np.empty(0, np.int64)  # the edges are listed

    @property
    def edges(self) -> np.ndarray:
        return np.concatenate(([-EDGE_LIMIT], _logits(2 * self.n)[1::2], [EDGE_LIMIT]))

    def centres(self, symbols: np.ndarray) -> np.ndarray:
        """The points that halve the mass of each symbol's bin."""
        return _logits(2 * self.n)[2 * symbols.astype(np.int64)]


def pixel_bins(dims: int, levels: int = 256) -> UniformBins:
    """The grey levels k at (k - h) / h, where h = (levels - 1) / 2, with edges midway between them."""
    end = np.full(dims, levels / (levels - 1))
    return UniformBins.between(-end, end, levels)


Bins = UniformBins | EqualMassBins  # both have n, lo, width, edges, which go before lo and width if any, and centres()


@functools.cache
def elu_table(fraction: int) -> np.ndarray:
    """exp(x) - 1 at x = -k / 2^fraction, for k from 0 until it rounds to -1: int64 [K], with `fraction` fraction bits.

    Powers of exp(-2^-fraction) in integers with 160 fraction bits. Their errors stay below 2^-130, so that rounding to
    the nearest integer is correct.
    """
    one = 1 << 160
    with digits(60):
        ratio = int((Decimal(-1) / (1 << fraction)).exp() * one)
    table, power = [0], one
    while table[-1] > -(1 << fraction):
        power = power * ratio >> 160
        table.append(((power - one >> 159 - fraction) + 1) >> 1)
    return np.array(table)


@functools.cache
def scale_thresholds() -> dict[str, np.ndarray]:
    """Where the model's functions from std to scale pass from one entry of the table of scales to the next.

    Returns {"posterior": ..., "latent": ..., "pixel": ...}: int64 [SCALES - 1]. Threshold s - 1 is the least std, with
    FRACTION fraction bits, whose scale is nearer to entry s than to entry s - 1, in the logarithm. So the entry of a
    std is the number of thresholds that it reaches.
    """
    with digits(28):  # 20 are left after the subtractions
        infinity, tenth = Decimal("Infinity"), Decimal("0.1")
        half_step = (Decimal(2).ln() / (2 * SCALES_PER_OCTAVE)).exp()
        midpoints = [half_step * Decimal(2) ** LEAST_SCALE_LOG2]
        while len(midpoints) < SCALES - 1:
            midpoints.append(midpoints[-1] * half_step * half_step)

        def sigmoid_inverse(p):
            return -infinity if p <= 0 else infinity if p >= 1 else (p / (1 - p)).ln()

        def softplus_inverse(v):
            return -infinity if v <= 0 else v if v > 50 else (v.exp() - 1).ln()  # e^-50 is negligible next to 50

        def table(std_of):
            fixed = (max(-_INFINITY, min(_INFINITY, std_of(scale) * _ONE)) for scale in midpoints)
            return np.array([math.ceil(std) for std in fixed])

        shift = (Decimal(1).exp() - 1).ln()
        return {  # the inverses of what Model.infer() and Model.generate() do to std
            "posterior": table(lambda scale: sigmoid_inverse((scale - tenth) / (9 * tenth)) - 2),
            "latent": table(lambda scale: softplus_inverse((scale - tenth) / (9 * tenth)) - shift),
            "pixel": table(lambda scale: softplus_inverse(scale - Decimal(2) / 255 / 8)),
        }


@compiled
def _quantize_mu(values):
    out = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        scaled = min(max(np.float64(value) * _ONE, -float(MU_LIMIT)), float(MU_LIMIT))
        out[i] = np.int64(np.rint(scaled)) if np.isfinite(value) else _NO_NUMBER
    return out


@compiled
def _quantize_scale(values, mantissas):
    """The exponent and the mantissa's leading bits give the index: log2 would depend on a library's rounding."""
    bits = values.astype(np.float64).view(np.int64)
    out = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        octave = (bits[i] >> 52) - 1023 - LEAST_SCALE_LOG2
        index = octave * SCALES_PER_OCTAVE + mantissas[bits[i] >> 41 & (1 << 11) - 1]
        out[i] = min(max(index, 0), SCALES - 1) if np.isfinite(value) and value > 0 else _NO_NUMBER
    return out
