"""Blocks in lanes: other depths, lanes and threads."""

import tracemalloc

import numpy as np
import pytest
import torch
from pictures import SIDE, decoding_error, mild, models_of, round_trip, samples, small_codec

from codec import bitsback, block_codec, blocks, container
from codec import header as file_header
from utils.images import CHANNELS, same


@pytest.mark.parametrize("height, width", [(64, 64), (47, 90), (90, 47), (200, 8), (9, 250), (63, 127)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_blocks_of_any_image(height, width, mode):
    """Nearly all of an image is coded in blocks, whatever strips are left over."""
    header = round_trip(mild(height, width, mode), small_codec(CHANNELS[mode])).coding
    whole = (height // SIDE) * (width // SIDE)
    assert whole * 3 // 4 <= header.blocks <= whole
    assert sum(1 for _ in blocks.regions(width, height, SIDE, header.blocks)) == len(header.parts)


@pytest.mark.parametrize("nz", [1, 3])
def test_other_depths(nz):
    assert round_trip(mild(60, 70), small_codec(3, nz)).coding.blocks


@pytest.mark.parametrize("lanes, used", [(2, 2), (5, 5), (None, 7)])
def test_lanes(lanes, used):
    """As many as asked for; by default about the square root of the number of blocks."""
    assert len(round_trip(mild(40, 90), small_codec(), lanes=lanes).coding.words) == used


def test_more_initial_bits_where_the_trial_promised_too_little(monkeypatch):
    """The first attempt runs out of bits; the next ones start the lanes from more."""
    trial, attempts = block_codec.trial, []
    monkeypatch.setattr(block_codec, "trial", lambda *args: (trial(*args)[0], np.array([-14])))  # and 16 for a margin
    encode = bitsback.encode_chains

    def count(*args):
        attempts.append(1)
        return encode(*args)

    monkeypatch.setattr(bitsback, "encode_chains", count)
    header = round_trip(mild(64, 64), small_codec(), lanes=30).coding
    assert len(attempts) == 2 and 1 < len(header.words) < 30


def test_a_lane_out_of_proportion():
    """One lane of all the words would make the coder take memory for as much on every lane."""
    data, _ = samples()["blocks"]
    header, payload = file_header.unpack(data)
    lanes = 16
    words = ((4 << 20) // 4 - 2 * (lanes - 1), *(2,) * (lanes - 1))
    wrong = header._replace(coding=header.coding._replace(words=words, blocks=16))
    tampered = file_header.pack(wrong, payload[:4] * (1 << 20))
    tracemalloc.start()
    assert decoding_error(tampered, models_of(small_codec()))
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


@pytest.mark.parametrize("channels", [1, 3])
def test_integers_decode_under_other_settings(channels):
    """Encoded on one thread in blocks of one lane count, decoded on two, with another batch and memory layout."""
    picture = mild(45, 40, "RGB" if channels == 3 else "L")
    data = container.encode(picture, "bitswap", models_of(small_codec(channels)), lanes=5)
    header = file_header.unpack(data)[0].coding
    assert header.side == SIDE and len(header.words) > 1
    conditional = small_codec(channels).conditional

    class OneByOne:
        """Every lane in a network call of its own."""

        dims, xs, to_symbols, to_pixels = conditional.dims, conditional.xs, None, conditional.to_pixels

        def __call__(self, variable, given, symbols):
            if given is None:
                return conditional(variable, given, symbols)
            parts = [conditional(variable, given, symbols[k : k + 1]) for k in range(len(symbols))]
            mu, scale = (np.concatenate([part.parameters[i] for part in parts]) for i in (0, 1))
            return type(parts[0])(mu, scale, conditional.bins[variable])

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        other = small_codec(channels)._replace(conditional=OneByOne())
        assert same(container.decode(data, models_of(other)), picture)
    finally:
        torch.set_num_threads(threads)
