"""Use a distribution of your own, in a model without a network: python examples/own_distribution.py

The model is a mixture for the digits of scikit-learn: the latent z is one of 10 classes, and given z each pixel has
its own categorical distribution. The exact posterior is known, so bits-back coding costs -log2 p(x) bits an image.
Encodes test images, decodes them, and prints the rate next to -log2 p(x). See docs/extending.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from codec import bitsback
from codec.rans import PRECISION, Rans
from utils import cli

LEVELS, DIMS, CLASSES = 17, 64, 10
CHAINS, LENGTH = 39, 10  # all chains are encoded side by side, each image after the one before it


class Categorical:
    """A codec.bitsback.Distribution of symbols 0 ... n - 1. probabilities: float64 [lanes or 1, dims, n]."""

    def __init__(self, probabilities):
        n = probabilities.shape[-1]
        cdf = np.cumsum(probabilities, -1)
        # Integers from here on. Each symbol gets one unit; the probabilities divide the rest.
        inner = np.arange(1, n + 1) + (cdf / cdf[..., -1:] * ((1 << PRECISION) - n)).astype(np.int64)
        self.edges = np.concatenate((np.zeros_like(inner[..., :1]), inner), -1)  # [lanes, dims, n + 1]

    def push(self, coder, symbols):
        coder.push_block(*interval(self.edges, symbols))

    def pop(self, coder, lanes, dims):
        symbols = np.empty((lanes, dims), np.int64)
        for d in range(dims):
            edges = self.edges[:, d]
            symbols[:, d] = (edges[:, 1:] <= coder.peek(lanes)[:, None]).sum(1)
            coder.pop(*interval(edges, symbols[:, d]))
        return symbols


def interval(edges, symbols):
    """The intervals of symbols: (start, freq), integers of the same shape."""
    start, end = (np.take_along_axis(edges, symbols[..., None] + k, -1)[..., 0] for k in (0, 1))
    return start, end - start


class Mixture:
    """The codec.bitsback.CodedVariables: x and z, with their distributions."""

    xs, dims = (8, 8), (DIMS, 1)

    def __init__(self, images, labels):
        classes = [self.to_symbols(images[labels == k]) for k in range(CLASSES)]
        counts = 0.1 + np.array([[np.bincount(x, minlength=LEVELS) for x in seen.T] for seen in classes])
        self.pixels = counts / counts.sum(-1, keepdims=True)  # p(x|z), [CLASSES, DIMS, LEVELS]

    def joint(self, x):
        """p(x, z), [lanes, CLASSES], of x [lanes, DIMS]."""
        return self.pixels[:, np.arange(DIMS), x].prod(-1).T / CLASSES

    def __call__(self, variable, given, symbols):
        if variable == 0:
            return Categorical(self.pixels[symbols[:, 0]])  # p(x|z)
        return Categorical((np.ones((1, CLASSES)) if given is None else self.joint(symbols))[:, None])  # p(z), p(z|x)

    def to_symbols(self, pixels):
        return pixels.reshape(-1, DIMS)

    def to_pixels(self, symbols):
        return symbols.reshape(-1, *self.xs)


def round_trip(schedule, variables, chains, initial):
    """Encode chains of images side by side, decode them, compare. Returns the rate in bits/dim."""
    coder = Rans.from_words(initial)
    bitsback.encode_chains(schedule, coder, variables, chains)
    added = (coder.bits() - Rans.from_words(initial).bits()).sum()
    coder = Rans.from_words(coder.to_words())  # what a file would hold
    decoded = bitsback.decode_chains(schedule, coder, variables, [len(chain) for chain in chains])
    assert np.array_equal(decoded, chains) and np.array_equal(coder.to_words(), initial)
    return added / np.size(chains)


def main():
    cli.parser(__doc__).parse_args()
    from sklearn.datasets import load_digits

    digits = load_digits()
    order, test = np.split(np.random.default_rng(0).permutation(len(digits.images)), [-CHAINS * LENGTH])
    images = digits.images.astype(np.uint8)
    model = Mixture(images[order], digits.target[order])
    initial = np.random.default_rng(0).integers(1, 1 << 32, (CHAINS, 4), np.uint32)
    rate = round_trip(bitsback.bitswap(nz=1), model, np.split(images[test], CHAINS), initial)
    ideal = -np.log2(model.joint(model.to_symbols(images[test])).sum(1)).mean() / DIMS
    print(f"-log2 p(x)     {ideal:.4f} bits/dim")
    print(f"bits-back      {rate:.4f} bits/dim, and the same images again")


if __name__ == "__main__":
    main()
