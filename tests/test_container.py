"""The .bitswap file: every image comes back, every damaged file is refused, and none is ever much too large."""

import re
import zlib

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import (
    METADATA,
    NO_MODELS,
    SIDE,
    decoding_error,
    mild,
    models_for,
    models_of,
    picture_of,
    reseal,
    round_trip,
    samples,
    small_codec,
    small_network,
)

from codec import bitsback, blocks, container, conventional, experiment
from codec import header as file_header
from codec.header import Blocks, Conventional
from codec.rans import Rans
from utils import png
from utils.errors import UserError
from utils.images import CHANNELS, MODES, Picture, read, same, to_pillow


def test_a_lack_of_memory_is_not_damage(monkeypatch):
    def fail(*_):
        raise MemoryError

    data = container.encode(mild(20, 20), "conventional")
    monkeypatch.setattr(container, "_assemble", fail)
    with pytest.raises(UserError, match="not enough memory for its 20x20 pixels"):
        container.decode(data, NO_MODELS)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 70), st.integers(1, 70),
    st.sampled_from(MODES), st.integers(0, 99),
)  # fmt: skip
def test_any_image_without_a_model(kind, height, width, mode, seed):
    header = round_trip(picture_of(kind, height, width, mode, seed))
    assert isinstance(header.coding, Conventional)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 60), st.integers(1, 60),
    st.sampled_from(MODES), st.sampled_from([1, 3]), st.sampled_from(["smallest", *container.WAYS]),
    st.sampled_from([None, 1, 5]),
)  # fmt: skip
def test_any_image_with_a_model(kind, height, width, mode, channels, coder, lanes):
    header = round_trip(picture_of(kind, height, width, mode), small_codec(channels), coder, lanes=lanes)
    assert not isinstance(header.coding, Blocks) or len(header.coding.words) <= (lanes or 64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["noise", "constant"])
@pytest.mark.parametrize("height, width", [(1, 1), (31, 33), (5000, 3), (3, 5000), (64, 64)])
def test_never_much_larger_than_the_pixels(height, width, kind, mode):
    """Even where the model is made to code noise."""
    assert round_trip(picture_of(kind, height, width, mode), small_codec(CHANNELS[mode])).shape.width == width


def test_a_constant_image_is_a_few_bytes():
    models = models_of(small_codec(), small_network())
    assert len(container.encode(picture_of("constant", 60, 60, "RGB"), models=models)) < 100


def test_each_way_gives_a_file_and_the_smallest_is_chosen():
    picture, models = mild(70, 70), models_of(small_codec(), small_network())
    files = dict(container.encode_each(picture, models=models))
    assert set(files) == set(container.WAYS) and len(set(map(len, files.values()))) == 3
    for way, data in files.items():
        assert container.encode(picture, way, models) == data
        assert same(container.decode(data, models), picture)
    assert container.encode(picture, models=models) == min(files.values(), key=len)


def test_a_way_that_cannot_code_a_picture_leaves_it_to_conventional_methods():
    noise, palette = picture_of("noise", 20, 20, "RGB"), picture_of("few", 20, 20, "P")
    for picture in (noise, palette):
        for way in container.WAYS:
            found = dict(container.encode_each(picture, way, models_of(small_codec(), small_network())))
            assert set(found) == {"conventional"}


def test_the_shipped_models_are_found_without_naming_them():
    picture = mild(40, 40)
    for way in container.WAYS:
        assert same(container.decode(container.encode(picture, way)), picture)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["noise", "constant", "few", "gradient"])
def test_alpha_comes_back(mode, kind):
    """Whatever the colours are where it is 0. In its own way, and next to nothing if it is constant."""
    picture = mild(33, 45, mode)._replace(alpha=picture_of(kind, 33, 45, "L").pixels)
    header = round_trip(picture, small_codec(CHANNELS[mode]))
    assert isinstance(header.coding, Blocks) and header.alpha is not None
    assert header.sizes[1] < (30 if kind == "constant" else 33 * 45 + 1)


def test_grey_alpha_is_coded_by_the_smallest_way():
    alpha = mild(64, 64, "L", seed=3).pixels
    picture = mild(64, 64, "L")._replace(alpha=alpha)
    files = container.encode_each(Picture("L", alpha), models=models_of(small_codec(1), small_network()), every=True)
    way, _ = min(files, key=lambda item: len(item[1]))
    expected = {"bitswap": "Blocks", "context": "Context", "conventional": "Conventional"}[way]
    assert type(round_trip(picture, small_codec(1), "smallest").alpha).__name__ == expected


def test_metadata_come_back_and_do_not_change_the_checksum_of_the_picture():
    picture = mild(20, 20)
    header = round_trip(picture._replace(metadata=METADATA))
    assert header.crc == round_trip(picture).crc and header.metadata.length > header.metadata.compressed > 0


def test_damaged_metadata_are_refused():
    data, _ = samples()["context, alpha and metadata"]
    header, payload = file_header.unpack(data)
    for raw in (b"", bytes(5), b"\0\0\0\4gAMA", b"\0\0\0\0IDAT", b"\0\0\0\5gAMA12345", png.pack(METADATA)):
        compressed = conventional.compress(raw)
        metadata = file_header.Metadata(len(compressed), max(1, len(raw)), zlib.crc32(raw))
        sections = payload[: sum(header.sizes[:2])] + compressed
        for wrong in (metadata, metadata._replace(length=1 << 24), metadata._replace(crc=0)):
            if (wrong, raw) != (metadata, png.pack(METADATA)):
                message = decoding_error(file_header.pack(header._replace(metadata=wrong), sections), models_for(3))
                assert "damaged" in message


def test_a_file_is_no_more_than_its_parts():
    """Within 3 % of the sum of the blocks' net rates, measured apart, and of the conventional part: 640x427."""
    small, picture = small_codec(), mild(427, 640)
    data = container.encode(picture, "bitswap", models_of(small))
    coding = file_header.unpack(data)[0].coding
    rest = sum(length for _, length in coding.parts)
    coded = np.stack([blocks.view(picture.pixels, SIDE, k) for k in range(coding.blocks)])
    chains = [np.moveaxis(chain, -1, -3) for chain in np.array_split(coded, 100)]
    schedule = bitsback.bitswap(small.conditional.network.nz)
    initial = experiment.initial_words(100, small.conditional, 0)
    coder = Rans.from_words(initial)
    before = coder.counts.sum()
    bitsback.encode_chains(schedule, coder, small.conditional, chains)
    net = 4 * (coder.counts.sum() - before)
    assert coding.blocks * SIDE**2 > 0.85 * 427 * 640
    assert abs(len(data) / (net + rest) - 1) < 0.03


@pytest.mark.parametrize("name", samples())
def test_every_flipped_bit_is_noticed(name):
    data, _ = samples()[name]
    for bit in range(0, 8 * len(data), max(1, len(data) // 60)):  # some 480 of each
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        decoding_error(bytes(damaged))


@pytest.mark.parametrize("name", samples())
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
    newer = data[:4] + bytes([file_header.VERSION + 1]) + data[5:]
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
        assert word in decoding_error(data, models_of(changed))
    header = file_header.unpack(data)[0]
    grey = small_codec(1)
    coding = header.coding._replace(networks=grey.networks, bins=grey.bins)
    foreign = reseal(data, header._replace(coding=coding))
    assert "do not fit" in decoding_error(foreign, models_of(grey))


def test_the_lines_from_the_documentation_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"## A program that compresses.*?```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    to_pillow(mild(20, 30)).save("photo.png")
    exec(code, {})
    assert same(read("copy.png"), mild(20, 30))
