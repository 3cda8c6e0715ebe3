"""Make a lossless codec of a VAE of your own: python examples/own_model.py

Trains the model of small_vae.py on the digits of scikit-learn, for a few seconds. Then encodes test images with
Bit-Swap and with BB-ANS, decodes them, and prints the rates next to the ELBO. See docs/extending.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils  # noqa: F401  (first: sets how threads wait, which libraries read when they are loaded)

# isort: split
import numpy as np
import torch
from own_distribution import CHAINS, LENGTH, round_trip
from sklearn.datasets import load_digits
from small_vae import LATENTS, LEVELS, VAE, to_unit_range

import discretization
from codec import bitsback, experiment
from codec.conditionals import Conditionals, FloatNetwork
from utils import cli


class CodedVAE(VAE):
    """What the codec needs of a model: xs, zs, nz, infer() and generate()."""

    xs, zs, nz = (1, 8, 8), (LATENTS,), 2  # the shapes of an image and of a latent, the number of latents

    def infer(self, i, given):
        """(mu, scale) of q(z_1 | x), x being levels [B, *xs], for i = 0; of q(z_2 | z_1) for i = 1: [B, *zs]."""
        return self.encoder1(to_unit_range(given).flatten(1)) if i == 0 else self.encoder2(given)

    def generate(self, i, given):
        """(mu, scale) of p(x | z_1) for i = 0, [B, *xs], the levels spread over [-1, 1]; of p(z_1 | z_2) for i = 1."""
        mu, scale = self.decoder1(given) if i == 0 else self.decoder2(given)
        shape = self.xs if i == 0 else self.zs
        return mu.view(-1, *shape), scale.view(-1, *shape)


def main():
    cli.parser(__doc__).parse_args()
    torch.manual_seed(0)
    images = load_digits().images.astype(np.uint8)[:, None]  # [1797, 1, 8, 8], levels 0..16
    train, test = np.split(np.random.default_rng(0).permutation(images), [-CHAINS * LENGTH])
    model = CodedVAE()
    model.fit(torch.from_numpy(train).flatten(1))
    with torch.no_grad():
        elbos = [model.elbo(torch.from_numpy(test).flatten(1)).mean() for _ in range(20)]
    print(f"negative ELBO  {-np.mean(elbos) / test[0].size:.4f} bits/dim")

    ranges = discretization.sample_ranges(model, np.moveaxis(train, 1, -1), quantbits=10)
    variables = Conditionals(FloatNetwork(model), discretization.bins(model, ranges, LEVELS))
    chains = np.split(test, CHAINS)
    initial = experiment.initial_words(CHAINS, variables, seed=0)
    for name, scheme in (("Bit-Swap", bitsback.bitswap), ("BB-ANS", bitsback.bbans)):
        rate = round_trip(scheme(model.nz), variables, chains, initial)
        print(f"{name:14} {rate:.4f} bits/dim, and the same images again")


if __name__ == "__main__":
    main()
