"""From a network and bins to the distribution of each variable."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from codec.bitsback import Distribution
from codec.logistic import Logistic, Uniform
from model.vae import LatentVariableModel
from utils.fixed_point import FRACTION, Bins, quantize


class Network(Protocol):
    """A hierarchical latent-variable model in integers (utils.fixed_point): model.exact.ExactModel, or FloatNetwork.

    given: int64 on the CPU, z_i or z_{i+1} [B, *zs] with FRACTION fraction bits, or the levels x [B, *xs] for infer(0).
    Parameters (mu, scale): int64 on any device, of the shape of what they describe; mu with FRACTION fraction bits and
    scale an index into the table of scales. The scale of x may lack the batch axis.
    """

    xs: tuple[int, ...]  # the shape of an image
    zs: tuple[int, ...]  # of a latent
    nz: int  # latents

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of q(z_{i+1} | z_i), or q(z_1 | x) for i = 0."""

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of p(z_i | z_{i+1}), or p(x | z_1) for i = 0."""

    def to_levels(self, pixels: Any) -> Any:
        """The levels x that the network describes, of pixels uint8 [..., *xs], NumPy or PyTorch."""

    def to_pixels(self, levels: Any) -> Any:
        """The inverse of to_levels()."""


class FloatNetwork:
    """A Network made from a model that computes in floats: its mu and scale are quantized.

    model: e.g. a folded model.vae.Model. Equal inputs must give it equal outputs at every call. If it lacks
    to_levels() and to_pixels(), its levels are the pixels.
    """

    def __init__(self, model: LatentVariableModel) -> None:
        self.model = model
        self.xs, self.zs, self.nz = tuple(model.xs), tuple(model.zs), model.nz
        self.device = next(model.parameters()).device
        self.to_levels = getattr(model, "to_levels", lambda pixels: pixels)
        self.to_pixels = getattr(model, "to_pixels", lambda levels: levels)

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Network."""
        values = given.float() if i == 0 else given.float() / (1 << FRACTION)
        return _quantized(*self.model.infer(i, values.to(self.device)))

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Network."""
        return _quantized(*self.model.generate(i, (given.float() / (1 << FRACTION)).to(self.device)))


def _quantized(mu: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mu, scale = map(torch.from_numpy, quantize(mu.cpu().numpy(), scale.cpu().numpy()))
    return mu, scale


class Conditionals:
    """The distributions that a network and its bins define, logistics over bins: see codec.bitsback.CodedVariables.

    bins: those of each variable, pixels first.
    """

    def __init__(self, network: Network, bins: Sequence[Bins]) -> None:
        self.network = network
        self.bins = bins
        self._shapes = [tuple(network.xs)] + [tuple(network.zs)] * network.nz
        self.dims: Sequence[int] = [int(np.prod(shape)) for shape in self._shapes]
        self.xs = self._shapes[0]

    def to_symbols(self, pixels: np.ndarray) -> np.ndarray:
        """The symbols of variable 0, uint8 [..., dims], of images uint8 [..., *xs]."""
        return self.network.to_levels(pixels).reshape(*pixels.shape[: -len(self.xs)], self.dims[0])

    def to_pixels(self, symbols: np.ndarray) -> np.ndarray:
        """The inverse of to_symbols(); symbols: integers [..., dims]."""
        return self.network.to_pixels(symbols.astype(np.uint8).reshape(*symbols.shape[:-1], *self.xs))

    @torch.inference_mode()
    def __call__(self, variable: int, given: int | None, symbols: np.ndarray | None) -> Distribution:
        """The distribution of `variable` given the symbols, int [lanes, dims], of the variable `given`."""
        if given is None or symbols is None:
            return Uniform(self.bins[variable].n)
        # x enters the network as levels, a latent as the centre of its bin.
        values = symbols.astype(np.int64) if given == 0 else self.bins[given].centres(symbols)
        network = self.network.infer if variable > given else self.network.generate
        parameters = network(min(variable, given), torch.from_numpy(values).view(-1, *self._shapes[given]))
        mu, scale = (part.cpu().numpy() for part in parameters)
        dims = self.dims[variable]
        lane_axis = [-1] if scale.ndim == mu.ndim else []  # a pixel scale that the model learned has none
        return Logistic(mu.reshape(-1, dims), scale.reshape(*lane_axis, dims), self.bins[variable])
