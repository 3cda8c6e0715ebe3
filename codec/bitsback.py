"""Bits-back coding with a chain of latent variables: Bit-Swap and BB-ANS from one description.

Variable 0 is the image x, variable i the latent z_i. A schedule is a list of steps, each of which pops or pushes one
variable under its distribution given another; the decoder's schedule is the encoder's in reverse, with pop and push
exchanged. (Bit-Swap: Kingma, Abbeel, Ho 2019, algorithm 1. BB-ANS: Townsend, Bird, Barber 2019, section 2.3.)
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from codec.rans import Rans


class Distribution(Protocol):
    """What a variable is coded with. push() and pop() are inverses of each other, whatever is on the stacks."""

    def push(self, coder: Rans, symbols: np.ndarray) -> None:
        """Push symbols, int64 [lanes, dims], onto the first lanes, the last dimension first."""

    def pop(self, coder: Rans, lanes: int, dims: int) -> np.ndarray:
        """Pop symbols, int64 [lanes, dims]. Raises EmptyLaneError where a lane runs out: stop then."""


class CodedVariables(Protocol):
    """The image, its latents, and their distributions: all that a schedule needs of a model (codec.conditionals)."""

    xs: tuple[int, ...]  # the shape of an image
    dims: Sequence[int]  # of each variable its number of dimensions, those of an image first

    def __call__(self, variable: int, given: int | None, symbols: np.ndarray | None) -> Distribution:
        """The distribution of a variable given the symbols, int [lanes, dims], of the variable `given`."""

    def to_symbols(self, pixels: np.ndarray) -> np.ndarray:
        """The symbols of variable 0, integers [..., dims], of images uint8 [..., *xs]."""

    def to_pixels(self, symbols: np.ndarray) -> np.ndarray:
        """The inverse of to_symbols()."""


class Progress(Protocol):
    """Wraps an iterable of steps to show how far they have come, as tqdm does; iter shows nothing."""

    def __call__(self, steps: Iterable[int], /) -> Iterable[int]: ...


class Step(NamedTuple):
    """Pop or push `variable` under its distribution given the variable `given` (None: the prior), or whiten for it."""

    action: str  # "pop", "push" or "whiten"
    variable: int
    given: int | None = None


Schedule = list[Step]


def bitswap(nz: int) -> Schedule:
    """Bit-Swap: for every layer pop z_{i+1} ~ q(z_{i+1}|z_i), then push z_i under p(z_i|z_{i+1}); z_0 is x."""
    swaps = [(Step("pop", i + 1, i), Step("push", i, i + 1)) for i in range(nz)]
    return [step for swap in swaps for step in swap] + [Step("push", nz, None)]


def bbans(nz: int) -> Schedule:
    """BB-ANS: pop all latents, then push everything; the pops need initial bits for all latents at once."""
    pops = [Step("pop", i + 1, i) for i in range(nz)]
    return pops + [Step("push", i, i + 1) for i in range(nz)] + [Step("push", nz, None)]


SCHEDULES = {"bitswap": bitswap, "bbans": bbans}
_INVERSES = {"pop": "push", "push": "pop", "whiten": "whiten"}


def whitened(schedule: Schedule) -> Schedule:
    """A schedule that whitens the bits with which it pops, before every pop: beyond the paper.

    A latent popped with the bits that other symbols have left is distributed as q only if these bits are uniform,
    that is, if the model is right. Otherwise the latents do not follow q, and the rate differs from the ELBO.
    Whitened bits (Rans.whiten) make it the ELBO, whatever the model.
    """
    steps = [(Step("whiten", step.variable), step) if step.action == "pop" else (step,) for step in schedule]
    return [step for group in steps for step in group]


def inverse(schedule: Schedule) -> Schedule:
    """The schedule that undoes another."""
    return [step._replace(action=_INVERSES[step.action]) for step in reversed(schedule)]


def run(
    schedule: Schedule,
    coder: Rans,
    conditional: CodedVariables,
    symbols: dict[int, np.ndarray],
    lanes: int,
    position: int = 0,
) -> None:
    """Carry out the steps of a schedule on the first `lanes` lanes of a coder.

    symbols: {variable: int64 [lanes, dims]}, what is known so far; each pop adds its variable.
    position: of the images in their chains, below 2^24; it decides what whitening whitens with.
    """
    for action, variable, given in schedule:
        dims = conditional.dims[variable]
        if action == "whiten":
            coder.whiten(lanes, dims, position << 8 | variable)  # a pop takes no more than a word for each dimension
            continue
        distribution = conditional(variable, given, None if given is None else symbols[given])
        if action == "push":
            distribution.push(coder, symbols[variable])
        else:
            symbols[variable] = distribution.pop(coder, lanes, dims)


def encode(schedule: Schedule, coder: Rans, conditional: CodedVariables, pixels: np.ndarray, position: int = 0) -> None:
    """Push images onto the first len(pixels) lanes. pixels: uint8 [lanes, *xs]; position: theirs, as in run()."""
    run(schedule, coder, conditional, {0: conditional.to_symbols(pixels)}, len(pixels), position)


def decode(schedule: Schedule, coder: Rans, conditional: CodedVariables, lanes: int, position: int = 0) -> np.ndarray:
    """Pop the images that encode() pushed with the same schedule at the same position: uint8 [lanes, *xs]."""
    symbols: dict[int, np.ndarray] = {}
    run(inverse(schedule), coder, conditional, symbols, lanes, position)
    return conditional.to_pixels(symbols[0])


def encode_chains(
    schedule: Schedule,
    coder: Rans,
    conditional: CodedVariables,
    chains: Sequence[np.ndarray],
    progress: Progress = iter,
) -> None:
    """Push chains of images, one to a lane, side by side; a lane whose chain has ended leaves the batch.

    chains: uint8 [N_i, *xs] each, the longest first. progress: wraps the steps, e.g. tqdm.
    """
    _longest_first([len(chain) for chain in chains])
    for t in progress(range(len(chains[0]))):
        encode(schedule, coder, conditional, np.stack([chain[t] for chain in chains if t < len(chain)]), t)


def decode_chains(
    schedule: Schedule, coder: Rans, conditional: CodedVariables, lengths: Sequence[int], progress: Progress = iter
) -> list[np.ndarray]:
    """Pop the chains that encode_chains() pushed: a list of uint8 [N_i, *xs], lengths being the N_i."""
    _longest_first(lengths)
    chains = [np.empty((length, *conditional.xs), np.uint8) for length in lengths]
    for t in progress(range(lengths[0] - 1, -1, -1)):
        active = sum(t < length for length in lengths)
        for chain, image in zip(chains, decode(schedule, coder, conditional, active, t), strict=False):
            chain[t] = image
    return chains


def _longest_first(lengths: Sequence[int]) -> None:
    if list(lengths) != sorted(lengths, reverse=True):
        raise ValueError("chains must be ordered from the longest to the shortest")
