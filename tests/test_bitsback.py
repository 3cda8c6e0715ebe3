"""Whole schedules: data and initial words come back exactly, whatever the model says."""

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import bitsback
from codec.bitsback import Step
from codec.conditionals import Conditionals, FloatNetwork
from codec.logistic import Logistic, Uniform
from codec.rans import EmptyLaneError, Rans
from utils.fixed_point import FRACTION, EqualMassBins, UniformBins, pixel_bins, quantize
from utils.torch.modules import fold_weight_norm


def random_words(rng, lanes, count):
    return rng.integers(1, 1 << 32, (lanes, count), dtype=np.uint32)


def bins_for(model, q):
    dims = int(np.prod(model.zs))
    lower = [UniformBins.between(np.full(dims, -8.0), np.full(dims, 8.0), 1 << q)] * (model.nz - 1)
    return [pixel_bins(int(np.prod(model.xs))), *lower, EqualMassBins(1 << q)]


def conditionals(model, q):
    return Conditionals(FloatNetwork(model), bins_for(model, q))


def assert_round_trip(schedule, conditional, images, initial):
    """Encode images, [lanes, N, ...], one after the other, and decode them from the words alone."""
    coder = Rans.from_words(initial)
    for t in range(images.shape[1]):
        bitsback.encode(schedule, coder, conditional, images[:, t], t)
    words = coder.to_words()
    coder = Rans.from_words(words)
    for t in reversed(range(images.shape[1])):
        np.testing.assert_array_equal(bitsback.decode(schedule, coder, conditional, len(images), t), images[:, t])
    for left, start in zip(coder.to_words(), initial, strict=True):
        np.testing.assert_array_equal(left, start)
    return words


@pytest.mark.parametrize("nz", [1, 2, 4, 8])
@pytest.mark.parametrize("scheme", bitsback.SCHEDULES)
@pytest.mark.parametrize("conditional_scale", [False, True], ids=["", "conditional scale"])
def test_model_round_trip(nz, scheme, conditional_scale):
    model = fold_weight_norm(small_model(nz, zchannels=2, conditional_scale=conditional_scale))
    rng = np.random.default_rng(nz)
    images = rng.integers(0, 256, (3, 2, 1, 32, 32), np.uint8)
    initial = random_words(rng, 3, 512 * nz + 2)
    assert_round_trip(bitsback.SCHEDULES[scheme](nz), conditionals(model, 10), images, initial)


def test_colour_transform_round_trip():
    model = fold_weight_norm(small_model(2, xs=(3, 32, 32), colour_transform=True))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 2, 3, 32, 32), np.uint8)
    assert_round_trip(bitsback.bitswap(2), conditionals(model, 6), images, random_words(rng, 2, 514))


@pytest.mark.parametrize("scheme", bitsback.SCHEDULES)
@pytest.mark.parametrize("factor", [30, 1e4])
def test_a_model_gone_wild_is_lossless_all_the_same(scheme, factor):
    """Means and scales far from anything trained: every symbol costs up to 30 bits, and none is lost."""
    model = small_model(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".b", "gen_std")) or "_mu" in name:
                parameter *= factor
    model = fold_weight_norm(model)
    rng = np.random.default_rng(0)
    images = rng.choice(np.array([0, 1, 254, 255, 128], np.uint8), (2, 2, 1, 32, 32))
    words = assert_round_trip(
        bitsback.SCHEDULES[scheme](4),
        conditionals(model, 8),
        images,
        random_words(rng, 2, 1100),
    )
    assert len(words[0]) > 1100


class Toy:
    """Conditionals made of arithmetic on the symbols, with parameters from mild to absurd; lanes do not interact."""

    def __init__(self, nz, q, seed, spread):
        rng = np.random.default_rng(seed)
        self.dims, self.xs = [5] + [3] * nz, (5,)
        self.bins = [pixel_bins(5), *[UniformBins.between(np.full(3, -4.0), np.full(3, 4.0), 1 << q)] * (nz - 1)]
        self.bins.append(EqualMassBins(1 << q))
        self.weights = {}
        for i in range(nz):
            for pair in ((i, i + 1), (i + 1, i)):
                self.weights[pair] = rng.normal(size=(self.dims[pair[1]], self.dims[pair[0]])) * spread

    def to_symbols(self, x):
        return x

    to_pixels = to_symbols

    def __call__(self, variable, given, symbols):
        if given is None:
            return Uniform(self.bins[variable].n)
        mu = self.bins[given].centres(symbols) / (1 << FRACTION) @ self.weights[variable, given]
        return Logistic(*quantize(mu, 10 ** np.clip(np.abs(mu) % 6 - 3, -3, 3)), self.bins[variable])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 4, 8]), st.sampled_from(sorted(bitsback.SCHEDULES)), st.integers(1, 12), st.integers(1, 4),
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e3, 1e9]), st.booleans(),
)  # fmt: skip
def test_round_trip_under_any_parameters(nz, scheme, q, lanes, seed, spread, whiten):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (lanes, 3, 5))
    initial = random_words(rng, lanes, 3 * nz + 2)
    schedule = bitsback.SCHEDULES[scheme](nz)
    schedule = bitsback.whitened(schedule) if whiten else schedule
    assert_round_trip(schedule, Toy(nz, q, seed, spread), images, initial)


@pytest.mark.parametrize("scheme", bitsback.SCHEDULES)
def test_lanes_are_independent_chains(scheme):
    """Chains coded side by side have the very words of chains coded one at a time."""
    rng = np.random.default_rng(3)
    images, initial = rng.integers(0, 256, (4, 5, 5)), random_words(rng, 4, 10)
    schedule, conditional = bitsback.SCHEDULES[scheme](2), Toy(2, 8, 0, 0.01)
    together = assert_round_trip(schedule, conditional, images, initial)
    for lane in range(4):
        alone = assert_round_trip(schedule, conditional, images[lane : lane + 1], initial[lane : lane + 1])
        np.testing.assert_array_equal(alone[0], together[lane])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.sampled_from(sorted(bitsback.SCHEDULES)))
def test_chains_of_different_lengths(lengths, scheme):
    lengths = sorted(lengths, reverse=True)
    rng = np.random.default_rng(sum(lengths))
    chains = [rng.integers(0, 256, (length, 5), np.uint8) for length in lengths]
    initial = random_words(rng, len(chains), 10)
    schedule, conditional = bitsback.SCHEDULES[scheme](2), Toy(2, 8, 0, 0.01)
    coder = Rans.from_words(initial)
    bitsback.encode_chains(schedule, coder, conditional, chains)
    words = coder.to_words()
    for lane, chain in enumerate(chains):
        alone = Rans.from_words(initial[lane : lane + 1])
        bitsback.encode_chains(schedule, alone, conditional, [chain])
        np.testing.assert_array_equal(alone.to_words()[0], words[lane])
    for ours, chain in zip(bitsback.decode_chains(schedule, coder, conditional, lengths), chains, strict=True):
        np.testing.assert_array_equal(ours, chain)
    np.testing.assert_array_equal(coder.to_words(), initial)


def test_schedules_are_the_papers():
    pop, push = "pop", "push"
    assert bitsback.bitswap(2) == [
        Step(pop, 1, 0), Step(push, 0, 1), Step(pop, 2, 1), Step(push, 1, 2), Step(push, 2, None),
    ]  # fmt: skip
    assert bitsback.bbans(2) == [
        Step(pop, 1, 0), Step(pop, 2, 1), Step(push, 0, 1), Step(push, 1, 2), Step(push, 2, None),
    ]  # fmt: skip
    assert bitsback.bitswap(1) == bitsback.bbans(1)
    for scheme in bitsback.SCHEDULES.values():
        assert bitsback.inverse(bitsback.inverse(scheme(4))) == scheme(4)


def test_whitening_comes_before_every_pop():
    for scheme in bitsback.SCHEDULES.values():
        schedule = scheme(4)
        steps = bitsback.whitened(schedule)
        assert [step for step in steps if step.action != "whiten"] == schedule
        assert bitsback.inverse(bitsback.inverse(steps)) == steps
        for i, step in enumerate(steps):
            assert (step.action == "pop") == (steps[i - 1] == Step("whiten", step.variable))


class Misfit:
    """A model that is wrong: the prior gives z, of which q(z|x) has one sharp peak, 2^12 equal chances.

    So what the last push left on the stack is much the same for every image, and the next z is popped with it.
    """

    xs, dims = (1,), [1, 1]
    posterior = Logistic(*quantize(np.array([[0.3]]), np.array([[0.02]])), EqualMassBins(1 << 12))
    likelihood = Logistic(*quantize(np.array([[0.0]]), np.array([[1e-3]])), pixel_bins(1))

    def __call__(self, variable, given, symbols):
        if given is None:
            return Uniform(1 << 12)
        return self.posterior if variable else self.likelihood


def test_whitened_bits_give_samples_of_the_posterior():
    """Where the model is wrong, the latents popped in a chain follow q only if their bits are whitened."""
    conditional, rng = Misfit(), np.random.default_rng(0)
    symbols = np.arange(1 << 12)
    freq = np.array([conditional.posterior.interval(np.array([[k]]))[1].item() for k in symbols])
    expected = (symbols * freq).sum() / freq.sum()
    deviation = np.sqrt(((symbols - expected) ** 2 * freq).sum() / freq.sum())
    z = {}
    for name, steps in (("plain", bitsback.bitswap(1)), ("whitened", bitsback.whitened(bitsback.bitswap(1)))):
        coder, drawn = Rans.from_words(random_words(rng, 1, 4)), []
        for t in range(2000):
            known = {0: np.array([[127 + t % 2]])}
            bitsback.run(steps, coder, conditional, known, 1, t)
            drawn.append(known[1].item())
        z[name] = (np.mean(drawn) - expected) / (deviation / np.sqrt(2000))  # in standard errors
    assert abs(z["whitened"]) < 4 < abs(z["plain"]), z


def test_bitswap_starts_with_fewer_initial_bits():
    """After the pops that come before any push, BB-ANS has taken all latents off the stack, Bit-Swap only z_1."""
    rng = np.random.default_rng(0)
    initial = random_words(rng, 1, 40)
    conditional, x = Toy(8, 12, 0, 0.01), rng.integers(0, 256, (1, 5))
    left = {}
    for name, scheme in bitsback.SCHEDULES.items():
        coder = Rans.from_words(initial)
        steps = scheme(8)
        first = next(i for i, step in enumerate(steps) if step.action == "push")
        bitsback.run(steps[:first], coder, conditional, {0: x}, 1)
        left[name] = coder.counts[0]
    assert left["bitswap"] > left["bbans"]


def test_too_few_initial_words_raise():
    with pytest.raises(EmptyLaneError):
        rng = np.random.default_rng(0)
        coder = Rans.from_words(random_words(rng, 1, 2))
        bitsback.encode(bitsback.bbans(8), coder, Toy(8, 12, 0, 0.01), rng.integers(0, 256, (1, 5)))
