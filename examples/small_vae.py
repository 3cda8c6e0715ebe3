"""A small VAE in plain PyTorch, which uses nothing of this repository. own_model.py makes a codec of it.

x <- z1 <- z2 ~ Logistic(0, 1). Each conditional is a logistic; a network computes its (mu, scale). x is a digit of 64
pixels, whose 17 grey levels are spread over [-1, 1].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

LEVELS, DIMS, LATENTS = 17, 64, 12


class VAE(nn.Module):
    def __init__(self, hidden=128):
        super().__init__()
        for name, inputs, outputs in (
            ("encoder1", DIMS, LATENTS), ("encoder2", LATENTS, LATENTS),
            ("decoder2", LATENTS, LATENTS), ("decoder1", LATENTS, DIMS),
        ):  # fmt: skip
            layers = nn.Linear(inputs, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()
            self.add_module(name, nn.Sequential(*layers, nn.Linear(hidden, 2 * outputs), Parameters()))

    def elbo(self, levels):
        """The ELBO in bits per image, [B], estimated with one sample of the latents. levels: [B, DIMS]."""
        q1 = self.encoder1(to_unit_range(levels))
        z1 = sample(*q1)
        q2 = self.encoder2(z1)
        z2 = sample(*q2)
        prior = torch.zeros_like(z2), torch.ones_like(z2)
        latents = log_density(z2, *prior) + log_density(z1, *self.decoder2(z2))
        latents = latents - log_density(z1, *q1) - log_density(z2, *q2)
        return (log_mass(levels, *self.decoder1(z1)).sum(1) + latents.sum(1)) / math.log(2)

    def fit(self, levels, steps=1000):
        optimiser = torch.optim.Adam(self.parameters(), 3e-3)
        for _ in range(steps):
            loss = -self.elbo(levels[torch.randint(len(levels), (128,))]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


class Parameters(nn.Module):
    def forward(self, out):
        mu, scale = out.chunk(2, 1)
        return mu, F.softplus(scale) + 0.02


def to_unit_range(levels):
    return 2 * levels / (LEVELS - 1) - 1


def sample(mu, scale):
    return mu + scale * torch.logit(torch.rand_like(mu), eps=1e-6)


def log_density(z, mu, scale):
    y = (z - mu) / scale
    return -y - scale.log() - 2 * F.softplus(-y)


def log_mass(levels, mu, scale):
    """Log of the mass of the bin around each level. The two outer bins reach to infinity."""
    lower, upper = (torch.sigmoid((to_unit_range(levels + half) - mu) / scale) for half in (-0.5, 0.5))
    mass = torch.where(levels == LEVELS - 1, 1, upper) - torch.where(levels == 0, 0, lower)
    return mass.clamp(min=1e-7).log()
