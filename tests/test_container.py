"""The .bitswap file: every image comes back, every damaged file is refused, and none is ever much too large."""

import copy
import functools
import io
import itertools
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import discretization
from codec import bitsback, block_codec, blocks, container, conventional, experiment
from codec import header as file_header
from codec.header import ContainerError, Header
from codec.rans import Rans
from model import checkpoints
from model.make_exact import make
from utils.cli import UserError
from utils.images import CHANNELS, MAX_PIXELS, MODES, ORIENTATION, Picture, from_pillow, same, to_pillow
from utils.images import read as read_image

SIDE = 8  # of the blocks of the small codec: small, so that there are many in a small image


@functools.cache
def codec(channels=3, nz=2, exact=False):
    """A Codec of a small model, untrained, but made to expect the images of mild(); or of its exact form."""
    colour = {"colour_transform": True} if channels == 3 else {}
    model = small_model(nz, xs=(channels, SIDE, SIDE), conditional_scale=True, **colour)
    with torch.no_grad():
        model.gen_mu[0].gain -= 3
        model.gen_mu[0].b.zero_()
        model.gen_std[0].b -= 3
    identity = checkpoints.identity(model.state_dict())
    images = np.stack([mild(SIDE, SIDE, "RGB" if channels == 3 else "L", seed=k).pixels for k in range(16)])
    networks = make(model, torch.from_numpy(images).permute(0, 3, 1, 2), identity) if exact else None
    return block_codec.of_model(model, discretization.sample_ranges(model, None, 6, identity), identity, networks)


def mild(height, width, mode="RGB", seed=0, amplitude=6):
    """A picture that Bit-Swap with codec() halves in size: mid-grey with a little noise."""
    shape = (height, width, CHANNELS[mode])
    noise = np.random.default_rng(seed).normal(128, amplitude, shape)
    return Picture(mode, np.clip(noise, 0, 255).astype(np.uint8), bytes(range(256)) * 3 if mode == "P" else b"")


def picture_of(kind, height, width, mode, seed=0):
    """A generated picture, with a palette of the entries that its mode and pixels call for."""
    rng = np.random.default_rng(seed)
    shape = (height, width, CHANNELS[mode])
    y, x, c = np.ogrid[:height, :width, : shape[2]]
    pixels = {
        "noise": lambda: rng.integers(0, 256, shape),
        "constant": lambda: np.full(shape, rng.integers(0, 256)),
        "gradient": lambda: np.broadcast_to(3 * x + 2 * y + 50 * c, shape) % 256,
        "few": lambda: rng.integers(0, 3, shape),
        "mild": lambda: np.clip(rng.normal(128, 6, shape), 0, 255),
    }[kind]().astype(np.uint8)
    palette = rng.bytes(3 * int(rng.integers(int(pixels.max()) + 1, 257))) if mode == "P" else b""
    return Picture(mode, pixels, palette)


def no_codec(header):
    raise AssertionError("there are no blocks to decode")


def round_trip(picture, codec=None, coder="bitswap", **options):
    """Encode, decode, compare, check the size; returns the header."""
    data = container.encode(picture, codec, coder, **options)
    decoded = container.decode(data, (lambda header: codec) if codec else no_codec)
    assert same(picture, decoded)
    assert len(data) <= picture.raw_bytes + container.OVERHEAD
    return file_header.unpack(data)[0]


def seal(data):
    """Set right the checksums of header and payload of a file that has been tampered with, where that can be."""
    data = bytearray(data)
    length = int.from_bytes(data[5:7], "little")
    if not 11 <= length <= len(data):
        return bytes(data)
    # The CRC of the payload comes after the mode, two or three numbers and the CRC of the picture.
    position = 8
    for _ in range(2 + (data[7] == 2)):
        while position < length and data[position] > 127:
            position += 1
        position += 1
    data[position + 4 : position + 8] = struct.pack("<I", zlib.crc32(data[length:]))
    data[length - 4 : length] = struct.pack("<I", zlib.crc32(data[: length - 4]))
    return bytes(data)


# Round trips


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
    header = round_trip(picture_of(kind, height, width, mode), codec(channels), coder, lanes=lanes)
    assert len(header.words) <= (lanes or 64)


@pytest.mark.parametrize("height, width", [(64, 64), (47, 90), (90, 47), (200, 8), (9, 250), (63, 127)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_blocks_of_any_image(height, width, mode):
    """Nearly all of an image is coded in blocks, whatever strips are left over."""
    header = round_trip(mild(height, width, mode), codec(CHANNELS[mode]))
    whole = (height // SIDE) * (width // SIDE)
    assert whole * 3 // 4 <= header.blocks <= whole
    assert sum(1 for _ in blocks.regions(width, height, SIDE, header.blocks)) == len(header.parts)


@pytest.mark.parametrize("nz", [1, 3])
def test_other_depths(nz):
    assert round_trip(mild(60, 70), codec(3, nz)).blocks


@pytest.mark.parametrize("lanes, used", [(2, 2), (5, 5), (None, 7)])
def test_lanes(lanes, used):
    """As many as asked for; by default about the square root of the number of blocks."""
    assert len(round_trip(mild(40, 90), codec(), lanes=lanes).words) == used


def test_threads_are_those_of_the_file():
    picture = mild(20, 20)
    data = container.encode(picture, codec(), "bitswap")
    header = file_header.unpack(data)[0]
    assert header.threads == torch.get_num_threads() == 1
    seen = []

    def progress(steps):
        seen.append(torch.get_num_threads())
        return steps

    more = reseal(data, header._replace(threads=2))
    with_two = container.decode(more, lambda header: codec(), progress)
    assert seen == [min(2, os.cpu_count())] and torch.get_num_threads() == 1 and same(with_two, picture)


def test_regions_tile_the_image():
    for width, height, side in itertools.product((1, 7, 8, 9, 24, 29), (1, 8, 16, 23), (4, 8)):
        across, whole = width // side, (width // side) * (height // side)
        for count in range(whole + 1):
            covered = np.zeros((height, width), np.int64)
            for k in range(count):
                y, x = divmod(k, across)
                covered[side * y : side * (y + 1), side * x : side * (x + 1)] += 1
            for place in blocks.regions(width, height, side, count):
                assert covered[place].size
                covered[place] += 1
            assert (covered == 1).all()


def test_more_initial_bits_where_the_trial_promised_too_little(monkeypatch):
    """The first attempt runs out of bits; the next ones start the lanes from more."""
    trial, attempts = block_codec._trial, []
    monkeypatch.setattr(block_codec, "_trial", lambda *args: (trial(*args)[0], np.array([-14])))  # and 16 for a margin
    encode = bitsback.encode_chains

    def count(*args):
        attempts.append(1)
        return encode(*args)

    monkeypatch.setattr(bitsback, "encode_chains", count)
    header = round_trip(mild(64, 64), codec(), lanes=30)
    assert len(attempts) == 2 and 1 < len(header.words) < 30


# Sizes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["noise", "constant"])
@pytest.mark.parametrize("height, width", [(1, 1), (31, 33), (5000, 3), (3, 5000), (64, 64)])
def test_never_much_larger_than_the_pixels(height, width, kind, mode):
    """Even where the model is made to code noise."""
    assert round_trip(picture_of(kind, height, width, mode), codec(CHANNELS[mode])).width == width


@pytest.mark.parametrize("mode", MODES)
def test_longer_than_webp_allows(mode):
    round_trip(picture_of("gradient", 2, conventional.WEBP_SIDE + 1, mode))
    round_trip(picture_of("gradient", conventional.WEBP_SIDE + 1, 2, mode))


def test_a_constant_image_is_a_few_bytes():
    assert len(container.encode(picture_of("constant", 1000, 1000, "RGB"), codec())) < 100


def test_coders_are_chosen_as_they_promise(monkeypatch):
    picture = mild(70, 70)
    forced = container.encode(picture, codec(), "bitswap")
    without = container.encode(picture)
    encode, sizes = conventional.encode, {"PNG": len(forced)}

    def pretend(pixels, format, **options):
        return bytes(sizes[format]) if format in sizes else encode(pixels, format, **options)

    monkeypatch.setattr(conventional, "encode", pretend)
    assert container.encode(picture, codec(), "auto") == forced
    sizes["PNG"] -= 1
    assert not file_header.unpack(container.encode(picture, codec(), "auto"))[0].side
    monkeypatch.undo()
    smallest = container.encode(picture, codec(), "smallest")
    assert smallest == min(forced, without, key=len)


def test_a_file_is_no_more_than_its_parts():
    """Within 3 % of the sum of the blocks' net rates, measured apart, and of the conventional part: 640x427."""
    small, picture = codec(), mild(427, 640)
    data = container.encode(picture, small, "bitswap")
    header = file_header.unpack(data)[0]
    rest = sum(length for _, length in header.parts)
    coded = np.stack([blocks.view(picture.pixels, SIDE, k) for k in range(header.blocks)])
    chains = [np.moveaxis(chain, -1, -3) for chain in np.array_split(coded, 100)]
    schedule = bitsback.bitswap(small.nz)
    initial = experiment.initial_words(100, small.conditional, 0)
    coder = Rans.from_words(initial)
    before = coder.counts.sum()
    bitsback.encode_chains(schedule, coder, small.conditional, chains)
    net = 4 * (coder.counts.sum() - before)
    assert header.blocks * SIDE**2 > 0.85 * 427 * 640
    assert abs(len(data) / (net + rest) - 1) < 0.03


# Refusals


def decoding_error(data, given_codec=None):
    """Decode what must be refused; returns the message."""
    with pytest.raises(ContainerError) as caught:
        container.decode(data, (lambda header: given_codec) if given_codec else no_codec)
    message = str(caught.value)
    assert message and "\n" not in message and message.isprintable()
    return message


def reseal(data, header):
    """The file with another header."""
    return file_header.pack(header, file_header.unpack(data)[1])


@functools.cache
def samples():
    """Sound files: {name: (bytes, picture)}."""
    pictures = {
        "raw": picture_of("noise", 5, 7, "RGB"),
        "LZMA": picture_of("gradient", 1, conventional.WEBP_SIDE + 1, "L"),
        "WebP": picture_of("gradient", 40, 30, "RGB"),
        "palette": picture_of("few", 20, 30, "P"),
        "blocks": mild(40, 45),
        "one lane": mild(24, 27),
        "grey blocks": mild(30, 30, "L"),
    }
    made = {}
    for name, picture in pictures.items():
        with_blocks = codec(CHANNELS[picture.mode]) if "blocks" in name or "lane" in name else None
        made[name] = container.encode(picture, with_blocks, "bitswap"), picture
        header = file_header.unpack(made[name][0])[0]
        assert bool(header.side) == (with_blocks is not None)
        names = {conventional.METHODS[coder].name for coder, _ in header.parts}
        assert with_blocks or name == "palette" or names == {name}
    return made


def refuse_or_reproduce(data, picture):
    """Decode anything: either ContainerError, or the picture that the file was made from. Returns the message."""
    try:
        decoded = container.decode(data, lambda header: codec(CHANNELS[header.mode]))
    except ContainerError as error:
        message = str(error)
        assert message and "\n" not in message and message.isprintable()
        return message
    assert same(decoded, picture), "a wrong image"
    return None


@pytest.mark.parametrize("name", ["raw", "LZMA", "WebP", "palette", "blocks", "one lane", "grey blocks"])
def test_every_flipped_bit_is_noticed(name):
    data, _ = samples()[name]
    for bit in range(0, 8 * len(data), max(1, len(data) // 60)):  # some 480 of each
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        decoding_error(bytes(damaged))


@pytest.mark.parametrize("name", ["raw", "LZMA", "WebP", "palette", "blocks"])
def test_every_truncation_is_noticed(name):
    data, _ = samples()[name]
    for length in {*range(min(len(data), 150)), *range(0, len(data), max(1, len(data) // 50))}:
        message = decoding_error(data[:length])
        assert length < 7 or "cut short" in message
    assert "damaged" in decoding_error(data + b"\0")


@pytest.mark.parametrize("name", ["raw", "LZMA", "WebP", "palette", "one lane", "grey blocks"])
def test_bits_flipped_under_checksums_that_are_right(name, monkeypatch):
    """As somebody would who means harm. What the header says is checked, and the picture's checksum sees the rest."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # for the speed of this test, whatever the header says
    data, picture = samples()[name]
    rng = np.random.default_rng(0)
    header_bits = 8 * int.from_bytes(data[5:7], "little")
    bits = [*range(header_bits), *rng.integers(header_bits, 8 * len(data), 60 if "RGB" in picture.mode else 100)]
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << int(bit % 8)
        refuse_or_reproduce(seal(damaged), picture)


def test_spliced_files():
    """The head of one file and the tail of another, cut where the headers end and anywhere else."""
    files = [data for data, _ in samples().values()]
    rng = np.random.default_rng(1)
    for first, second in itertools.permutations(files, 2):
        cuts = [(int.from_bytes(first[5:7], "little"), int.from_bytes(second[5:7], "little"))]
        cuts += [(rng.integers(len(first)), rng.integers(len(second))) for _ in range(5)]
        for a, b in cuts:
            spliced = first[:a] + second[b:]
            if spliced not in files:
                refuse = refuse_or_reproduce(spliced, None)
                assert refuse
                assert refuse_or_reproduce(seal(spliced) if a > 11 else spliced, None)


def test_random_bytes():
    rng = np.random.default_rng(2)
    for i in range(300):
        data = rng.bytes(int(rng.integers(0, 200)))
        head = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, int(rng.integers(0, 100)))
        assert decoding_error(data) and decoding_error(head + data)
        start = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, len(data) % 90 + 7)
        assert decoding_error(seal(start + data))
        sealed = b"".join([head[:5], struct.pack("<H", 7 + len(data) + 4), bytes([i % 3]), data, bytes(3)])
        assert decoding_error(seal(sealed))


def huge(value):
    return bytes([255, 255, 255, 255, 127]) if value is None else file_header._number(value)


def test_absurd_headers_take_no_memory():
    """Headers whose checksums are right, and whose numbers are not; each refused at once and in a few megabytes."""
    data, _ = samples()["blocks"]
    payload = file_header.unpack(data)[1]
    header = file_header.unpack(data)[0]
    plain = file_header.unpack(samples()["WebP"][0])[0]
    most = MAX_PIXELS
    absurd = [
        *(header._replace(width=w, height=h) for w, h in ((2**31, 2**31), (most + 1, 1), (0, 0), (0, 5), (2**34, 1))),
        *(header._replace(width=w, height=h) for w, h in ((most, 1), (11585, 11585), (3, 3), (16384, 8192))),
        *(plain._replace(width=w, height=h) for w, h in ((2**31, 2**31), (most, 1), (11585, 11585), (1, most))),
        *(plain._replace(parts=((coder, size),)) for coder in range(5) for size in (0, 1, 2**29, 2**34)),
        *(plain._replace(parts=plain.parts * count) for count in (0, 2, 4, 200)),
        plain._replace(parts=((200, plain.parts[0][1]),)),
        plain._replace(mode="P", entries=0),
        plain._replace(mode="P", entries=300),
        *(header._replace(side=side) for side in (1, 2, 4, 255)),
        *(header._replace(blocks=blocks) for blocks in (0, 1, 24, 26, 2**30)),
        *(header._replace(words=words) for words in ((), (2,), (2**31,), (2**34,), (2,) * 20, (0,) * 20)),
        header._replace(words=(header.words[0] + 1, header.words[1] - 1, *header.words[2:])),
        header._replace(words=(sum(header.words) - 2 * 24, *(2,) * 24), blocks=25),
        *(header._replace(quantbits=q) for q in (0, 5, 16, 17, 255)),
        *(header._replace(arithmetic=code) for code in (2, 3, 255)),
        *(header._replace(threads=count) for count in (0, 257, 2**33)),
        *(header._replace(settings=text) for text in ("a\nb", "\x1b[2J", "\0")),
        header._replace(networks="00" * 8),
        header._replace(bins="00" * 8),
        header._replace(mode="L"),
        header._replace(crc=0),
    ]
    bombs = [lzma_bomb(64 << 20), webp_of(16000, 16000)]
    tracemalloc.start()
    for wrong in absurd:
        tampered = file_header.pack(wrong, payload if wrong.side else file_header.unpack(samples()["WebP"][0])[1])
        assert refuse_or_reproduce(tampered, None)
    # A part's own size, in a file that is otherwise sound: no bomb goes off.
    for coder, bomb in zip((1, len(conventional.METHODS) - 1), bombs, strict=True):
        tampered = file_header.pack(plain._replace(parts=((coder, len(bomb)),)), bomb)
        assert "damaged" in refuse_or_reproduce(tampered, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def lzma_bomb(size):
    return conventional.METHODS[1].encode(np.zeros((size, 1, 1), np.uint8))


def webp_of(width, height):
    """The first bytes of a VP8L bitstream for an image of this size."""
    return b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little") + bytes(20)


def test_a_lane_out_of_proportion():
    """One lane of all the words would make the coder take memory for as much on every lane."""
    data, _ = samples()["blocks"]
    header, payload = file_header.unpack(data)
    lanes = 16
    words = ((4 << 20) // 4 - 2 * (lanes - 1), *(2,) * (lanes - 1))
    wrong = header._replace(words=words, blocks=16)
    tampered = file_header.pack(wrong, payload[:4] * (1 << 20))
    tracemalloc.start()
    assert decoding_error(tampered, codec())
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_messages():
    data, _ = samples()["blocks"]
    assert "not a .bitswap file" in decoding_error(b"")
    assert "not a .bitswap file" in decoding_error(b"\x89PNG\r\n\x1a\n" + bytes(99))
    newer = data[:4] + bytes([file_header.VERSION + 1]) + data[5:]
    assert f"format {file_header.VERSION + 1}" in decoding_error(newer) and "newer version" in decoding_error(newer)
    assert "cut short" in decoding_error(data[:20])
    assert "cut short" in decoding_error(data[:-1])
    assert "checksum of its header" in decoding_error(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    assert "checksum of its contents" in decoding_error(data[:-1] + bytes([data[-1] ^ 1]))
    for changed, word in (
        (codec()._replace(networks="0123456789abcdef"), "checkpoint"),
        (codec()._replace(bins="0123456789abcdef"), "set of bins"),
        (codec()._replace(quantbits=9), "2^6"),
    ):
        assert word in decoding_error(data, changed)
    header = file_header.unpack(data)[0]
    assert "do not fit" in decoding_error(reseal(data, header._replace(networks=codec(1).networks,
                                                                      bins=codec(1).bins)), codec(1))  # fmt: skip


@pytest.mark.parametrize("change", [1e-3, 1e-5, 1e-7, np.nan])
def test_floats_that_round_differently_are_noticed(change):
    """A network that computes very nearly the same is told from a damaged file."""
    data, picture = samples()["blocks"]
    nearly = copy.deepcopy(codec().conditional)
    for name in ("infer", "generate"):
        network = getattr(nearly.network.model, name)

        def shaken(i, given, network=network):
            mu, scale = network(i, given)
            return mu * (1 + change), scale

        setattr(nearly.network.model, name, shaken)
    message = refuse_or_reproduce_with(data, picture, codec()._replace(conditional=nearly))
    if message is None:
        assert abs(change) <= 1e-7
        return
    assert "intact, but cannot be reproduced here" in message
    for setting in ("CPU", f"PyTorch {torch.__version__}", f"NumPy {np.__version__}", "1 thread;"):
        assert setting in message


def refuse_or_reproduce_with(data, picture, given_codec):
    try:
        assert same(container.decode(data, lambda header: given_codec), picture)
    except ContainerError as error:
        return str(error)
    return None


@pytest.mark.parametrize("channels", [1, 3])
def test_integers_decode_under_other_settings(channels):
    """Encoded on one thread in blocks of one lane count, decoded on two, with another batch and memory layout."""
    picture = mild(45, 40, "RGB" if channels == 3 else "L")
    data = container.encode(picture, codec(channels, exact=True), "bitswap", lanes=5)
    header, _ = file_header.unpack(data)
    assert (header.arithmetic, header.threads, header.settings) == (file_header.INTEGERS, 1, "")
    assert header.side == SIDE and len(header.words) > 1
    conditional = codec(channels, exact=True).conditional

    class OneByOne:
        """Every lane in a network call of its own."""

        dims, xs, to_symbols, to_pixels = conditional.dims, conditional.xs, None, conditional.to_pixels

        def __call__(self, variable, given, symbols):
            if given is None:
                return conditional(variable, given, symbols)
            parts = [conditional(variable, given, symbols[k : k + 1]) for k in range(len(symbols))]
            mu, scale = (np.concatenate([part.parameters[i] for part in parts]) for i in (0, 1))
            return type(parts[0])(mu, scale, conditional._bins[variable])

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        other = codec(channels, exact=True)._replace(conditional=OneByOne())
        assert same(container.decode(data, lambda header: other), picture)
    finally:
        torch.set_num_threads(threads)


def test_arithmetics_are_told_apart():
    floats = samples()["blocks"][0]
    networks = codec().networks
    error = decoding_error(floats, codec(exact=True)._replace(networks=networks))
    assert "written with networks in float32 on the CPU" in error
    integers = reseal(floats, file_header.unpack(floats)[0]._replace(arithmetic=file_header.INTEGERS))
    assert "written with networks in integers" in decoding_error(integers, codec())


def test_the_header_says_what_is_in_the_file():
    data, picture = samples()["blocks"]
    header, payload = file_header.unpack(data)
    assert (header.mode, header.width, header.height, header.side) == ("RGB", 45, 40, SIDE)
    assert (header.quantbits, header.networks, header.bins) == (6, codec().networks, codec().bins)
    assert header.arithmetic == file_header.FLOAT_CPU and header.crc == container.crc(picture)
    assert len(payload) == 4 * sum(header.words)
    assert Header(*header) == file_header._parse(io.BytesIO(data[7 : int.from_bytes(data[5:7], "little") - 4]))


def test_the_format_stays_what_it_is():
    """A file of one grey pixel, byte by byte."""
    one = container.encode(Picture("L", np.array([[[7]]], np.uint8)))
    assert one.hex(" ", -4) == "89425357 021a0000 01018d70 d5422e7a 664c0100 0100fc52 a25807"
    assert container.decode(one, no_codec).pixels.item() == 7


# Reading images


def save(tmp_path, name, image, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def photograph(mode="RGB", size=(21, 13)):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.ppm"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_read(tmp_path, name, mode):
    path = save(tmp_path, name, photograph(mode))
    picture = read_image(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(picture.pixels.squeeze(), np.asarray(image))
        assert picture.mode == image.mode


@pytest.mark.parametrize("colours", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_palette_images_keep_their_palette(tmp_path, colours, name):
    image = photograph().quantize(colours)
    path = save(tmp_path, name, image)
    picture = read_image(path)
    decoded = container.decode(container.encode(picture), no_codec)
    out = save(tmp_path, "out.png", to_pillow(decoded))
    with Image.open(path) as before, Image.open(out) as after:
        assert after.mode == before.mode == "P"
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        assert after.getpalette()[: len(picture.palette)] == list(picture.palette)
        assert list(picture.palette) == before.getpalette("RGB")


def test_pixels_beyond_the_palette(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putpixel((1, 1), 5)
    picture = from_pillow(image)
    assert picture.palette == bytes([1, 2, 3, 4, 5, 6, *[0] * 12])
    out = save(tmp_path, "out.png", to_pillow(container.decode(container.encode(picture), no_codec)))
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after), [[0, 0], [0, 5]])
    assert from_pillow(Image.new("P", (2, 2))).palette == bytes(3)


def sixteen_bit_png(path, channels):
    """A PNG file of 16 bits a channel, which Pillow does not write for more than one channel."""
    height, width = 4, 5
    rows = np.random.default_rng(0).integers(0, 65536, (height, width * channels), np.uint16).astype(">u2")
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def make_unsuitable(folder, kind):
    """Write an image that is not coded as it is; returns its path."""
    image, path = photograph(), folder / "image.png"
    if kind.startswith("16-bit PNG"):
        sixteen_bit_png(path, int(kind[-1]))
    elif kind in ("RGBA", "LA", "1"):
        image.convert(kind).save(path)
    elif kind == "transparent palette":
        image.quantize(9).save(path, transparency=3)
    elif kind == "transparent colour":
        image.save(path, transparency=(1, 2, 3))
    elif kind == "CMYK":
        image.convert("CMYK").save(path := folder / "image.jpg")
    elif kind == "float":
        image.convert("F").save(path := folder / "image.tiff")
    elif kind == "16-bit PPM":
        path = folder / "image.ppm"
        path.write_bytes(b"P6 2 3 65535\n" + bytes(range(36)))
    elif kind == "animation":
        other = image.transpose(Image.Transpose.ROTATE_180)
        image.save(path := folder / "image.gif", save_all=True, append_images=[other])
    return path


@pytest.mark.parametrize(
    "kind, says",
    {
        "16-bit PNG of 1": "16 bits", "16-bit PNG of 2": "alpha", "16-bit PNG of 3": "16 bits",
        "16-bit PNG of 4": "alpha", "RGBA": "alpha", "LA": "alpha", "1": "mode 1", "CMYK": "mode CMYK",
        "float": "mode F", "16-bit PPM": "16 bits", "transparent palette": "transparent",
        "transparent colour": "transparent", "animation": "2 images",
    }.items(),
)  # fmt: skip
def test_unsuitable_images_are_refused_with_advice_that_works(tmp_path, monkeypatch, kind, says):
    path = make_unsuitable(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert says in message and str(path) in message and "\n" not in message
    monkeypatch.chdir(tmp_path)
    exec(re.search(r'python -c "(.*)"$', message)[1].replace('\\"', '"'))  # as the message advises
    assert round_trip(read_image(tmp_path / "converted.png"))


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    data = save(tmp_path, "good.png", photograph(size=(90, 90))).read_bytes()
    (tmp_path / "short.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "drawing.eps").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    for name in ("empty.png", "text.png", "short.png", "drawing.eps", "absent.png", "."):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            read_image(tmp_path / name)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data[:2000])
        for position in rng.integers(0, len(damaged), 5):
            damaged[position] = rng.integers(256)
        (tmp_path / "damaged.png").write_bytes(damaged)
        with pytest.raises(UserError):
            read_image(tmp_path / "damaged.png")


def test_images_too_large_are_refused_before_they_are_read(tmp_path):
    head = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + idat)
    with pytest.raises(UserError, match=r"large\.png"):
        read_image(tmp_path / "large.png")


def test_orientation_is_told_and_not_applied(tmp_path, capsys):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path, "turned.png", photograph(), exif=exif)
    picture = read_image(path)
    assert picture.pixels.shape == (13, 21, 3)
    assert "EXIF" in capsys.readouterr().out
