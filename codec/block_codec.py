"""Blocks of an image coded by Bit-Swap, in the lanes of one coder, which start from bits that are sent anyway.

The first latents are popped with the bits of the parts of the image that no model codes (codec.container), so that
starting costs nothing. Blocks are dealt to the lanes in turn, in raster order. The networks compute in integers
(model.exact), so that a file decodes on every machine.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import discretization
from codec import bitsback, blocks
from codec.bitsback import Progress
from codec.conditionals import Conditionals
from codec.experiment import initial_words
from codec.header import MAX_LANES, Blocks, ContainerError, Parts
from codec.rans import EmptyLaneError, Rans
from model import checkpoints, exact, make_exact
from model.vae import Model
from utils.datasets import PHOTOGRAPHS
from utils.errors import UserError
from utils.images import Picture

QUANTBITS = 10  # of new files
_ATTEMPTS = 4  # at finding how many initial bits the lanes need


class BlockCodec(NamedTuple):
    """A model with its bins, and the identities that a file names them by."""

    conditional: Conditionals
    schedule: bitsback.Schedule
    quantbits: int
    networks: str  # identities: 16 hexadecimal digits
    bins: str


def open_to_encode(path: str | Path, device: torch.device) -> BlockCodec:
    """The BlockCodec to encode with: that of a checkpoint, whose exact form and bins are made if there are none.

    Raises UserError if the file is no checkpoint. Making an exact form requires the training set.
    """
    checkpoint = checkpoints.load(path, PHOTOGRAPHS, device)
    networks = make_exact.for_checkpoint(checkpoint)
    return of_model(checkpoint.model, discretization.for_checkpoint(checkpoint, QUANTBITS), networks)


def open_to_decode(path: str | Path, wanted: Blocks, device: torch.device) -> BlockCodec | None:
    """The BlockCodec to decode with: that of a checkpoint, or None if its networks are not those that a file names.

    Raises UserError if it is no checkpoint, or has no exact form or no bins: new ones would not be those of the file.
    """
    checkpoint = checkpoints.load(path, PHOTOGRAPHS, device)
    networks = exact.find(checkpoint)
    if networks is None:
        raise UserError(f"{path} has no exact form; make it with model/make_exact.py {PHOTOGRAPHS} --checkpoint {path}")
    if networks.identity != wanted.networks:
        return None
    ranges = discretization.find(checkpoint, wanted.quantbits)
    if ranges is None:
        file = checkpoint.bins_files(wanted.quantbits)[0].name
        raise UserError(f"{path} has no 2^{wanted.quantbits} bins; decoding requires its bins next to it, as {file}")
    return of_model(checkpoint.model, ranges, networks)


def of_model(model: Model, ranges: discretization.Ranges, networks: exact.ExactModel) -> BlockCodec:
    """The BlockCodec of a model's exact form and the ranges of its latents."""
    conditional = Conditionals(networks, discretization.bins(model, ranges))
    schedule = bitsback.whitened(bitsback.bitswap(model.nz))
    return BlockCodec(conditional, schedule, ranges.quantbits, networks.identity, ranges.identity)


def trial(codec: BlockCodec, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cost of blocks, uint8 [n, C, side, side], each in a lane of its own: two arrays [n] of 32-bit words.

    The first are the words that each adds to its lane, the second those that it pops from the lane before that.
    """
    coder = Rans.from_words(initial_words(len(images), codec.conditional, seed=0))
    before, least = coder.counts.copy(), coder.counts.copy()
    known = {0: codec.conditional.to_symbols(images)}
    for step in codec.schedule:
        bitsback.run([step], coder, codec.conditional, known, len(images))
        least = np.minimum(least, coder.counts)
    return coder.counts - before, before - least


def _plan(
    picture: Picture, side: int, need: int, lanes: int, block_words: float
) -> tuple[int, int, Parts, bytes] | None:
    """Choose what to code conventionally so that its bytes can start the lanes.

    need: words that each lane starts from. lanes: the number wanted. block_words: about the size of a coded block.
    Moves up to an eighth of the blocks, the last ones, to the conventional part to start all the lanes; more only
    to start one. Returns (blocks, lanes, *blocks.encode_rest()), or None if no block would be left.
    """
    whole = blocks.count(*picture.size, side)
    affordable = whole // 8
    moved = 0
    while moved < whole:
        parts, data = blocks.encode_rest(picture, side, whole - moved)
        words = len(data) // 4
        wanted = need * (lanes if moved < affordable else 1)
        if words >= wanted:
            return whole - moved, min(lanes, words // need, whole - moved), parts, data
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
) -> tuple[Blocks, bytes] | None:
    """Code the blocks of a picture on top of the conventional parts.

    lanes: the number wanted, None for a number by the size. progress: wraps the steps.
    Returns (what a header says of them, payload), or None if blocks cannot be coded, or would clearly need more than
    `most` bytes.
    """
    side = codec.conditional.xs[-1]
    whole = blocks.count(*picture.size, side)

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
        count, used, parts, data = plan
        chains = [np.stack([block(k) for k in range(lane, count, used)]) for lane in range(used)]
        coder = Rans.from_words(_lane_starts(data, used))
        try:
            bitsback.encode_chains(codec.schedule, coder, codec.conditional, chains, progress)
        except EmptyLaneError:  # a block popped more initial bits than those of the trial
            need = need * 5 // 4 + 16
            continue
        found = coder.to_words()
        coding = Blocks(parts, side, count, tuple(map(len, found)), codec.quantbits, codec.networks, codec.bins)
        return coding, np.concatenate(found).astype("<u4").tobytes()
    return None


def decode(header: Blocks, payload: bytes, codec: BlockCodec, progress: Progress) -> tuple[list[np.ndarray], bytes]:
    """Undo encode(): (each lane's blocks, uint8 [N_i, C, side, side], bytes of the conventional parts).

    Raises all sorts of exceptions if the payload is not what encode() wrote.
    """
    lanes = len(header.words)
    lengths = [len(range(lane, header.blocks, lanes)) for lane in range(lanes)]
    conventional = sum(length for _, length in header.parts)
    starts = np.array_split(np.broadcast_to(0, (conventional + 3) // 4), lanes)
    for words, start, length in zip(header.words, starts, lengths, strict=True):
        # No push adds more than a word, so that a longer lane is damage. Refusing it bounds the memory.
        if words > len(start) + 1 + length * sum(codec.conditional.dims):
            raise ValueError("a lane is longer than its blocks can make it")
    coder = Rans.from_words(np.split(np.frombuffer(payload, "<u4").astype(np.uint32), np.cumsum(header.words)[:-1]))
    chains = bitsback.decode_chains(codec.schedule, coder, codec.conditional, lengths, progress)
    left = coder.to_words()
    data = np.concatenate([words[:-1] for words in left]).astype("<u4").tobytes()[:conventional]
    if not all(map(np.array_equal, left, _lane_starts(data, lanes))):
        raise ValueError("the initial bits are not what is left")
    return chains, data


def check(header: Blocks, channels: int, codec: BlockCodec) -> None:
    """Raise ContainerError if a codec is not the one that a header names, for planes of so many channels."""
    wanted, found = (
        f"checkpoint {each.networks}, 2^{each.quantbits} bins, set of bins {each.bins}" for each in (header, codec)
    )
    if wanted != found:
        raise ContainerError(
            f"it was written with {wanted}, not {found}; name the right one with --checkpoint, its bins next to it"
        )
    if (codec.conditional.xs[0], codec.conditional.xs[-1]) != (channels, header.side):
        raise ContainerError(f"its blocks do not fit the checkpoint's, of shape {codec.conditional.xs}")
