"""The interval model: its intervals tile the range whatever the parameters, cost what they should, and invert."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.logistic import Logistic, Uniform, tables
from codec.rans import PRECISION, EmptyLaneError, Rans
from utils import fixed_point
from utils.fixed_point import EqualMassBins, UniformBins, pixel_bins, quantize

TOTAL = 1 << PRECISION
ONE = 1 << fixed_point.FRACTION
scales = st.one_of(st.sampled_from([1e-3, 1e3, 1e-30, 1e30]), st.floats(1e-3, 1e3))
mus = st.one_of(st.floats(-20, 20), st.tuples(st.sampled_from([-1e6, 1e6]), scales).map(lambda pair: pair[0] * pair[1]))
bin_kinds = st.one_of(
    st.just(pixel_bins(1)),
    st.builds(
        lambda lo, width, q: UniformBins.between(np.array([lo]), np.array([lo + width]), 1 << q),
        st.floats(-30, 30), st.floats(1e-3, 60), st.integers(1, 12),
    ),
    st.integers(1, 12).map(lambda q: EqualMassBins(1 << q)),
)  # fmt: skip


def logistic(mu, scale, bins):
    return Logistic(*quantize(np.array([[mu]]), np.array([[scale]])), bins)


def all_intervals(distribution, n):
    """(start, freq) of every symbol of a one-dimensional distribution with one lane."""
    return np.array([[part.item() for part in distribution.interval(np.array([[k]]))] for k in range(n)]).T


def assert_tiles(start, freq):
    assert start[0] == 0
    assert (freq >= 1).all()
    np.testing.assert_array_equal(start[1:], (start + freq)[:-1])
    assert start[-1] + freq[-1] == TOTAL


@settings(max_examples=100, deadline=None)
@given(mus, scales, bin_kinds)
def test_intervals_tile_the_range(mu, scale, bins):
    assert_tiles(*all_intervals(logistic(mu, scale, bins), bins.n))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(st.sampled_from([-(1 << 31), 1 << 31]), st.integers(-(1 << 31), 1 << 31)),
    st.one_of(st.sampled_from([0, fixed_point.SCALES - 1]), st.integers(0, fixed_point.SCALES - 1)),
    st.one_of(st.sampled_from([-(1 << 38), 1 << 38]), st.integers(-(1 << 38), 1 << 38)),
    st.one_of(st.sampled_from([1, 1 << 38]), st.integers(1, 1 << 38)),
    st.integers(1, 12),
)
def test_no_integer_parameters_overflow(mu, scale, lo, width, q):
    """The cumulative frequencies are those of exact arithmetic on unbounded integers, at the very limits too."""
    n = 1 << q
    bins = UniformBins(n, np.array([lo]), np.array([(width << 12) // n or 1]))
    distribution = Logistic(np.array([[mu]]), np.array([[scale]]), bins)
    start, freq = all_intervals(distribution, n)
    assert_tiles(start, freq)
    cdf, inverses = tables()
    inverse = int(inverses[scale])
    for k in {1, n // 2, n - 1}:
        edge = lo + (k * int(bins.width[0]) >> 12)
        z = min(max((edge - mu) * (inverse >> 6) >> (inverse & 63), -24 * ONE), 24 * ONE) + 24 * ONE
        low, high = int(cdf[z >> 14]), int(cdf[(z >> 14) + 1])
        assert start[k] == k + ((TOTAL - n) * (low + ((high - low) * (z & 16383) >> 14)) >> 34)


@settings(max_examples=60, deadline=None)
@given(mus, scales, bin_kinds, st.data())
def test_pop_finds_the_interval(mu, scale, bins, data):
    distribution = logistic(mu, scale, bins)
    symbol = data.draw(st.integers(0, bins.n - 1))
    start, freq = (part.item() for part in distribution.interval(np.array([[symbol]])))
    for cf in (start, start + freq - 1, data.draw(st.integers(start, start + freq - 1))):
        lane = np.array([1, 2, 3 << PRECISION | cf, 1], np.uint32)
        popped, taken = Rans.from_words([lane]), Rans.from_words([lane])
        assert distribution.pop(popped, 1, 1).item() == symbol
        taken.pop([start], [freq])
        np.testing.assert_array_equal(popped.to_words(), taken.to_words())


def test_the_tables_are_the_functions():
    cdf, inverses = tables()
    points = np.arange(len(cdf)) / 64 - 24
    np.testing.assert_allclose(cdf / 2**34, scipy.special.expit(points), rtol=0, atol=2**-34)
    inverse = (inverses >> 6) / np.exp2(inverses & 63)
    np.testing.assert_allclose(inverse, np.exp2(12 - np.arange(fixed_point.SCALES) / 256), rtol=2e-6)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(
    "bins", [pixel_bins(1), UniformBins.between([-9.0], [8.0], 1024), EqualMassBins(1024)],
    ids=["pixels", "latent", "top"],
)  # fmt: skip
def test_cost_over_the_exact_discretized_logistic(bins, scale):
    """The expected code length is within 1e-4 bits of the entropy of the exact masses."""
    for mu in (-2.5, 0.0, 0.77):
        _, freq = all_intervals(logistic(mu, scale, bins), bins.n)
        edges = bins.edges[1:-1] if len(bins.edges) else bins.lo + (np.arange(1, bins.n) * bins.width >> 12)
        y = (edges / ONE - mu) / scale
        below, above = scipy.special.expit(y), scipy.special.expit(-y)
        # Each mass from the side where the difference loses no digits.
        below, above = np.concatenate(([0], below, [1])), np.concatenate(([1], above, [0]))
        mass = np.where(below[1:] < 0.5, np.diff(below), -np.diff(above))
        seen = mass > 0
        cost = (mass[seen] * (np.log2(mass[seen]) - np.log2(freq[seen] / TOTAL))).sum()
        assert -1e-9 < cost < 1e-4


@pytest.mark.parametrize("scale", [0.003, 0.05, 0.7])
def test_measured_length_is_the_information_content(scale):
    """Coding 200,000 draws takes, within 1e-4 bits a symbol, what the exact discretized logistic says."""
    rng = np.random.default_rng(1)
    lanes, dims = 50, 4000
    bins = UniformBins.between(np.full(dims, -2.0), np.full(dims, 2.0), 1024)
    mu = rng.uniform(-1, 1, (lanes, dims))
    symbols = np.floor((rng.logistic(mu, scale) + 2) / 4 * 1024).clip(0, 1023).astype(np.int64)
    low, high = (-2 + (symbols + k) * 4 / 1024 for k in (0, 1))
    low, high = np.where(symbols == 0, -np.inf, low), np.where(symbols == 1023, np.inf, high)
    side = np.where(low > mu, -1, 1)  # take each mass from the tail where the difference loses no digits
    exact = np.abs(scipy.special.expit(side * (high - mu) / scale) - scipy.special.expit(side * (low - mu) / scale))
    coder = Rans.from_words(rng.integers(1, 2**32, (lanes, 2), dtype=np.uint32))
    before = coder.bits()
    Logistic(*quantize(mu, np.full((lanes, dims), scale)), bins).push(coder, symbols)
    bits = coder.bits() - before
    assert abs(bits.sum() + np.log2(exact).sum()) / symbols.size < 1e-4


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.sampled_from([1e-3, 1.0, 1e3]), bin_kinds, st.integers(0, 2**32 - 1))
def test_pop_undoes_push_and_push_pop(lanes, dims, spread, bins, seed):
    rng = np.random.default_rng(seed)
    if isinstance(bins, UniformBins):
        bins = UniformBins(bins.n, np.repeat(bins.lo, dims), np.repeat(bins.width, dims))
    mu, scale = quantize(rng.normal(size=(lanes, dims)) * spread, spread * np.exp(rng.normal(size=(lanes, dims))))
    initial = rng.integers(1, 2**32, (lanes, dims + 2), dtype=np.uint32)
    distribution, coder = Logistic(mu, scale, bins), Rans.from_words(initial)
    symbols = rng.integers(0, bins.n, (lanes, dims))
    distribution.push(coder, symbols)
    np.testing.assert_array_equal(distribution.pop(coder, lanes, dims), symbols)
    np.testing.assert_array_equal(coder.to_words(), initial)
    popped = distribution.pop(coder, lanes, dims)
    distribution.push(coder, popped)
    np.testing.assert_array_equal(coder.to_words(), initial)


@pytest.mark.parametrize("distribution", [Logistic(np.zeros((2, 40), int), np.full((2, 40), 4000), pixel_bins(40)),
                                          Uniform(16)])  # fmt: skip
def test_popping_an_empty_lane_raises(distribution):
    coder = Rans.from_words(np.array([[1, 1], [1, 1]], np.uint32))
    with pytest.raises(EmptyLaneError, match="lane 0"):
        distribution.pop(coder, 2, 40)


def test_scale_without_a_lane_axis_is_shared():
    mu = np.zeros((3, 2), int)
    shared = Logistic(mu, np.array([3000, 3500]), pixel_bins(2)).interval(np.full((3, 2), 130))
    spelled = Logistic(mu, np.tile([3000, 3500], (3, 1)), pixel_bins(2)).interval(np.full((3, 2), 130))
    np.testing.assert_array_equal(shared, spelled)


@pytest.mark.parametrize("mu, scale", [((1 << 31) + 1, 0), (0, -1), (0, fixed_point.SCALES)])
def test_integers_out_of_range_are_refused(mu, scale):
    with pytest.raises(ValueError, match=r"range|index"):
        Logistic(np.array([[mu]]), np.array([[scale]]), pixel_bins(1))


def test_uniform():
    prior = Uniform(256)
    assert_tiles(*prior.interval(np.arange(256)))
    coder = Rans.from_words(np.full((1, 20), 77, np.uint32))
    symbols = np.array([[0, 255, 5]])
    prior.push(coder, symbols)
    np.testing.assert_array_equal(prior.pop(coder, 1, 3), symbols)
    np.testing.assert_array_equal(coder.to_words(), np.full((1, 20), 77))


@pytest.mark.parametrize("bins", [pixel_bins(4), EqualMassBins(256)], ids=["uniform bins", "equal-mass bins"])
def test_push_is_that_of_the_intervals(bins):
    rng = np.random.default_rng(0)
    distribution = Logistic(*quantize(rng.normal(size=(3, 4)), rng.uniform(0.1, 1, (3, 4))), bins)
    symbols = rng.integers(0, 256, (3, 4))
    ours, reference = (Rans.from_words(np.full((4, 9), 77, np.uint32)) for _ in range(2))
    distribution.push(ours, symbols)
    reference.push_block(*distribution.interval(symbols))
    for a, b in zip(ours.to_words(), reference.to_words(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("symbol", [-1, 256])
def test_a_symbol_of_no_bin_is_refused(symbol):
    coder = Rans.from_words(np.full((1, 9), 77, np.uint32))
    with pytest.raises(ValueError, match="256 bins"):
        logistic(0.0, 1.0, pixel_bins(1)).push(coder, np.array([[symbol]]))


def test_equal_mass_bins_have_equal_mass_under_the_prior():
    bins = EqualMassBins(64)
    _, freq = all_intervals(logistic(0.0, 1.0, bins), 64)
    np.testing.assert_allclose(freq, TOTAL // 64, rtol=2e-4)  # what the line between two points of the cdf leaves
    centres = bins.centres(np.arange(64)) / ONE
    np.testing.assert_allclose(scipy.special.expit(centres), (np.arange(64) + 0.5) / 64, rtol=0, atol=1e-6)
