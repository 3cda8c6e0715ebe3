"""A logistic distribution over bins, and a uniform one, as the integer intervals that rANS codes with.

A distribution is a pair of functions:

    push(coder, symbols)        symbols: int64 [lanes, dims], onto the first lanes of a Rans
    pop(coder, lanes, dims)     the inverse: int64 [lanes, dims]

so another one fits in by offering these two (bitsback.Distribution). Those here give every symbol a frequency of at
least 1, whatever the parameters, and never hold [dims, n] numbers: an interval costs two evaluations of the cdf, and
finding one two more in all but a few cases. All arithmetic is on integers (utils.fixed_point), so that encoder and
decoder cannot disagree: the same mu and scale give the same intervals on any machine.
"""

import functools
from decimal import Decimal

import numpy as np

from codec.rans import PRECISION, Rans, pop_symbol, push_symbol, raise_if_empty, top
from utils.compiled import compiled
from utils.fixed_point import FINE, FRACTION, LEAST_SCALE_LOG2, MU_LIMIT, SCALES, SCALES_PER_OCTAVE, Bins, decimals

_TOTAL = 1 << PRECISION
_ONE = 1 << FRACTION
# The cdf of Logistic(0, 1) is a line between 2^_CELLS points a unit, in units of 2^-_CDF_BITS. Its slope is off by
# 2^-(_CELLS + 1) at the most, which costs 2e-5 bits a symbol.
_CELLS = 6
_CDF_BITS = 34
_REACH = 24  # beyond this the cdf is 0 or 1, to 2^-34
_CELL_SHIFT = FRACTION - _CELLS


def _sigmoid(y):
    return 1 / (1 + (-y).exp())


@functools.cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """(cdf, inverse): the cdf at every point, and 1 / scale of every scale, a 20-bit mantissa above a 6-bit shift."""
    points = decimals(lambda k: _sigmoid(Decimal(k) / (1 << _CELLS) - _REACH), (2 * _REACH << _CELLS) + 2, _CDF_BITS)
    octave = decimals(lambda k: 2 ** (-Decimal(k) / SCALES_PER_OCTAVE), SCALES_PER_OCTAVE, FRACTION)
    octaves, k = np.divmod(np.arange(SCALES), SCALES_PER_OCTAVE)
    return points, octave[k] << 6 | (FRACTION + LEAST_SCALE_LOG2 + octaves)


class Logistic:
    """Logistic(mu, scale) over bins.

    mu: int64 [lanes, dims], of magnitude 2^31 at the most. scale: int64, of that shape or [dims], indices of the table.
    Raises ValueError where a parameter is out of range.
    """

    def __init__(self, mu: np.ndarray, scale: np.ndarray, bins: Bins) -> None:
        mu = np.ascontiguousarray(mu, np.int64)
        if np.shape(scale) != mu.shape:
            scale = np.broadcast_to(scale, mu.shape).copy()
        scale = np.ascontiguousarray(scale, np.int64)
        if mu.size and max(mu.max(), -mu.min()) > MU_LIMIT:
            raise ValueError("mu is out of range")
        if scale.size and (scale.min() < 0 or scale.max() >= SCALES):
            raise ValueError("scale is not an index of the table of scales")
        self.parameters = (mu, scale, bins.n, bins.lo, bins.width, bins.edges, *tables())

    def interval(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intervals (start, freq), int64 [lanes, dims], of symbols [lanes, dims]: PRECISION - log2(freq) bits each."""
        return _interval(np.ascontiguousarray(symbols, np.int64), *self.parameters)

    def push(self, coder: Rans, symbols: np.ndarray) -> None:
        """Push symbols, int64 [lanes, dims], the last dimension first. Raises ValueError where one is not of a bin."""
        symbols = np.ascontiguousarray(symbols, np.int64)
        mu, _, n = self.parameters[:3]
        assert symbols.shape == mu.shape
        if symbols.size and (symbols.min() < 0 or symbols.max() >= n):
            raise ValueError(f"a symbol is not one of {n} bins")
        coder.reserve(symbols.shape[1])
        _push(coder.heads, coder.words, coder.counts, symbols, *self.parameters)

    def pop(self, coder: Rans, lanes: int, dims: int) -> np.ndarray:
        """Pop symbols, int64 [lanes, dims]. Raises EmptyLaneError where a lane runs out."""
        mu = self.parameters[0]
        assert mu.shape == (lanes, dims)
        symbols = np.empty((lanes, dims), np.int64)
        raise_if_empty(_pop(coder.heads, coder.words, coder.counts, symbols, *self.parameters))
        return symbols


class Uniform:
    """Equal masses on n = 2^q symbols: the prior, Logistic(0, 1), over EqualMassBins."""

    def __init__(self, n: int) -> None:
        self._shift = PRECISION - (n.bit_length() - 1)
        assert n == 1 << (PRECISION - self._shift), "n is a power of two"

    def interval(self, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intervals (start, freq) of symbols, of their shape."""
        start = symbols.astype(np.int64) << self._shift
        return start, np.full_like(start, 1 << self._shift)

    def push(self, coder: Rans, symbols: np.ndarray) -> None:
        """Push symbols, int64 [lanes, dims], the last dimension first."""
        coder.push_block(*self.interval(symbols))

    def pop(self, coder: Rans, lanes: int, dims: int) -> np.ndarray:
        """Pop symbols, int64 [lanes, dims]. Raises EmptyLaneError where a lane runs out."""
        symbols = np.empty((lanes, dims), np.int64)
        raise_if_empty(_pop_uniform(coder.heads, coder.words, coder.counts, symbols, self._shift))
        return symbols


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
    edge = edges[k] if len(edges) else lo[d] + (k * width[d] >> FINE)
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
    guess = n / (1 + np.exp(min(-value / _ONE, 700.0))) if len(edges) else (value - lo[d]) * (1 << FINE) / width[d]
    k = int(min(max(guess, 0.0), n - 1.0))
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
