"""Bits-back coding with a chain of latent variables: Bit-Swap and BB-ANS from one description.

Variable 0 is the image x, variable i the latent z_i. A schedule is a list of steps, each of which pops or pushes one
variable under its distribution given another; the decoder's schedule is the encoder's in reverse, with pop and push
exchanged. (Bit-Swap: Kingma, Abbeel, Ho 2019, algorithm 1. BB-ANS: Townsend, Bird, Barber 2019, section 2.3.)
"""

from typing import NamedTuple

import numpy as np
import torch

from model.exact import ExactModel
from utils.discretized import FRACTION, Logistic, Uniform, quantize


class Step(NamedTuple):
    """Pop or push `variable` under its distribution given the variable `given` (None: the prior), or whiten for it."""

    action: str  # "pop", "push" or "whiten"
    variable: int
    given: int | None = None


def bitswap(nz):
    """Bit-Swap: for every layer pop z_{i+1} ~ q(z_{i+1}|z_i), then push z_i under p(z_i|z_{i+1}); z_0 is x."""
    swaps = [(Step("pop", i + 1, i), Step("push", i, i + 1)) for i in range(nz)]
    return [step for swap in swaps for step in swap] + [Step("push", nz, None)]


def bbans(nz):
    """BB-ANS: pop all latents, then push everything; the pops need initial bits for all latents at once."""
    pops = [Step("pop", i + 1, i) for i in range(nz)]
    return pops + [Step("push", i, i + 1) for i in range(nz)] + [Step("push", nz, None)]


SCHEDULES = {"bitswap": bitswap, "bbans": bbans}
_INVERSES = {"pop": "push", "push": "pop", "whiten": "whiten"}


def whitened(schedule):
    """A schedule that whitens the bits with which it pops, before every pop: beyond the paper.

    A latent popped with the bits that other symbols have left is distributed as q only if these bits are uniform,
    that is, if the model is right. Where it is not, the latents are not those that the ELBO is an expectation over, and
    the rate is another. Whitened bits (Rans.whiten) make it the ELBO, whatever the model.
    """
    steps = [(Step("whiten", step.variable), step) if step.action == "pop" else (step,) for step in schedule]
    return [step for group in steps for step in group]


def inverse(schedule):
    """The schedule that undoes another."""
    return [step._replace(action=_INVERSES[step.action]) for step in reversed(schedule)]


def run(schedule, coder, conditional, symbols, lanes, position=0):
    """Carry out the steps of a schedule on the first `lanes` lanes of a coder.

    conditional(variable, given, symbols): the distribution of a variable, as utils.discretized describes it, with
    conditional.dims its number of dimensions: see Conditionals.
    symbols: {variable: int64 [lanes, dims]}, what is known so far; each pop adds its variable.
    position: of the images in their chains, below 2^24; it decides what whitening whitens with.
    """
    for action, variable, given in schedule:
        dims = conditional.dims[variable]
        if action == "whiten":
            coder.whiten(lanes, dims, position << 8 | variable)  # a pop takes no more than a word for each dimension
            continue
        distribution = conditional(variable, given, symbols.get(given))
        if action == "push":
            distribution.push(coder, symbols[variable])
        else:
            symbols[variable] = distribution.pop(coder, lanes, dims)


class Conditionals:
    """The distributions that a model and its bins define.

    model: a Model, best folded (utils.torch.modules.fold_weight_norm), or an ExactModel, on any device.
    bins: for each variable its bins, pixels first.
    dims: for each variable its number of dimensions; xs: the shape of an image.
    """

    def __init__(self, model, bins):
        self._model = model
        self._bins = bins
        self._exact = isinstance(model, ExactModel)
        self.device = model.device if self._exact else next(model.parameters()).device
        self._shapes = [tuple(model.xs)] + [tuple(model.zs)] * model.nz
        self.dims = [int(np.prod(shape)) for shape in self._shapes]
        self.xs = self._shapes[0]

    def to_symbols(self, pixels):
        """The symbols of variable 0, uint8 [..., dims], of images uint8 [..., *xs]."""
        return self._model.to_levels(pixels).reshape(*pixels.shape[:-3], self.dims[0])

    def to_pixels(self, symbols):
        """The inverse of to_symbols(); symbols: integers [..., dims]."""
        return self._model.to_pixels(symbols.astype(np.uint8).reshape(*symbols.shape[:-1], *self.xs))

    @torch.inference_mode()
    def __call__(self, variable, given, symbols):
        """The distribution of `variable` given the symbols, int [lanes, dims], of the variable `given`."""
        if given is None:
            return Uniform(self._bins[variable].n)
        # x enters the network as grey levels, a latent as the centre of its bin.
        values = symbols if given == 0 else self._bins[given].centres(symbols)
        if not self._exact:
            values = (values if given == 0 else values / (1 << FRACTION)).astype(np.float32)
        values = torch.from_numpy(values).to(self.device).view(-1, *self._shapes[given])
        network = self._model.infer if variable > given else self._model.generate
        mu, scale = (part.cpu().numpy() for part in network(min(variable, given), values))
        if not self._exact:
            mu, scale = quantize(mu, scale)
        dims = self.dims[variable]
        lane_axis = [-1] if scale.ndim == mu.ndim else []  # a pixel scale that the model learned has none
        return Logistic(mu.reshape(-1, dims), scale.reshape(*lane_axis, dims), self._bins[variable])


def encode(schedule, coder, conditional, pixels, position=0):
    """Push images onto the first len(pixels) lanes. pixels: uint8 [lanes, *xs]; position: theirs, as in run()."""
    run(schedule, coder, conditional, {0: conditional.to_symbols(pixels)}, len(pixels), position)


def decode(schedule, coder, conditional, lanes, position=0):
    """Pop the images that encode() pushed with the same schedule at the same position: uint8 [lanes, *xs]."""
    symbols = {}
    run(inverse(schedule), coder, conditional, symbols, lanes, position)
    return conditional.to_pixels(symbols[0])


def encode_chains(schedule, coder, conditional, chains, progress=iter):
    """Push chains of images, one to a lane, side by side; a lane whose chain has ended leaves the batch.

    chains: uint8 [N_i, *xs] each, the longest first. progress: wraps the steps, e.g. tqdm.
    """
    _longest_first([len(chain) for chain in chains])
    for t in progress(range(len(chains[0]))):
        encode(schedule, coder, conditional, np.stack([chain[t] for chain in chains if t < len(chain)]), t)


def decode_chains(schedule, coder, conditional, lengths, progress=iter):
    """Pop the chains that encode_chains() pushed: a list of uint8 [N_i, *xs], lengths being the N_i."""
    _longest_first(lengths)
    chains = [np.empty((length, *conditional.xs), np.uint8) for length in lengths]
    for t in progress(range(lengths[0] - 1, -1, -1)):
        active = sum(t < length for length in lengths)
        for chain, image in zip(chains, decode(schedule, coder, conditional, active, t), strict=False):
            chain[t] = image
    return chains


def _longest_first(lengths):
    if list(lengths) != sorted(lengths, reverse=True):
        raise ValueError("chains must be ordered from the longest to the shortest")
