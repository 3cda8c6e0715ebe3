"""Logistic distributions over bins, as the integer intervals that rANS codes with.

A distribution over n bins offers, for blocks [lanes, dims] of symbols 0..n-1:

    interval(symbols) -> (start, freq)             int64 [lanes, dims], for pushing
    locate(cf, d)     -> (symbols, start, freq)    int64 [lanes], for popping dimension d

where [start, start + freq) are the symbol's cumulative frequencies out of 2^PRECISION, freq >= 1, and the symbols of
one dimension tile the whole range. Nothing here ever holds [dims, n] numbers: an interval costs two cdf evaluations,
and finding one costs two more in all but a few cases. All arithmetic is in float64.
"""

from dataclasses import dataclass

import numpy as np

from utils.rans import PRECISION

_TOTAL = 1 << PRECISION


@dataclass(frozen=True)
class UniformBins:
    """n bins of equal width on each dimension; the first and last reach to infinity.

    lo, width: float64 [dims], the lower edge of bin 0 and the width.
    """

    n: int
    lo: np.ndarray
    width: np.ndarray

    def centres(self, symbols):
        """Bin centres, float64 [lanes, dims], of symbols [lanes, dims]."""
        return self.lo + (symbols + 0.5) * self.width

    def edges(self, symbols, d):
        """Lower edges of symbols, [..., lanes] of dimension d or [dims, lanes] with d = slice(None)."""
        if isinstance(d, slice):
            return self.lo[:, None] + symbols * self.width[:, None]
        return self.lo[d] + symbols * self.width[d]

    def index(self, values, d):
        """Position of values [lanes] on dimension d, in bins from the lower edge of bin 0."""
        return (values - self.lo[d]) / self.width[d]


@dataclass(frozen=True)
class EqualMassBins:
    """n bins that each hold 1/n of the mass of Logistic(0, 1), the same on every dimension."""

    n: int

    def __post_init__(self):
        k = np.arange(1, self.n)
        edges = np.concatenate(([-np.inf], np.log(k / (self.n - k)), [np.inf]))
        middles = np.arange(self.n) + 0.5
        object.__setattr__(self, "_edges", edges)
        object.__setattr__(self, "_centres", np.log(middles / (self.n - middles)))

    def centres(self, symbols):
        """The points that halve the mass of each symbol's bin."""
        return self._centres[symbols]

    def edges(self, symbols, d):
        """Lower edges of symbols; d does not matter."""
        return self._edges[symbols]

    def index(self, values, d):
        """Position of values in bins from minus infinity; d does not matter."""
        return self.n / (1 + np.exp(np.minimum(-values, 700)))


def pixel_bins(dims):
    """The 256 grey levels at (k - 127.5) / 127.5, with edges midway between them."""
    return UniformBins(256, np.full(dims, -128 / 127.5), np.full(dims, 1 / 127.5))


def latent_bins(lo, hi, n):
    """n bins of equal width between lo and hi, float64 [dims] each."""
    return UniformBins(n, lo, (hi - lo) / n)


class Logistic:
    """Logistic(mu, scale) over bins.

    mu, scale: [lanes, dims], or [dims] where the lanes share it; finite, scale > 0. bins: as above.
    Raises ValueError where mu or scale are not numbers a distribution can have.
    """

    def __init__(self, mu, scale, bins):
        # [dims, lanes], contiguous: the coder walks along dimensions. Contiguous also because NumPy may take
        # another exp for strided arrays, and push and pop must see the same last bit.
        self._mu, self._scale = (np.ascontiguousarray(part.T, np.float64) for part in np.broadcast_arrays(mu, scale))
        if not (np.isfinite(self._mu).all() and np.isfinite(self._scale).all() and self._scale.min(initial=1) > 0):
            raise ValueError("mu and scale must be finite and scale positive: the network's outputs are not")
        self._bins = bins

    def interval(self, symbols):
        """Intervals (start, freq), int64 [lanes, dims], of symbols [lanes, dims]."""
        symbols = np.ascontiguousarray(symbols.T, np.int64)
        start = self._cumulative(symbols, slice(None))
        return start.T, (self._cumulative(symbols + 1, slice(None)) - start).T

    def locate(self, cf, d):
        """The (symbols, start, freq), int64 [lanes], whose intervals on dimension d hold cf [lanes].

        The quantile function gives the symbol nearly always; bisection finds those that it misses.
        """
        cf = cf.astype(np.int64)
        u = (cf + 0.5) / _TOTAL
        index = self._bins.index(self._mu[d] + self._scale[d] * np.log(u / (1 - u)), d)
        symbols = np.minimum(np.maximum(index, 0), self._bins.n - 1).astype(np.int64)
        start, end = self._cumulative(np.stack((symbols, symbols + 1)), d)
        missed = (cf < start) | (cf >= end)
        if missed.any():
            symbols = np.where(missed, self._bisect(cf, d), symbols)
            start, end = self._cumulative(np.stack((symbols, symbols + 1)), d)
        return symbols, start, end - start

    def _bisect(self, cf, d):
        low, high = np.zeros_like(cf), np.full_like(cf, self._bins.n)
        while (high - low).max() > 1:
            middle = (low + high) // 2
            below = self._cumulative(middle, d) <= cf
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low

    def _cumulative(self, symbols, d):
        """F(k): the mass below bin k in units of 2^-PRECISION, with F(0) = 0, F(n) = 2^PRECISION.

        Every bin is given 2 units before the cdf shares out the rest. So F rises by at least 1 a bin even where
        the computed cdf is flat, or falls by an ulp, as exp is not correctly rounded, and loses 1 to the floor.
        """
        n = self._bins.n
        exponent = (self._mu[d] - self._bins.edges(symbols, d)) / self._scale[d]
        cdf = 1 / (1 + np.exp(np.minimum(exponent, 700)))  # e^700 is finite, and 1 over it less than any unit
        inner = 2 * symbols + ((_TOTAL - 2 * n) * cdf).astype(np.int64)
        return np.where(symbols <= 0, 0, np.where(symbols >= n, _TOTAL, inner))


class Uniform:
    """Equal masses on n = 2^q symbols: the prior, Logistic(0, 1), over EqualMassBins."""

    def __init__(self, n):
        self._shift = PRECISION - (n.bit_length() - 1)
        assert n == 1 << (PRECISION - self._shift), "n is a power of two"

    def interval(self, symbols):
        """Intervals (start, freq) of symbols, of their shape."""
        start = symbols.astype(np.int64) << self._shift
        return start, np.full_like(start, 1 << self._shift)

    def locate(self, cf, d):
        """The (symbols, start, freq) whose intervals hold cf."""
        symbols = cf.astype(np.int64) >> self._shift
        return symbols, *self.interval(symbols)
