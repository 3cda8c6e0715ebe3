"""Logistic distributions over bins, as the integer intervals that rANS codes with.

All arithmetic is on integers, so that encoder and decoder cannot disagree: the same mu and scale give the same
intervals on any machine. A real number r is the integer nearest to r * 2^FRACTION. A scale is an index into a table
of SCALES scales, SCALES_PER_OCTAVE to a factor of two from 2^LEAST_SCALE_LOG2 up. quantize() takes both from floats.

A distribution is a pair of functions:

    push(coder, symbols)        symbols: int64 [lanes, dims], onto the first lanes of a Rans
    pop(coder, lanes, dims)     the inverse: int64 [lanes, dims]

so another one fits in by offering these two. Those here give every symbol a frequency of at least 1, whatever the
parameters, and never hold [dims, n] numbers: an interval costs two evaluations of the cdf, and finding one two more
in all but a few cases.
"""

import functools
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from utils.rans import PRECISION, compiled, pop_symbol, push_symbol, raise_if_empty, top

FRACTION = 20  # bits after the binary point of mu, edges and centres
SCALES_PER_OCTAVE = 256
LEAST_SCALE_LOG2 = -12
SCALES = 24 * SCALES_PER_OCTAVE

_TOTAL = 1 << PRECISION
_ONE = 1 << FRACTION
_FINE = 12  # more bits for the width of a bin, which is multiplied by a symbol
_MU_LIMIT = 1 << 31  # 2^11 as a real number
_EDGE_LIMIT = 1 << 40  # together these keep (edge - mu) / scale within 64 bits
# The cdf of Logistic(0, 1) is a line between 2^_CELLS points a unit, in units of 2^-_CDF_BITS. Its slope is off by
# 2^-(_CELLS + 1) at the most, which costs 2e-5 bits a symbol.
_CELLS = 6
_CDF_BITS = 34
_REACH = 24  # beyond this the cdf is 0 or 1, to 2^-34
_CELL_SHIFT = FRACTION - _CELLS
_NO_NUMBER = -(1 << 62)


def _decimals(function, count, bits):
    """[function(k) * 2^bits for k in range(count)], to the nearest integers, from Decimals of 40 digits."""
    with localcontext() as context:
        context.prec = 40
        return np.array([int((function(k) * 2**bits).to_integral_value()) for k in range(count)], np.int64)


def _sigmoid(y):
    return 1 / (1 + (-y).exp())


@functools.cache
def _tables():
    """(cdf, inverse): the cdf at every point, and 1 / scale of every scale, a 20-bit mantissa above a 6-bit shift."""
    points = _decimals(lambda k: _sigmoid(Decimal(k) / (1 << _CELLS) - _REACH), (2 * _REACH << _CELLS) + 2, _CDF_BITS)
    octave = _decimals(lambda k: 2 ** (-Decimal(k) / SCALES_PER_OCTAVE), SCALES_PER_OCTAVE, FRACTION)
    octaves, k = np.divmod(np.arange(SCALES), SCALES_PER_OCTAVE)
    return points, octave[k] << 6 | (FRACTION + LEAST_SCALE_LOG2 + octaves)


@functools.cache
def _mantissas():
    """The scale nearest to 1 + (m + 0.5) / 2^11, in steps from 1, for m = 0 ... 2^11 - 1."""
    ln2 = Decimal(2).ln()
    return _decimals(lambda m: (1 + (m + Decimal("0.5")) / 2**11).ln() / ln2 * SCALES_PER_OCTAVE, 1 << 11, 0)


@functools.cache
def _logits(n):
    """ln(k / (n - k)) for k = 1 ... n - 1."""
    return _decimals(lambda k: (Decimal(k + 1) / (n - 1 - k)).ln(), n - 1, FRACTION)


def scale_values():
    """The table of scales, float64 [SCALES]."""
    return np.exp2(np.arange(SCALES) / SCALES_PER_OCTAVE + LEAST_SCALE_LOG2)


def quantize(mu, scale):
    """The integers that stand for parameters: (mu, scale), int64, from float32 or float64 arrays of the same shapes.

    Out of range, mu is taken to be +-2^11 and scale the nearest that there is.
    Raises ValueError where mu is not finite, or scale not finite and positive.
    """
    values, scales = _quantize_mu(np.ravel(mu)), _quantize_scale(np.ravel(scale), _mantissas())
    if values.min(initial=0) == _NO_NUMBER or scales.min(initial=0) == _NO_NUMBER:
        raise ValueError("mu and scale must be finite and scale positive: the network's outputs are not")
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
    def between(cls, lo, hi, n):
        """n bins between lo and hi, float64 [dims] each. Raises ValueError where these are not ranges to divide."""
        lo, width = np.asarray(lo, np.float64), (np.asarray(hi, np.float64) - lo) / n
        limit = _EDGE_LIMIT / _ONE / 2
        if not (np.abs(lo).max() < limit and width.min() > 0 and width.max() * n < limit):
            raise ValueError(f"bins from {lo.min():g} to {np.max(hi):g} cannot be coded with")
        width = np.rint(width * (_ONE << _FINE)).astype(np.int64)
        return cls(n, np.rint(lo * _ONE).astype(np.int64), np.maximum(width, 1))

    def centres(self, symbols):
        """Bin centres, int64 [lanes, dims], of symbols [lanes, dims]."""
        return self.lo + ((2 * symbols.astype(np.int64) + 1) * self.width >> _FINE + 1)

    edges = np.empty(0, np.int64)  # lo and width say it all


@dataclass(frozen=True)
class EqualMassBins:
    """n bins that each hold 1/n of the mass of Logistic(0, 1), the same on every dimension.

    edges: int64 [n + 1], the lower edge of every bin and the end of the last.
    """

    n: int

    lo = width = np.empty(0, np.int64)  # the edges say it all

    @property
    def edges(self):
        return np.concatenate(([-_EDGE_LIMIT], _logits(2 * self.n)[1::2], [_EDGE_LIMIT]))

    def centres(self, symbols):
        """The points that halve the mass of each symbol's bin."""
        return _logits(2 * self.n)[2 * symbols.astype(np.int64)]


def pixel_bins(dims):
    """The 256 grey levels at (k - 127.5) / 127.5, with edges midway between them."""
    return UniformBins.between(np.full(dims, -128 / 127.5), np.full(dims, 128 / 127.5), 256)


class Logistic:
    """Logistic(mu, scale) over bins.

    mu: int64 [lanes, dims], of magnitude 2^31 at the most. scale: int64, of that shape or [dims], indices of the table.
    bins: as above. Raises ValueError where a parameter is out of range.
    """

    def __init__(self, mu, scale, bins):
        mu = np.ascontiguousarray(mu, np.int64)
        if np.shape(scale) != mu.shape:
            scale = np.broadcast_to(scale, mu.shape).copy()
        scale = np.ascontiguousarray(scale, np.int64)
        if mu.size and max(mu.max(), -mu.min()) > _MU_LIMIT:
            raise ValueError("mu is out of range")
        if scale.size and (scale.min() < 0 or scale.max() >= SCALES):
            raise ValueError("scale is not an index of the table of scales")
        self.parameters = (mu, scale, bins.n, bins.lo, bins.width, bins.edges, *_tables())

    def interval(self, symbols):
        """Intervals (start, freq), int64 [lanes, dims], of symbols [lanes, dims]."""
        return _interval(np.ascontiguousarray(symbols, np.int64), *self.parameters)

    def locate(self, cf):
        """The (symbols, start, freq), int64 [lanes, dims], of the intervals that hold cf [lanes, dims]."""
        return _locate(np.ascontiguousarray(cf, np.int64), *self.parameters)

    def push(self, coder, symbols):
        """Push symbols, int64 [lanes, dims], the last dimension first. Raises ValueError where one is not of a bin."""
        symbols = np.ascontiguousarray(symbols, np.int64)
        mu, _, n = self.parameters[:3]
        assert symbols.shape == mu.shape
        if symbols.size and (symbols.min() < 0 or symbols.max() >= n):
            raise ValueError(f"a symbol is not one of {n} bins")
        coder.reserve(symbols.shape[1])
        _push(coder.heads, coder.words, coder.counts, symbols, *self.parameters)

    def pop(self, coder, lanes, dims):
        """Pop symbols, int64 [lanes, dims]. Raises EmptyLaneError where a lane runs out; it is of no use then."""
        mu = self.parameters[0]
        assert mu.shape == (lanes, dims)
        symbols = np.empty((lanes, dims), np.int64)
        raise_if_empty(_pop(coder.heads, coder.words, coder.counts, symbols, *self.parameters))
        return symbols


class Uniform:
    """Equal masses on n = 2^q symbols: the prior, Logistic(0, 1), over EqualMassBins."""

    def __init__(self, n):
        self._shift = PRECISION - (n.bit_length() - 1)
        assert n == 1 << (PRECISION - self._shift), "n is a power of two"

    def interval(self, symbols):
        """Intervals (start, freq) of symbols, of their shape."""
        start = symbols.astype(np.int64) << self._shift
        return start, np.full_like(start, 1 << self._shift)

    def push(self, coder, symbols):
        """Push symbols, int64 [lanes, dims], the last dimension first."""
        coder.push_block(*self.interval(symbols))

    def pop(self, coder, lanes, dims):
        """Pop symbols, int64 [lanes, dims]. Raises EmptyLaneError where a lane runs out; it is of no use then."""
        symbols = np.empty((lanes, dims), np.int64)
        raise_if_empty(_pop_uniform(coder.heads, coder.words, coder.counts, symbols, self._shift))
        return symbols


@compiled
def _quantize_mu(values):
    out = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        scaled = min(max(np.float64(value) * _ONE, -float(_MU_LIMIT)), float(_MU_LIMIT))
        out[i] = np.int64(np.rint(scaled)) if np.isfinite(value) else _NO_NUMBER
    return out


@compiled
def _quantize_scale(values, mantissas):
    """The exponent and the mantissa's leading bits give the index: with log2, a library's rounding would have a say."""
    bits = values.astype(np.float64).view(np.int64)
    out = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        octave = (bits[i] >> 52) - 1023 - LEAST_SCALE_LOG2
        index = octave * SCALES_PER_OCTAVE + mantissas[bits[i] >> 41 & (1 << 11) - 1]
        out[i] = min(max(index, 0), SCALES - 1) if np.isfinite(value) and value > 0 else _NO_NUMBER
    return out


@compiled
def _cumulative(k, n, d, mu, inverse, lo, width, edges, cdf):
    """F(k): the mass below bin k in units of 2^-PRECISION, with F(0) = 0 and F(n) = 2^PRECISION.

    Every bin is given one unit before the cdf shares out the rest. The cdf never falls as the edges rise, each step
    to it being monotone, so F rises by at least one a bin.
    """
    if k <= 0:
        return 0
    if k >= n:
        return _TOTAL
    edge = edges[k] if len(edges) else lo[d] + (k * width[d] >> _FINE)
    z = (edge - mu) * (inverse >> 6) >> (inverse & 63)
    z = min(max(z, -_REACH << FRACTION), _REACH << FRACTION) + (_REACH << FRACTION)
    cell, rest = z >> _CELL_SHIFT, z & ((1 << _CELL_SHIFT) - 1)
    mass = cdf[cell] + ((cdf[cell + 1] - cdf[cell]) * rest >> _CELL_SHIFT)
    return k + ((_TOTAL - n) * mass >> _CDF_BITS)


@compiled
def _interval(symbols, mu, scale, n, lo, width, edges, cdf, inverses):
    start, freq = np.empty_like(symbols), np.empty_like(symbols)
    lanes, dims = symbols.shape
    for lane in range(lanes):
        for d in range(dims):
            k, m, inverse = symbols[lane, d], mu[lane, d], inverses[scale[lane, d]]
            begin = _cumulative(k, n, d, m, inverse, lo, width, edges, cdf)
            start[lane, d] = begin
            freq[lane, d] = _cumulative(k + 1, n, d, m, inverse, lo, width, edges, cdf) - begin
    return start, freq


@compiled
def _find(cf, n, d, mu, inverse, lo, width, edges, cdf):
    """The (symbol, start, freq) whose interval holds cf.

    Floats guess the symbol, integers decide: no result depends on how log rounds.
    """
    u = (cf + 0.5) / _TOTAL
    scale = (1 << (inverse & 63)) / (inverse >> 6)
    value = mu + scale * _ONE * np.log(u / (1 - u))
    guess = n / (1 + np.exp(min(-value / _ONE, 700.0))) if len(edges) else (value - lo[d]) * (1 << _FINE) / width[d]
    k = np.int64(min(max(guess, 0.0), n - 1.0))
    low, high, near = 0, n - 1, True
    while True:
        start = _cumulative(k, n, d, mu, inverse, lo, width, edges, cdf)
        end = _cumulative(k + 1, n, d, mu, inverse, lo, width, edges, cdf)
        if start <= cf < end:
            return k, start, end - start
        if cf < start:
            high = k - 1
        else:
            low = k + 1
        # One bin off is usual, so try the next one first; then halve what is left.
        k = (high if cf < start else low) if near else (low + high) // 2
        near = False


@compiled
def _locate(cf, mu, scale, n, lo, width, edges, cdf, inverses):
    symbols, start, freq = np.empty_like(cf), np.empty_like(cf), np.empty_like(cf)
    lanes, dims = cf.shape
    for lane in range(lanes):
        for d in range(dims):
            inverse = inverses[scale[lane, d]]
            found = _find(cf[lane, d], n, d, mu[lane, d], inverse, lo, width, edges, cdf)
            symbols[lane, d], start[lane, d], freq[lane, d] = found
    return symbols, start, freq


@compiled
def _push(heads, words, counts, symbols, mu, scale, n, lo, width, edges, cdf, inverses):
    lanes, dims = symbols.shape
    for lane in range(lanes):
        for d in range(dims - 1, -1, -1):
            k, m, inverse = symbols[lane, d], mu[lane, d], inverses[scale[lane, d]]
            start = _cumulative(k, n, d, m, inverse, lo, width, edges, cdf)
            end = _cumulative(k + 1, n, d, m, inverse, lo, width, edges, cdf)
            push_symbol(heads, words, counts, lane, start, end - start)


@compiled
def _pop(heads, words, counts, symbols, mu, scale, n, lo, width, edges, cdf, inverses):
    lanes, dims = symbols.shape
    for lane in range(lanes):
        for d in range(dims):
            inverse = inverses[scale[lane, d]]
            k, start, freq = _find(top(heads, lane), n, d, mu[lane, d], inverse, lo, width, edges, cdf)
            symbols[lane, d] = k
            if not pop_symbol(heads, words, counts, lane, start, freq):
                return lane
    return -1


@compiled
def _pop_uniform(heads, words, counts, symbols, shift):
    lanes, dims = symbols.shape
    for lane in range(lanes):
        for d in range(dims):
            k = top(heads, lane) >> shift
            symbols[lane, d] = k
            if not pop_symbol(heads, words, counts, lane, k << shift, 1 << shift):
                return lane
    return -1
