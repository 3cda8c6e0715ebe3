"""Shared by the tests of files: generated pictures, small codecs, and what every file must do."""

import functools
import struct
import zlib

import numpy as np
import pytest
import torch
from conftest import small_model

import discretization
from codec import block_codec, container, conventional
from codec import header as file_header
from codec.header import ContainerError
from codec.models import Models
from model import checkpoints
from model.context import weights
from model.context.torch_network import TorchContextNetwork
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
    network = TorchContextNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += amplitude * torch.randn_like(parameter)
    return network


@functools.cache
def small_network(seed=0, amplitude=0.05):
    """The ContextNetwork that has the weights of torch_network()."""
    return weights.check(torch_network(seed, amplitude).weights())


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


def no_model(wanted):
    raise AssertionError("no model is needed")


def models_of(codec=None, network=None):
    """Models that are these, and no others."""
    return Models(
        lambda wanted: network or no_model(wanted),
        lambda wanted: codec or no_model(wanted),
        codec and (codec.conditional.xs[0], codec.conditional.xs[-1]),
    )


NO_MODELS = models_of()
METADATA = ((b"gAMA", bytes(4)), (b"pHYs", bytes(9)), (b"tEXt", b"Title\0a picture"))


def round_trip(picture, codec=None, coder=None, **options):
    """Encode, decode, compare, check the size; returns the header. By default with Bit-Swap, if there is a codec."""
    models = models_of(codec, small_network()) if codec else NO_MODELS
    data = container.encode(picture, coder or ("bitswap" if codec else "conventional"), models, **options)
    assert same(picture, container.decode(data, models))
    header = file_header.unpack(data)[0]
    metadata = header.metadata.compressed if header.metadata else 0
    assert len(data) <= picture.raw_bytes + metadata + 64  # docs/format.md
    return header


def decoding_error(data, models=NO_MODELS):
    """Decode what must be refused; returns the message."""
    with pytest.raises(ContainerError) as caught:
        container.decode(data, models)
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
        "transparent palette": picture_of("few", 20, 30, "P")._replace(transparency=bytes([7, 255])),
        "transparent colour": picture_of("few", 20, 30, "RGB")._replace(transparency=bytes(5) + b"\2"),
        "blocks with alpha": mild(30, 30, "L")._replace(alpha=mild(30, 30, "L", seed=1).pixels),
        "context, alpha and metadata": mild(20, 26)._replace(
            alpha=picture_of("few", 20, 26, "L").pixels, metadata=(*METADATA, (b"tEXt", b"Comment\0one"))
        ),
    }
    made = {}
    for name, picture in pictures.items():
        coder = "conventional"
        if "context" in name:
            coder = "context"
        elif "blocks" in name or "lane" in name:
            coder = "bitswap"
        made[name] = container.encode(picture, coder, models_for(CHANNELS[picture.mode])), picture
        header = file_header.unpack(made[name][0])[0]
        assert type(header.coding).__name__ == {"context": "Context", "bitswap": "Blocks"}.get(coder, "Conventional")
        if name in ("raw", "LZMA", "WebP"):
            assert {conventional.METHODS[method].name for method, _ in header.coding.parts} == {name}
    return made


def models_for(channels):
    """What made the samples of so many channels."""
    return Models(lambda wanted: small_network(), lambda wanted: small_codec(channels), (channels, SIDE))


def refuse_or_reproduce(data, picture, codec=None):
    """Decode anything: either ContainerError, or the picture that the file was made from. Returns the message.

    codec: in place of the small codec that made the samples.
    """
    try:
        header, _ = file_header.unpack(data)
        channels = CHANNELS[header.shape.mode]
        decoded = container.decode(data, models_of(codec, small_network()) if codec else models_for(channels))
    except ContainerError as error:
        message = str(error)
        assert message and "\n" not in message and message.isprintable()
        return message
    assert same(decoded, picture), "a wrong image"
    return None
