"""The logistic distribution against SciPy, and its discretization against the definition."""

import numpy as np
import pytest
import scipy.stats
import torch

from utils.torch import rand

MU, SCALE = torch.tensor([-0.7, 0.0, 0.3]), torch.tensor([0.02, 1.0, 3.0])
REFERENCE = scipy.stats.logistic(loc=MU.double().numpy(), scale=SCALE.double().numpy())


def test_density_and_quantile_equal_scipys():
    x = torch.linspace(-2, 2, 41)[:, None]
    np.testing.assert_allclose(rand.log_density(x, MU, SCALE), REFERENCE.logpdf(x.double()), rtol=1e-4, atol=1e-4)
    u = torch.linspace(0.01, 0.99, 33)[:, None]
    np.testing.assert_allclose(rand.quantile(u, MU, SCALE), REFERENCE.ppf(u.double()), rtol=1e-4, atol=1e-5)


def test_samples_follow_the_distribution():
    torch.manual_seed(0)
    samples = rand.sample(MU.expand(20_000, 3), SCALE.expand(20_000, 3))
    for i in range(3):
        marginal = scipy.stats.logistic(loc=MU[i].item(), scale=SCALE[i].item())
        assert scipy.stats.kstest(samples[:, i].numpy(), marginal.cdf).pvalue > 1e-6


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_discretized_likelihood_sums_to_one(scale):
    levels = (torch.arange(256).double() - 127.5) / 127.5
    for mu in (-1.2, 0.0, 0.5037, 1.0):
        log_p = rand.discretized_log_likelihood(levels, torch.tensor(mu).double(), torch.tensor(scale).double())
        # The fallback replaces masses under 1e-5 by density times width, so the sum is not exact.
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_discretized_likelihood_is_finite_far_away():
    x = torch.tensor([-1.0, 0.0, 1.0])
    for mu in (-1e4, 0.0, 1e4):
        assert rand.discretized_log_likelihood(x, torch.tensor(mu), torch.tensor(1e-3)).isfinite().all()
