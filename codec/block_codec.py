"""Blocks of an image coded by Bit-Swap, in the lanes of one coder, which start from bits that are sent anyway.

The first latents are popped with the bits of the parts of the image that no model codes (codec.container), so that
starting costs nothing. Blocks are dealt to the lanes in turn, in raster order.
"""

import contextlib
import math
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import discretization
from codec import bitsback, blocks
from codec.bitsback import Progress, Schedule
from codec.conditionals import Conditionals, FloatNetwork
from codec.header import ARITHMETICS, FLOAT_CPU, FLOAT_GPU, INTEGERS, MAX_LANES, MAX_THREADS, Blocks, ContainerError
from codec.rans import EmptyLaneError, Rans
from model import checkpoints, exact, make_exact
from model.vae import ARITHMETIC, Model
from utils.errors import UserError
from utils.images import CHANNELS, Picture
from utils.torch.modules import fold_weight_norm

DATASET = "imagenetcrop"  # the dataset of the checkpoints that code blocks
_ATTEMPTS = 4  # at finding how many initial bits the lanes need


class BlockCodec(NamedTuple):
    """A model with its bins, ready to code, and the identities that a file names them by."""

    conditional: Conditionals
    nz: int
    quantbits: int
    networks: str  # identities: 16 hexadecimal digits
    bins: str
    arithmetic: int


def open_checkpoint(
    path: str | Path,
    device: str | torch.device = "cpu",
    integers: bool = True,
    quantbits: int = 10,
    wanted: str | None = None,
) -> BlockCodec | None:
    """The BlockCodec of the checkpoint at path, with its bins, which are made if there are none.

    integers: compute with its exact form (model.exact), or in floats. An exact form is made if there is none, which
    requires the training set. wanted: the identity of the networks that a file names. Then neither an exact form nor
    bins are made, as they would not be those of the file, and None is returned for networks of another identity.
    Raises UserError if it is no checkpoint that can code blocks, or has no exact form, or no bins to decode with.
    """
    checkpoint = checkpoints.load(path, DATASET, device)
    model = checkpoint.model
    if model.xs[1] != model.xs[2] or model.xs[0] not in CHANNELS.values():
        raise UserError(f"{path} is for images of shape {model.xs}, not for square blocks of grey or RGB pixels")
    networks = None
    if integers:
        networks = exact.find(checkpoint) if wanted else make_exact.for_checkpoint(checkpoint)
        if networks is None:
            make = f"model/make_exact.py {DATASET} --checkpoint {path}"
            raise exact.NoExactFormError(f"{path} has no exact form; make it with {make}")
    if wanted not in (None, networks.identity if networks else checkpoint.identity):
        return None
    look = discretization.find if wanted else discretization.for_checkpoint
    ranges = look(checkpoint, quantbits)
    if ranges is None:
        beside = checkpoint.bins_files(quantbits)[0].name
        raise UserError(f"{path} has no 2^{quantbits} bins; decoding requires its bins next to it, as {beside}")
    return of_model(model, ranges, networks)


def of_model(model: Model, ranges: discretization.Ranges, networks: exact.ExactModel | None = None) -> BlockCodec:
    """The BlockCodec of a model and the ranges of its latents. networks: its exact form, to compute in integers."""
    bins, latents = discretization.bins(model, ranges), (model.nz, ranges.quantbits)
    if networks is not None:
        return BlockCodec(Conditionals(networks, bins), *latents, networks.identity, ranges.identity, INTEGERS)
    conditional = Conditionals(FloatNetwork(fold_weight_norm(model)), bins)
    arithmetic = FLOAT_CPU if conditional.device.type == "cpu" else FLOAT_GPU
    return BlockCodec(conditional, *latents, ranges.checkpoint, ranges.identity, arithmetic)


def codes_blocks(picture: Picture, channels: int = 3, side: int = 32) -> bool:
    """Whether a picture has blocks that a model of this shape could code."""
    return picture.mode != "P" and picture.pixels.shape[2] == channels and blocks.count(*picture.size, side) > 0


def settings(device: torch.device) -> str:
    """What decides, apart from the number of threads, how the networks round: one line of ASCII."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    libraries = f"PyTorch {torch.__version__}, NumPy {np.__version__}"
    text = f"arithmetic {ARITHMETIC}, {libraries}, {platform.machine()} {name}"
    return text.encode("ascii", "replace").decode()[:255]


@contextlib.contextmanager
def _threads(count):
    """Inside this context, PyTorch computes with so many threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _schedule(codec: BlockCodec) -> Schedule:
    """How blocks are coded."""
    return bitsback.whitened(bitsback.bitswap(codec.nz))


def trial(codec: BlockCodec, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cost of blocks, uint8 [n, C, side, side], each in a lane of its own: two arrays [n] of 32-bit words.

    The first are the words that each adds to its lane, the second those that it pops from the lane before that.
    """
    count = sum(codec.conditional.dims[1:]) + 2  # no pop takes more than a word
    coder = Rans.from_words(np.random.default_rng(0).integers(1, 1 << 32, (len(images), count), np.uint32))
    before, least = coder.counts.copy(), coder.counts.copy()
    known = {0: codec.conditional.to_symbols(images)}
    for step in _schedule(codec):
        bitsback.run([step], coder, codec.conditional, known, len(images))
        least = np.minimum(least, coder.counts)
    return coder.counts - before, before - least


def _plan(
    picture: Picture, side: int, need: int, lanes: int, block_words: float
) -> tuple[int, int, list[tuple[int, bytes]]] | None:
    """Choose what to code conventionally so that its bytes can start the lanes.

    need: words that each lane starts from. lanes: the number wanted. block_words: about the size of a coded block.
    Moves up to an eighth of the blocks, the last ones, to the conventional part to start all the lanes; more only
    to start one. Returns (blocks, lanes, parts as of blocks.encode_rest()), or None if no block would be left.
    """
    whole = blocks.count(*picture.size, side)
    affordable = whole // 8
    moved = 0
    while moved < whole:
        parts = blocks.encode_rest(picture, side, whole - moved)
        words = sum(len(data) for _, data in parts) // 4
        wanted = need * (lanes if moved < affordable else 1)
        if words >= wanted:
            return whole - moved, min(lanes, words // need, whole - moved), parts
        step = max(1, math.ceil((wanted - words) / block_words))
        moved = min(moved + step, affordable) if moved < affordable else moved + max(step, whole // 16)
    return None


def _lane_starts(data: bytes, lanes: int) -> list[np.ndarray]:
    """The words that the lanes start from, a list of uint32 arrays, made from the bytes of the conventional part.

    On top of each is a 1, the upper half of the head, which must be at least 2^32.
    """
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4")
    return [np.append(part, np.uint32(1)) for part in np.array_split(words, lanes)]


def encode(
    picture: Picture, codec: BlockCodec, lanes: int | None, most: int, progress: Progress
) -> tuple[dict[str, Any], list[tuple[int, bytes]], bytes] | None:
    """Code the blocks of a picture on top of the conventional parts.

    lanes: the number wanted, None for a number by the size. progress: wraps the steps.
    Returns (header fields, parts as of blocks.encode_rest(), payload), or None if blocks cannot be coded, or would
    clearly need more than `most` bytes.
    """
    side = codec.conditional.xs[-1]
    whole = blocks.count(*picture.size, side)

    floats = {}
    if codec.arithmetic != INTEGERS:
        threads = min(torch.get_num_threads(), MAX_THREADS)
        floats = {"threads": threads, "settings": settings(codec.conditional.device)}

    def block(k):
        return np.moveaxis(blocks.view(picture.pixels, side, k), 2, 0)

    sample = np.unique(np.linspace(0, whole - 1, 16, dtype=np.int64))
    words, depth = trial(codec, np.stack([block(k) for k in sample]))
    if 4 * words.mean() * whole > 1.2 * most:
        return None
    need = int(1.1 * depth.max()) + 16
    # More lanes code faster, but need more initial bits.
    lanes = min(lanes or min(64, math.isqrt(whole)), MAX_LANES)
    for _ in range(_ATTEMPTS):
        plan = _plan(picture, side, need, lanes, max(1, words.mean()))
        if plan is None:
            return None
        count, used, parts = plan
        chains = [np.stack([block(k) for k in range(lane, count, used)]) for lane in range(used)]
        coder = Rans.from_words(_lane_starts(b"".join(data for _, data in parts), used))
        try:
            with _threads(floats.get("threads")):
                bitsback.encode_chains(_schedule(codec), coder, codec.conditional, chains, progress)
        except EmptyLaneError:  # a block popped more initial bits than those of the trial
            need = need * 5 // 4 + 16
            continue
        found = coder.to_words()
        fields = {
            "side": side, "blocks": count, "words": tuple(map(len, found)), "quantbits": codec.quantbits,
            "networks": codec.networks, "bins": codec.bins, "arithmetic": codec.arithmetic, **floats,
        }  # fmt: skip
        return fields, parts, np.concatenate(found).astype("<u4").tobytes()
    return None


def decode(header: Blocks, payload: bytes, codec: BlockCodec, progress: Progress) -> tuple[list[np.ndarray], bytes]:
    """Undo encode(): (each lane's blocks, uint8 [N_i, C, side, side], bytes of the conventional parts).

    Raises all sorts of exceptions if the payload is not what encode() wrote, or if floats round differently.
    """
    with _threads(None if codec.arithmetic == INTEGERS else min(header.threads, os.cpu_count() or 1)):
        return _decode(header, payload, codec, progress)


def _decode(header: Blocks, payload: bytes, codec: BlockCodec, progress: Progress) -> tuple[list[np.ndarray], bytes]:
    lanes = len(header.words)
    lengths = [len(range(lane, header.blocks, lanes)) for lane in range(lanes)]
    conventional = sum(length for _, length in header.parts)
    each, more = divmod((conventional + 3) // 4, lanes)  # as np.array_split() has it
    starts = [each + (lane < more) for lane in range(lanes)]
    for words, start, length in zip(header.words, starts, lengths, strict=True):
        # No push adds more than a word, so that a longer lane is damage. Refusing it bounds the memory.
        if words > start + 1 + length * sum(codec.conditional.dims):
            raise ValueError("a lane is longer than its blocks can make it")
    lane_words = np.split(np.frombuffer(payload, "<u4").astype(np.uint32), np.cumsum(header.words)[:-1])
    coder = Rans.from_words(lane_words)
    chains = bitsback.decode_chains(_schedule(codec), coder, codec.conditional, lengths, progress)
    left = coder.to_words()
    if [len(words) for words in left] != [start + 1 for start in starts] or any(words[-1] != 1 for words in left):
        raise ValueError("the initial bits are not what is left")
    data = np.concatenate([words[:-1] for words in left]).astype("<u4").tobytes()
    if any(data[conventional:]):
        raise ValueError("the initial bits are not what is left")
    return chains, data[:conventional]


def check(header: Blocks, channels: int, codec: BlockCodec) -> None:
    """Raise ContainerError if a codec is not the one that a file calls for, to code planes of so many channels."""
    for what, wanted, found in (
        ("checkpoint", header.networks, codec.networks),
        ("number of bins", f"2^{header.quantbits}", f"2^{codec.quantbits}"),
        ("set of bins", header.bins, codec.bins),
    ):
        if wanted != found:
            raise ContainerError(f"it was written with another {what}, {wanted} where this is {found}; "
                                 "name the right one with --checkpoint, its bins beside it")  # fmt: skip
    if (header.arithmetic == INTEGERS) != (codec.arithmetic == INTEGERS):
        raise ContainerError(f"it was written with networks in {ARITHMETICS[header.arithmetic]}")
    if (codec.conditional.xs[0], codec.conditional.xs[-1]) != (channels, header.side):
        raise ContainerError(f"its blocks do not fit the checkpoint's, of shape {codec.conditional.xs}")


def verdict(header: Blocks, codec: BlockCodec | None) -> str:
    """What to say of a file whose checksums are right, and which does not decode with the right codec."""
    if codec is None or codec.arithmetic == INTEGERS:
        return "damaged"
    # The file is as it was written, say its checksums; so the networks give other numbers here.
    threads = f"{header.threads} thread" + "s" * (header.threads > 1)
    return (
        "intact, but cannot be reproduced here. Its networks were computed in "
        f"{ARITHMETICS[header.arithmetic]}, {header.settings}, {threads}; here it is "
        f"{settings(codec.conditional.device)}. Where floating-point numbers round differently, decoding fails: "
        "decode it under the former settings"
    )
