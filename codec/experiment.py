"""The compression experiment of the paper (section 4.2): independent chains of test images, coded and decoded again.

The chains are the lanes of one coder: each network call is a batch with one image of every chain, and the bits are
those of coding one chain after the other. Several processes share the chains.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import discretization
from codec import bitsback
from codec.bitsback import Schedule
from codec.conditionals import Conditionals, FloatNetwork, Network
from codec.rans import Rans
from model import make_exact
from model.checkpoints import Checkpoint
from model.vae import ARITHMETIC, Model, for_inference, log_likelihoods
from utils import distributed, npz, progress
from utils.cli import counted
from utils.datasets import PHOTOGRAPHS, padding
from utils.errors import UserError
from utils.processes import deal, gather, gather_words, slowest
from utils.torch import rand

FORMAT = 2  # of the bitstream files
REMEDY = "compress again"


class Setup(NamedTuple):
    """What the flags of a compression script choose: see open_setup()."""

    checkpoint: Checkpoint
    model: Model  # for inference, to compute the ELBO
    conditional: Conditionals  # of that model, or of its exact form
    header: dict[str, Any]  # of the bitstream files, as far as the setup decides it
    unit: str  # what messages call an image
    job: distributed.Job  # the processes that share the chains; all of them call the functions below alike


class Result(NamedTuple):
    """The rates of E chains of N images; arrays are float64 [E, N], per dimension of the (padded) model input.

    If chains differ in length, N is the length of the longest, and the rows of the others end in NaN.
    """

    words: list[np.ndarray]  # each chain's words, uint32, as Rans.to_words() returns them
    nets: np.ndarray  # bits/dim that each image added to its chain
    elbos: np.ndarray  # bits/dim, negative ELBO of each image at fresh samples of z
    cmas: np.ndarray  # bits/dim of the chain so far, the initial bits included
    total: np.ndarray  # bits of the chain so far, the initial bits included
    seconds: float  # spent encoding, without the ELBO


def compress(
    setup: Setup, schedule: Schedule, chains: Sequence[np.ndarray] | np.ndarray, initial: np.ndarray
) -> Result:
    """Code chains of images side by side; a lane whose chain has ended leaves the batch.

    schedule: of codec.bitsback. chains: uint8 [N_i, *xs] each, the longest first; or one array uint8 [E, N, *xs].
    initial: the words each chain starts from, uint32 [E, W].
    Returns a Result, the same on every process. Its total and cmas include the initial bits of a chain, which are
    those that the pops before its first push consume.
    """
    model, conditional, job = setup.model, setup.conditional, setup.job
    everywhere = np.array([len(chain) for chain in chains])  # lengths, in all processes
    number, count = len(chains), everywhere[0]
    chains, initial, lengths = deal(job, chains), deal(job, initial), deal(job, everywhere)
    dims = conditional.dims[0]
    real = dims / padding(setup.checkpoint.dataset)  # those of the images themselves, for the bar
    coder = Rans.from_words(initial)
    # Loads compiled code, and calls the network for the first time, before the clock starts.
    bitsback.encode(schedule, Rans.from_words(initial[:1]), conditional, chains[0][:1])
    first_push = next(i for i, step in enumerate(schedule) if step.action == "push")
    added, elbos, stack = (np.full((len(chains), count), np.nan) for _ in range(3))
    seconds = 0.0
    with progress.bar(total=lengths.sum(), desc="encode", unit=setup.unit, disable=job.rank > 0) as bar:
        for t in range(lengths[0]):
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
            elbos[:lanes, t] = negative_elbo(model, images, job, int(np.count_nonzero(t < everywhere)))
            net, elbo = (np.nanmean(bits[:, : t + 1]) / real for bits in (32 * added, elbos))
            bar.set_postfix_str(f"{net:.4f} bits/dim, {net - elbo:+.4f} to the ELBO")
            bar.update(lanes)
    added, elbos, stack = (gather(job, part, number) for part in (added, elbos, stack))
    total = 32 * stack
    cmas = total / (dims * np.arange(1, count + 1))
    words = gather_words(job, coder.to_words(), number)
    return Result(words, 32 * added / dims, elbos / dims, cmas, total, slowest(job, seconds))


@torch.inference_mode()
def negative_elbo(model: Model, images: np.ndarray, job: distributed.Job, everywhere: int) -> np.ndarray:
    """The negative ELBO, in bits, of images uint8 [B, *xs], each at one fresh sample of the latents: [B].

    everywhere: the number of images in all processes of the job. Random numbers are drawn for all of them, so that
    those of an image do not depend on the number of processes.
    """

    def sample(mu, scale):
        uniform = torch.rand(everywhere, *mu.shape[1:], device=mu.device)
        return rand.sample(mu, scale, deal(job, uniform))

    x = torch.from_numpy(images).to(next(model.parameters()).device)
    logrecon, logdec, logenc = log_likelihoods(model, x, sample)
    return ((logenc - logdec).sum((0, 2)) - logrecon).double().cpu().numpy()


def initial_words(chains: int, conditional: bitsback.CodedVariables, seed: int) -> np.ndarray:
    """Random words for each chain to start from, uint32 [chains, W]: enough to pop every latent without a push."""
    count = sum(conditional.dims[1:]) + 2  # a pop consumes at most one word per dimension
    return np.random.default_rng(seed).integers(1, 1 << 32, (chains, count), dtype=np.uint32)


def save_bitstreams(path: str | Path, header: dict[str, Any], words: Sequence[np.ndarray]) -> None:
    """Write a header (a dict that JSON can hold) and the words of all chains to one file."""
    npz.save(
        path,
        header=np.frombuffer(json.dumps({"format": FORMAT} | header).encode(), np.uint8),
        lengths=np.array([len(lane) for lane in words], np.int64),
        words=np.concatenate(words),
    )


def load_bitstreams(path: str | Path, header: dict[str, Any]) -> list[np.ndarray]:
    """Read the words of each chain from a file of bitstreams whose header must be `header`.

    Raises UserError if the file is corrupt, or was written with another model, bins or set of images.
    """
    found = read_header(path)
    lengths, words = npz.load(path, ("lengths", "words"), REMEDY)
    sound = lengths.dtype == np.int64 and lengths.ndim == 1 and lengths.min(initial=2) >= 2
    if not (sound and words.dtype == np.uint32 and words.shape == (lengths.sum(),)):
        raise UserError(f"{path} is not a file of bitstreams (its arrays do not fit together); {REMEDY}")
    wanted = {"format": FORMAT} | header
    differing = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UserError(f"{path} was written with {', '.join(differing)}; {REMEDY}, or decode with the same settings")
    return np.split(words, np.cumsum(lengths)[:-1])


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a file of bitstreams. Raises UserError if the file has none."""
    (packed,) = npz.load(path, ("header",), REMEDY)
    try:
        return dict(json.loads(packed.tobytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a file of bitstreams ({error}); {REMEDY}") from None


def refuse_to_replace(path: str | Path, checkpoint: Checkpoint) -> None:
    """Raise UserError if a file of bitstreams, and the rates of the same name, come from another checkpoint."""
    try:
        other = read_header(path)["checkpoint"]
    except (UserError, KeyError):  # absent or damaged
        return
    if other != checkpoint.identity:
        raise UserError(
            f"{path} holds the results of another checkpoint ({other}, and {checkpoint.path} is {checkpoint.identity}):"
            " name another folder with --output, or delete that file"
        )


def verify(
    setup: Setup,
    schedule: Schedule,
    path: str | Path,
    header: dict[str, Any],
    chains: Sequence[np.ndarray] | np.ndarray,
    initial: np.ndarray,
) -> None:
    """Decode a file of bitstreams, compare all images and initial words, and say so; each process does its own chains.

    schedule, chains, initial: those of compress(). Raises UserError if one image or one initial word differs.
    """
    job, unit = setup.job, setup.unit
    words = load_bitstreams(path, header)
    if len(words) != len(chains):
        raise UserError(f"{path} holds {counted(len(words), 'chain')} instead of {len(chains)}; {REMEDY}")
    remedy = "it is corrupt, or was written on another device or with another PyTorch or number of threads"
    words, chains, initial = deal(job, words), deal(job, chains), deal(job, initial)
    lengths, began = [len(chain) for chain in chains], time.perf_counter()
    wrap = functools.partial(progress.bar, desc="decode", unit="step", disable=job.rank > 0)
    try:
        coder = Rans.from_words(words)
        decoded = bitsback.decode_chains(schedule, coder, setup.conditional, lengths, wrap)
    except ValueError as error:
        raise UserError(f"{path} cannot be decoded ({error}): {remedy}") from error
    seconds = slowest(job, time.perf_counter() - began)
    same = np.concatenate([(ours == chain).all((1, 2, 3)) for ours, chain in zip(decoded, chains, strict=True)])
    if not same.all():
        raise UserError(f"{path}: of {counted(same.size, unit)}, {(~same).sum():,} decoded to other pixels: {remedy}")
    if not all(np.array_equal(lane, start) for lane, start in zip(coder.to_words(), initial, strict=True)):
        raise UserError(f"{path}: the initial words are not what remains after decoding: {remedy}")
    count = gather(job, np.array([same.size]), job.size).sum()  # once all processes have come this far
    print(f"decoded in {1e3 * seconds / count:.2f} ms per {unit} from {path}:")
    print(f"all pixels of {counted(count, unit)} and all initial words are identical")


def open_setup(checkpoint: Checkpoint, args: argparse.Namespace, job: distributed.Job) -> Setup:
    """The Setup of a checkpoint, with its bins and, with --exact, its exact form, which are made if there are none."""
    ranges = discretization.for_checkpoint(checkpoint, args.quantbits, args.data, job)
    model = for_inference(checkpoint.model, args.precision)
    header = {
        "dataset": checkpoint.dataset, "quantbits": args.quantbits, "checkpoint": checkpoint.identity,
        "bins": ranges.identity, "precision": args.precision, "exact": None, "processes": 1,
    }  # fmt: skip
    network: Network = FloatNetwork(model)
    if args.exact:
        network = distributed.in_turn(job, lambda: make_exact.for_checkpoint(checkpoint, args.data))
        header["exact"] = network.identity
    else:
        # Batches are smaller in several processes, and networks in floats may round differently then.
        header |= {"processes": job.size, "arithmetic": ARITHMETIC}
    conditional = Conditionals(network, discretization.bins(checkpoint.model, ranges))
    unit = "block" if checkpoint.dataset == PHOTOGRAPHS else "image"
    return Setup(checkpoint, model, conditional, header, unit, job)
