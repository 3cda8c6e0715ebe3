"""The logistic distribution in PyTorch: every conditional of the model is an element-wise logistic.

All densities are in nats; mu, scale and x are broadcastable float tensors, scale > 0.
"""

import math

import torch
import torch.nn.functional as F

BOUND = 1e-5  # the paper's. float32 uniforms reach 0 with probability 2^-24, where the quantile is infinite
PIXEL_HALF_WIDTH = 1 / 255  # half a grey level, with the 256 levels spread over [-1, 1]


def quantile(u: torch.Tensor, mu: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The x at which the cdf of Logistic(mu, scale) is u, for u in (0, 1)."""
    return mu + scale * torch.logit(u)


def sample(mu: torch.Tensor, scale: torch.Tensor, uniform: torch.Tensor | None = None) -> torch.Tensor:
    """Draw from Logistic(mu, scale) by inversion, with the uniform variate kept in [BOUND, 1 - BOUND].

    uniform: float32 in [0, 1), shaped like mu; PyTorch's generator draws it if it is None.
    """
    u = (torch.rand_like(mu) if uniform is None else uniform) * (1 - 2 * BOUND) + BOUND
    return quantile(u, mu, scale)


def log_density(x: torch.Tensor, mu: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Log of the density of Logistic(mu, scale) at x, in nats."""
    y = (x - mu) / scale
    return -y - torch.log(scale) - 2 * F.softplus(-y)


def discretized_log_likelihood(x: torch.Tensor, mu: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Log-probability, in nats, of the grey levels x under a logistic discretized into 256 bins on [-1, 1].

    x: grey levels mapped to [-1, 1]; bins are 2/255 wide and the two at the ends are open. Where a bin's mass
    is under 1e-5, density times width replaces the difference of two nearly equal cdfs (Salimans et al.,
    PixelCNN++, 2017, section 2.1).
    """
    upper = (x - mu + PIXEL_HALF_WIDTH) / scale
    lower = (x - mu - PIXEL_HALF_WIDTH) / scale
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    inner = torch.where(
        mass > 1e-5, torch.log(mass.clamp(min=1e-12)), log_density(x, mu, scale) + math.log(2 * PIXEL_HALF_WIDTH)
    )
    return torch.where(x < -0.999, F.logsigmoid(upper), torch.where(x > 0.999, F.logsigmoid(-lower), inner))
