"""From a network and bins to distributions: the parameters are the network's, in integers."""

import numpy as np
import pytest
import torch
from conftest import small_model

import discretization
from codec.conditionals import Conditionals, FloatNetwork
from codec.logistic import Logistic, Uniform
from utils.fixed_point import FRACTION, quantize
from utils.torch.modules import fold_weight_norm


@pytest.fixture(params=[False, True], ids=["learned scale", "conditional scale"])
def model(request):
    return fold_weight_norm(small_model(2, xs=(3, 8, 8), conditional_scale=request.param, colour_transform=True))


def variables(model):
    return Conditionals(FloatNetwork(model), discretization.bins(model, discretization.sample_ranges(model, None, 6)))


def assert_is(distribution, mu, scale, bins):
    expected = Logistic(*(part.reshape(len(mu), -1) for part in quantize(mu, scale)), bins)
    for ours, theirs in zip(distribution.parameters, expected.parameters, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_conditional_is_the_networks(model):
    conditionals, rng = variables(model), np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 3 * 8 * 8))
    z = {i: rng.integers(0, 64, (3, conditionals.dims[i])) for i in (1, 2)}
    values = {0: torch.from_numpy(x).float().view(3, 3, 8, 8)}
    for i in (1, 2):
        centres = torch.from_numpy(conditionals.bins[i].centres(z[i]))
        values[i] = (centres.float() / (1 << FRACTION)).view(3, *model.zs)
    with torch.inference_mode():
        for i in (0, 1):
            mu, scale = model.infer(i, values[i])
            assert_is(conditionals(i + 1, i, {0: x, **z}[i]), mu.numpy(), scale.numpy(), conditionals.bins[i + 1])
            mu, scale = model.generate(i, values[i + 1])
            scale = scale.expand_as(mu)  # one that was learned has no batch axis
            assert_is(conditionals(i, i + 1, z[i + 1]), mu.numpy(), scale.numpy(), conditionals.bins[i])
    assert isinstance(conditionals(2, None, None), Uniform)


def test_symbols_are_the_levels_of_the_model(model):
    conditionals = variables(model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 8, 8), np.uint8)
    symbols = conditionals.to_symbols(pixels)
    assert symbols.shape == (2, 5, 192) and (symbols.reshape(pixels.shape) == model.to_levels(pixels)).all()
    np.testing.assert_array_equal(conditionals.to_pixels(symbols.astype(np.int64)), pixels)
