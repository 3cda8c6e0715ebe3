"""Shared by the tests of files: generated pictures, small codecs, and what every file must do."""

import functools
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import small_model

import discretization
from codec import autoregressive, block_codec, container, conventional
from codec import header as file_header
from codec.header import ContainerError
from model import checkpoints, context, context_training
from model.make_exact import make
from utils.images import CHANNELS, Picture, same

SIDE = 8  # of the blocks of the small codec: small, so that there are many in a small image


@functools.cache
def small_codec(channels=3, nz=2):
    """A Codec of a small model, untrained, but made to expect the images of mild()."""
    colour = {"colour_transform": True} if channels == 3 else {}
    model = small_model(nz, xs=(channels, SIDE, SIDE), conditional_scale=True, **colour)
    with torch.no_grad():
        model.gen_mu[0].gain -= 3
        model.gen_mu[0].b.zero_()
        model.gen_std[0].b -= 3
    identity = checkpoints.identify(model.state_dict())
    images = np.stack([mild(SIDE, SIDE, "RGB" if channels == 3 else "L", seed=k).pixels for k in range(16)])
    networks = make(model, torch.from_numpy(images).permute(0, 3, 1, 2), identity)
    return block_codec.of_model(model, discretization.sample_ranges(model, None, 6, identity), networks)


def torch_network(seed=0, amplitude=0.05):
    """A context network as training begins with, its weights shaken so that none is zero."""
    torch.manual_seed(seed)
    network = context_training.ContextNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += amplitude * torch.randn_like(parameter)
    return network


@functools.cache
def small_network(seed=0, amplitude=0.05):
    """The ContextNetwork that has the weights of torch_network()."""
    return autoregressive.ContextNetwork(*context.check(torch_network(seed, amplitude).weights()))


def mild(height, width, mode="RGB", seed=0, amplitude=6):
    """A picture that Bit-Swap with small_codec() halves in size: mid-grey with a little noise."""
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


def sixteen_bit_png(path, channels, height=4, width=5):
    """A PNG file of 16 bits a channel, which Pillow does not write for more than one channel."""
    rows = np.random.default_rng(0).integers(0, 65536, (height, width * channels), np.uint16).astype(">u2")
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def no_codec(header):
    raise AssertionError("there are no blocks to decode")


def round_trip(picture, codec=None, coder="bitswap", **options):
    """Encode, decode, compare, check the size; returns the header."""
    data = container.encode(picture, codec, coder, **options)
    decoded = container.decode(data, (lambda header: codec) if codec else no_codec)
    assert same(picture, decoded)
    assert len(data) <= picture.raw_bytes + container.OVERHEAD
    return file_header.unpack(data)[0]


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
        "context": mild(20, 26),
        "grey context": mild(23, 31, "L"),
    }
    made = {}
    for name, picture in pictures.items():
        if "context" in name:
            made[name] = container.encode(picture, coder="context", network=small_network()), picture
            assert file_header.unpack(made[name][0])[0].context
            continue
        with_blocks = small_codec(CHANNELS[picture.mode]) if "blocks" in name or "lane" in name else None
        made[name] = container.encode(picture, with_blocks, "bitswap"), picture
        header = file_header.unpack(made[name][0])[0]
        assert bool(header.side) == (with_blocks is not None)
        names = {conventional.METHODS[coder].name for coder, _ in header.parts}
        assert with_blocks or name == "palette" or names == {name}
    return made


def codec_for(header):
    """What made the samples."""
    return small_network() if header.context else small_codec(CHANNELS[header.mode])


def refuse_or_reproduce(data, picture, given_codec=None):
    """Decode anything: either ContainerError, or the picture that the file was made from. Returns the message.

    given_codec: in place of the small codec that made the samples.
    """
    try:
        decoded = container.decode(data, lambda header: given_codec or codec_for(header))
    except ContainerError as error:
        message = str(error)
        assert message and "\n" not in message and message.isprintable()
        return message
    assert same(decoded, picture), "a wrong image"
    return None
