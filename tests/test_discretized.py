"""The interval model: its intervals tile the range whatever the parameters, cost what they should, and invert."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import discretized
from utils.discretized import EqualMassBins, Logistic, Uniform, latent_bins, pixel_bins
from utils.rans import PRECISION, Rans

TOTAL = 1 << PRECISION

scales = st.one_of(st.sampled_from([1e-3, 1e3, 1e-30, 1e30]), st.floats(1e-3, 1e3))
mus = st.one_of(st.floats(-20, 20), st.tuples(st.sampled_from([-1e6, 1e6]), scales).map(lambda pair: pair[0] * pair[1]))
bin_kinds = st.one_of(
    st.just(pixel_bins(1)),
    st.builds(
        lambda lo, width, q: latent_bins(np.array([lo]), np.array([lo + width]), 1 << q),
        st.floats(-30, 30), st.floats(1e-3, 60), st.integers(1, 12),
    ),
    st.integers(1, 12).map(lambda q: EqualMassBins(1 << q)),
)  # fmt: skip


def logistic(mu, scale, bins):
    return Logistic(np.array([[mu]]), np.array([[scale]]), bins)


def all_intervals(distribution, n):
    """(start, freq) of every symbol of a one-dimensional distribution with one lane."""
    start, freq = [], []
    for symbol in range(n):
        s, f = distribution.interval(np.array([[symbol]]))
        start.append(s.item())
        freq.append(f.item())
    return np.array(start), np.array(freq)


def assert_tiles(start, freq):
    assert start[0] == 0
    assert (freq >= 1).all()
    np.testing.assert_array_equal(start[1:], (start + freq)[:-1])
    assert start[-1] + freq[-1] == TOTAL


@settings(max_examples=60, deadline=None)
@given(mus, scales, bin_kinds)
def test_intervals_tile_the_range(mu, scale, bins):
    symbols = np.arange(bins.n)[:, None]  # all symbols at once, as lanes
    if isinstance(bins, EqualMassBins):
        distribution = Logistic(np.full((bins.n, 1), mu), np.full((bins.n, 1), scale), bins)
    else:
        distribution = Logistic(np.full((bins.n, 1), mu), np.array([scale]), bins)
    start, freq = (part[:, 0] for part in distribution.interval(symbols))
    assert_tiles(start, freq)


@settings(max_examples=60, deadline=None)
@given(mus, scales, bin_kinds, st.data())
def test_locate_finds_the_interval(mu, scale, bins, data):
    distribution = logistic(mu, scale, bins)
    symbol = data.draw(st.integers(0, bins.n - 1))
    start, freq = (part.item() for part in distribution.interval(np.array([[symbol]])))
    for cf in (start, start + freq - 1, data.draw(st.integers(start, start + freq - 1))):
        found = distribution.locate(np.array([cf], np.uint64), 0)
        assert [part.item() for part in found] == [symbol, start, freq]


@pytest.mark.parametrize("mu, scale", [(0.1, 0.3), (0, 1e-3), (5, 1e3), (1e6, 1), (-1e6, 1)])
def test_an_exp_that_wobbles_leaves_no_interval_empty(monkeypatch, mu, scale):
    """Libraries promise exp to an ulp or so, not that it rises. Shake every result by 8 ulps, either way."""
    plain, rng = np.exp, np.random.default_rng(0)
    monkeypatch.setattr(discretized.np, "exp", lambda x: plain(x) * (1 + rng.integers(-8, 9, np.shape(x)) * 2.0**-52))
    n = 1 << 12
    bins = latent_bins(np.array([-3.0]), np.array([3.0]), n)
    shaken = Logistic(np.full((n + 1, 1), mu), np.full((n + 1, 1), scale), bins)
    for _ in range(20):
        cumulative = shaken._cumulative(np.arange(n + 1)[None], slice(None))[0]
        assert (np.diff(cumulative) >= 1).all()


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
@pytest.mark.parametrize(
    "bins", [pixel_bins(1), latent_bins(np.array([-9.0]), np.array([8.0]), 1024), EqualMassBins(1024)],
    ids=["pixels", "latent", "top"],
)  # fmt: skip
def test_cost_over_the_exact_discretized_logistic(bins, scale):
    """The expected code length is within 1e-4 bits of the entropy of the exact masses."""
    for mu in (-2.5, 0.0, 0.77):
        _, freq = all_intervals(logistic(mu, scale, bins), bins.n)
        edges = bins.edges(np.arange(1, bins.n), 0)
        y = (edges - mu) / scale
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
    bins = latent_bins(np.full(dims, -2.0), np.full(dims, 2.0), 1024)
    mu = rng.uniform(-1, 1, (lanes, dims))
    symbols = np.floor((rng.logistic(mu, scale) + 2) / 4 * 1024).clip(0, 1023).astype(np.int64)
    low, high = (-2 + (symbols + k) * 4 / 1024 for k in (0, 1))
    low, high = np.where(symbols == 0, -np.inf, low), np.where(symbols == 1023, np.inf, high)
    side = np.where(low > mu, -1, 1)  # take each mass from the tail where the difference loses no digits
    exact = np.abs(scipy.special.expit(side * (high - mu) / scale) - scipy.special.expit(side * (low - mu) / scale))
    coder = Rans.from_words(rng.integers(1, 2**32, (lanes, 2), dtype=np.uint32))
    before = np.log2(coder.heads.astype(float))
    coder.push_block(*Logistic(mu, np.full((lanes, dims), scale), bins).interval(symbols))
    bits = 32 * coder.counts + np.log2(coder.heads.astype(float)) - before
    assert abs(bits.sum() + np.log2(exact).sum()) / symbols.size < 1e-4


def test_block_and_single_dimension_agree():
    rng = np.random.default_rng(0)
    mu, scale = rng.normal(size=(7, 50)), np.exp(rng.normal(size=(7, 50)))
    distribution = Logistic(mu, scale, latent_bins(np.full(50, -5.0), rng.uniform(4, 6, 50), 256))
    symbols = rng.integers(0, 256, (7, 50))
    start, freq = distribution.interval(symbols)
    for d in range(50):
        for cf in (start[:, d], start[:, d] + freq[:, d] - 1):
            found = distribution.locate(cf.astype(np.uint64), d)
            for ours, theirs in zip(found, (symbols[:, d], start[:, d], freq[:, d]), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_scale_without_a_lane_axis_is_shared():
    mu = np.zeros((3, 2))
    shared = Logistic(mu, np.array([0.5, 2.0]), pixel_bins(2)).interval(np.full((3, 2), 130))
    spelled = Logistic(mu, np.tile([0.5, 2.0], (3, 1)), pixel_bins(2)).interval(np.full((3, 2), 130))
    np.testing.assert_array_equal(shared, spelled)


@pytest.mark.parametrize("mu, scale", [(np.nan, 1), (np.inf, 1), (0, np.nan), (0, 0), (0, -1), (0, np.inf)])
def test_impossible_parameters_are_refused(mu, scale):
    with pytest.raises(ValueError, match="finite"):
        logistic(mu, scale, pixel_bins(1))


def test_equal_mass_bins_have_equal_mass_under_the_prior():
    bins = EqualMassBins(64)
    _, freq = all_intervals(logistic(0.0, 1.0, bins), 64)
    assert np.abs(freq - TOTAL // 64).max() <= 2
    np.testing.assert_allclose(1 / (1 + np.exp(-bins.centres(np.arange(64)))), (np.arange(64) + 0.5) / 64)


def test_uniform():
    prior = Uniform(256)
    start, freq = prior.interval(np.arange(256))
    assert_tiles(start, freq)
    symbols, _, _ = prior.locate(np.array([0, TOTAL - 1, 5 * TOTAL // 256], np.uint64), 0)
    assert symbols.tolist() == [0, 255, 5]
