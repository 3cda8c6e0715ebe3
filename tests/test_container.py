"""The .bitswap file: every image comes back, every damaged file is refused, and none is ever much too large."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import SIDE, decoding_error, mild, picture_of, reseal, round_trip, samples, small_codec, small_network

from codec import bitsback, blocks, container, experiment
from codec import header as file_header
from codec.rans import Rans
from utils.errors import UserError
from utils.images import CHANNELS, MODES


def test_a_lack_of_memory_is_not_damage(monkeypatch):
    def fail(*_):
        raise MemoryError

    data = container.encode(mild(20, 20))
    monkeypatch.setattr(container, "_assemble", fail)
    with pytest.raises(UserError, match="not enough memory for its 20x20 pixels"):
        container.decode(data, None)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 70), st.integers(1, 70),
    st.sampled_from(MODES), st.integers(0, 99),
)  # fmt: skip
def test_any_image_without_a_model(kind, height, width, mode, seed):
    header = round_trip(picture_of(kind, height, width, mode, seed))
    assert not header.side


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 60), st.integers(1, 60),
    st.sampled_from(MODES), st.sampled_from([1, 3]), st.sampled_from(container.CHOICES), st.sampled_from([None, 1, 5]),
)  # fmt: skip
def test_any_image_with_a_model(kind, height, width, mode, channels, coder, lanes):
    header = round_trip(picture_of(kind, height, width, mode), small_codec(channels), coder, lanes=lanes)
    assert len(header.words) <= (lanes or 64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["noise", "constant"])
@pytest.mark.parametrize("height, width", [(1, 1), (31, 33), (5000, 3), (3, 5000), (64, 64)])
def test_never_much_larger_than_the_pixels(height, width, kind, mode):
    """Even where the model is made to code noise."""
    assert round_trip(picture_of(kind, height, width, mode), small_codec(CHANNELS[mode])).width == width


def test_a_constant_image_is_a_few_bytes():
    assert len(container.encode(picture_of("constant", 1000, 1000, "RGB"), small_codec())) < 100


def test_coders_are_chosen_as_they_promise():
    picture = mild(70, 70)
    without = container.encode(picture)
    forced = container.encode(picture, small_codec(), "bitswap")
    context = container.encode(picture, coder="context", network=small_network())
    assert file_header.unpack(forced)[0].side and file_header.unpack(context)[0].context
    each = {"smallest": min(forced, without, context, key=len), "bitswap": forced, "context": context}
    assert len(set(map(len, (forced, without, context)))) == 3
    for coder, expected in each.items():
        assert container.encode(picture, small_codec(), coder, network=small_network()) == expected
    assert container.encode(picture, small_codec()) == min(forced, without, key=len)
    assert container.encode(picture, network=small_network()) == min(context, without, key=len)


def test_a_file_is_no_more_than_its_parts():
    """Within 3 % of the sum of the blocks' net rates, measured apart, and of the conventional part: 640x427."""
    small, picture = small_codec(), mild(427, 640)
    data = container.encode(picture, small, "bitswap")
    header = file_header.unpack(data)[0]
    rest = sum(length for _, length in header.parts)
    coded = np.stack([blocks.view(picture.pixels, SIDE, k) for k in range(header.blocks)])
    chains = [np.moveaxis(chain, -1, -3) for chain in np.array_split(coded, 100)]
    schedule = bitsback.bitswap(small.conditional.network.nz)
    initial = experiment.initial_words(100, small.conditional, 0)
    coder = Rans.from_words(initial)
    before = coder.counts.sum()
    bitsback.encode_chains(schedule, coder, small.conditional, chains)
    net = 4 * (coder.counts.sum() - before)
    assert header.blocks * SIDE**2 > 0.85 * 427 * 640
    assert abs(len(data) / (net + rest) - 1) < 0.03


@pytest.mark.parametrize(
    "name", ["raw", "LZMA", "WebP", "palette", "blocks", "one lane", "grey blocks", "context", "grey context"]
)
def test_every_flipped_bit_is_noticed(name):
    data, _ = samples()[name]
    for bit in range(0, 8 * len(data), max(1, len(data) // 60)):  # some 480 of each
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        decoding_error(bytes(damaged))


@pytest.mark.parametrize("name", ["raw", "LZMA", "WebP", "palette", "blocks", "context"])
def test_every_truncation_is_noticed(name):
    data, _ = samples()[name]
    for length in {*range(min(len(data), 150)), *range(0, len(data), max(1, len(data) // 50))}:
        message = decoding_error(data[:length])
        assert length < 7 or "cut short" in message
    assert "damaged" in decoding_error(data + b"\0")


def test_messages():
    data, _ = samples()["blocks"]
    assert "not a .bitswap file" in decoding_error(b"")
    assert "not a .bitswap file" in decoding_error(b"\x89PNG\r\n\x1a\n" + bytes(99))
    newer = data[:4] + bytes([file_header.CONTEXT_VERSION + 1]) + data[5:]
    assert "format 4" in decoding_error(newer) and "newer version" in decoding_error(newer)
    assert "cut short" in decoding_error(data[:20])
    assert "cut short" in decoding_error(data[:-1])
    assert "checksum of its header" in decoding_error(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert "checksum of its contents" in decoding_error(data[:-1] + bytes([data[-1] ^ 1]))
    for changed, word in (
        (small_codec()._replace(networks="0123456789abcdef"), "checkpoint"),
        (small_codec()._replace(bins="0123456789abcdef"), "set of bins"),
        (small_codec()._replace(quantbits=9), "2^6"),
    ):
        assert word in decoding_error(data, changed)
    header = file_header.unpack(data)[0]
    grey = small_codec(1)
    foreign = reseal(data, header._replace(networks=grey.networks, bins=grey.bins))
    assert "do not fit" in decoding_error(foreign, grey)
