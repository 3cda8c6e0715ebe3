"""The compression experiment of the paper (section 4.2): independent chains of test images, coded and decoded again.

The chains are the lanes of one coder: each network call is a batch with one image of every chain, and the bits are
those of coding one chain after the other.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import discretization
from codec import bitsback
from codec.bitsback import CodedVariables, Schedule
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import EmptyLaneError, Rans
from model import make_exact
from model.vae import Model, log_likelihoods
from utils import npz
from utils.cli import UserError
from utils.torch.modules import fold_weight_norm

FORMAT = 2  # of the bitstream files


class Setup(NamedTuple):
    """What the flags of a compression script choose: see open_setup()."""

    model: Model  # folded; what the ELBO is of
    conditional: Conditionals  # of that model, or of its exact form
    floats: Conditionals | None  # of the model, to compare the rates where `conditional` is exact
    header: dict[str, Any]  # of the bitstream files, as far as these determine it


class Result(NamedTuple):
    """What coding E chains of N images gave; arrays are float64 [E, N], per dimension of the (padded) model input.

    Where chains differ in length, N is that of the longest, and a shorter one's rows end in NaN.
    """

    words: list[np.ndarray]  # each chain's words, uint32, as Rans.to_words() returns them
    nets: np.ndarray  # bits/dim that each image added to its chain
    elbos: np.ndarray  # bits/dim, negative ELBO of each image at fresh samples of z
    cmas: np.ndarray  # bits/dim of the chain so far, the initial bits included
    total: np.ndarray  # bits of the chain so far, the initial bits included
    seconds: float  # spent encoding, the ELBO not included


def compress(
    schedule: Schedule,
    model: Model,
    conditional: Conditionals,
    chains: Sequence[np.ndarray] | np.ndarray,
    initial: np.ndarray,
    desc: str = "encode",
    unit: str = "image",
) -> Result:
    """Code chains of images side by side; a lane whose chain has ended leaves the batch.

    schedule: of codec.bitsback. chains: uint8 [N_i, *xs] each, the longest first; or all in one, uint8 [E, N, *xs].
    initial: the words each chain starts from, uint32 [E, W]. unit: what the progress bar calls an image.
    Returns a Result. The initial bits of a chain, counted in total and cmas, are those that the pops before its
    first push take.
    """
    lengths = np.array([len(chain) for chain in chains])
    count = lengths[0]
    dims = conditional.dims[0]
    coder = Rans.from_words(initial)
    # Compiled code is loaded, and the network's first call made, before the clock starts.
    bitsback.encode(schedule, Rans.from_words(initial[:1]), conditional, chains[0][:1])
    first_push = next(i for i, step in enumerate(schedule) if step.action == "push")
    added, elbos, stack = (np.full((len(chains), count), np.nan) for _ in range(3))
    seconds = 0.0
    with tqdm(total=lengths.sum(), desc=desc, unit=unit, dynamic_ncols=True) as bar:
        for t in range(count):
            lanes = int(np.count_nonzero(t < lengths))
            images = np.stack([chain[t] for chain in chains[:lanes]])
            known = {0: conditional.to_symbols(images)}
            began, before = time.perf_counter(), coder.counts.copy()
            bitsback.run(schedule[:first_push], coder, conditional, known, lanes, t)
            if t == 0:
                least = coder.counts.copy()
            bitsback.run(schedule[first_push:], coder, conditional, known, lanes, t)
            seconds += time.perf_counter() - began
            added[:lanes, t] = (coder.counts - before)[:lanes]
            stack[:lanes, t] = (coder.counts + 1 - least)[:lanes]  # the head counts as one more word
            elbos[:lanes, t] = negative_elbo(model, images)
            net, elbo = 32 * np.nanmean(added[:, : t + 1]) / dims, np.nanmean(elbos[:, : t + 1]) / dims
            bar.set_postfix_str(f"{net:.4f} bits/dim, {net - elbo:+.4f} to the ELBO")
            bar.update(lanes)
    total = 32 * stack
    cmas = total / (dims * np.arange(1, count + 1))
    return Result(coder.to_words(), 32 * added / dims, elbos / dims, cmas, total, seconds)


@torch.inference_mode()
def negative_elbo(model: Model, images: np.ndarray) -> np.ndarray:
    """The negative ELBO, in bits, of images uint8 [B, *xs], each at one fresh sample of the latents: [B]."""
    x = torch.from_numpy(images).to(next(model.parameters()).device)
    logrecon, logdec, logenc = log_likelihoods(model, x)
    return ((logenc - logdec).sum((0, 2)) - logrecon).double().cpu().numpy()


def decompress(
    schedule: Schedule,
    conditional: CodedVariables,
    words: Sequence[np.ndarray],
    lengths: Sequence[int],
    desc: str = "decode",
    unit: str = "image",
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Undo compress(): from each chain's words and the number of images in it.

    Returns (chains, a list of uint8 [N_i, *xs], the words left, which are the initial ones).
    """
    coder = Rans.from_words(words)
    with tqdm(total=sum(lengths), desc=desc, unit=unit, dynamic_ncols=True) as bar:

        def progress(steps):
            for t in steps:
                yield t
                bar.update(sum(t < length for length in lengths))

        chains = bitsback.decode_chains(schedule, coder, conditional, lengths, progress)
    return chains, coder.to_words()


def initial_words(chains: int, conditional: CodedVariables, seed: int) -> np.ndarray:
    """Random words for each chain to start from, uint32 [chains, W]: enough to pop every latent without a push."""
    count = sum(conditional.dims[1:]) + 2  # no pop takes more than a word
    return np.random.default_rng(seed).integers(1, 1 << 32, (chains, count), dtype=np.uint32)


def save_bitstreams(path: str | Path, header: dict[str, Any], words: Sequence[np.ndarray]) -> None:
    """Write the words of all chains and a header (a dict that JSON can hold) to one file."""
    npz.save(
        path,
        header=np.frombuffer(json.dumps({"format": FORMAT} | header).encode(), np.uint8),
        lengths=np.array([len(lane) for lane in words], np.int64),
        words=np.concatenate(words),
    )


def load_bitstreams(path: str | Path, header: dict[str, Any]) -> list[np.ndarray]:
    """Read each chain's words from a file whose header must be `header`.

    Raises UserError where the file is corrupt, or was written with another model, bins or set of images.
    """
    remedy = "compress again"
    packed, lengths, words = npz.load(path, ("header", "lengths", "words"), remedy)
    try:
        found = json.loads(packed.tobytes())
        sound = lengths.dtype == np.int64 and lengths.ndim == 1 and lengths.min(initial=2) >= 2
        sound = sound and words.dtype == np.uint32 and words.shape == (lengths.sum(),)
        if not (sound and isinstance(found, dict)):
            raise ValueError("its arrays do not fit together")
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a file of bitstreams ({error}); {remedy}") from None
    wanted = {"format": FORMAT} | header
    differing = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UserError(f"{path} was written with {', '.join(differing)}; {remedy}, or decode with the same settings")
    return np.split(words, np.cumsum(lengths)[:-1])


def verify(
    path: str | Path,
    header: dict[str, Any],
    schedule: Schedule,
    conditional: CodedVariables,
    chains: Sequence[np.ndarray] | np.ndarray,
    initial: np.ndarray,
    unit: str = "image",
) -> None:
    """Decode a file of bitstreams, compare everything that went into it and say so.

    The arguments are those of compress(). Raises UserError where one image or one initial word is not the same.
    """
    words = load_bitstreams(path, header)
    if len(words) != len(chains):
        raise UserError(f"{path} holds {len(words)} chains instead of {len(chains)}; compress again")
    remedy = "it is corrupt, or was written on another device or with another PyTorch or number of threads"
    began = time.perf_counter()
    try:
        decoded, left = decompress(schedule, conditional, words, [len(chain) for chain in chains], unit=unit)
    except (EmptyLaneError, ValueError) as error:
        raise UserError(f"{path} cannot be decoded ({error}): {remedy}") from None
    seconds = time.perf_counter() - began
    same = np.concatenate([(ours == chain).all((1, 2, 3)) for ours, chain in zip(decoded, chains, strict=True)])
    if not same.all():
        raise UserError(f"{path}: {(~same).sum():,} of {same.size:,} {unit}s decode to other pixels: {remedy}")
    if not all(np.array_equal(lane, start) for lane, start in zip(left, initial, strict=True)):
        raise UserError(f"{path}: the initial words are not what remains after decoding: {remedy}")
    print(f"decoded in {1e3 * seconds / same.size:.2f} ms per {unit} from {path}:")
    print(f"all {same.size:,} {unit}s and all initial words are identical")


def open_setup(dataset: str, args: argparse.Namespace, path: Path, model: Model, identity: str) -> Setup:
    """The Setup of a checkpoint, as checkpoints.open_for() gives it, with bins that are made where there are none."""
    ranges = discretization.for_checkpoint(path, model, identity, dataset, args.quantbits, args.data, args.output)
    header = {"dataset": dataset, "quantbits": args.quantbits, "checkpoint": identity, "bins": ranges.identity}
    bins, folded = discretization.bins(model, ranges), fold_weight_norm(model)
    floats = Conditionals(FloatNetwork(folded), bins)
    if not args.exact:
        return Setup(folded, floats, None, header | {"exact": None})
    networks = make_exact.for_checkpoint(path, model, identity, dataset, args.data, args.output)
    return Setup(folded, Conditionals(networks, bins), floats, header | {"exact": networks.identity})
