"""The .bitswap file: any 8-bit grey, RGB or palette image, of any size, without cropping.

Whole square blocks of the image are coded by Bit-Swap, side by side in lanes (codec.bitsback). What is left, the
strips at the right and the bottom and as many blocks as it takes, is coded by conventional methods, and those bytes
are the initial bits of the lanes: the decoder finds them on the stacks once it has taken all blocks off, so they cost
nothing. An image of which Bit-Swap would make more than another format does, that has no whole
block, or whose channels are not the model's is coded by conventional methods altogether. codec.header has the layout.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codec import blocks, conventional
from codec.bitsback import Progress
from codec.header import MAGIC, ContainerError, Header, pack, unpack
from utils.cli import UserError
from utils.images import CHANNELS, MAX_PIXELS, Picture

if TYPE_CHECKING:  # elsewhere codec.block_codec, and with it PyTorch, is imported where there are blocks to code
    from codec.block_codec import BlockCodec

OVERHEAD = 64  # no file is more bytes than this larger than the raw pixels
CHOICES = ("auto", "smallest", "bitswap")  # of encode()


def encode(
    picture: Picture,
    codec: "BlockCodec | None" = None,
    coder: str = "auto",
    lanes: int | None = None,
    progress: Progress = iter,
) -> bytes:
    """The bytes of a .bitswap file, at most OVERHEAD more than the picture's raw bytes.

    codec: a BlockCodec, or None to do without Bit-Swap.
    coder: "auto" for Bit-Swap unless a PNG file would be smaller, "smallest" for Bit-Swap only where no conventional
    method makes less, "bitswap" for Bit-Swap as long as it makes less than the raw pixels take.
    lanes: how many to code side by side, where the image allows; more are faster. By default a number for its size.
    progress: wraps the steps, e.g. tqdm.
    Raises UserError where the picture is too large.
    """
    from codec import block_codec

    width, height = picture.size
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"an image of {width}x{height} is not coded: it takes 1 to {MAX_PIXELS:,} pixels")
    file = b""
    if codec is not None and block_codec.codes_blocks(picture, codec.conditional.xs[0], codec.conditional.xs[-1]):
        if coder == "smallest":
            file = _encode_conventionally(picture)
        most = {
            "auto": lambda: len(conventional.encode(picture.pixels, "PNG")),
            "smallest": lambda: len(file),
            "bitswap": lambda: picture.raw_bytes + OVERHEAD,
        }[coder]()
        most = min(most, picture.raw_bytes + OVERHEAD)
        coded = block_codec.encode(picture, codec, lanes, most, progress)
        if coded is not None:
            fields, parts, payload = coded
            with_blocks = pack(_header(picture, parts)._replace(**fields), payload)
            if len(with_blocks) <= most:
                return with_blocks
    return file or _encode_conventionally(picture)


def _encode_conventionally(picture: Picture) -> bytes:
    parts = blocks.encode_rest(picture)
    return pack(_header(picture, parts), b"".join(data for _, data in parts))


def _header(picture: Picture, parts: list[tuple[int, bytes]]) -> Header:
    sizes = tuple((method, len(data)) for method, data in parts)
    return Header(picture.mode, *picture.size, len(picture.palette) // 3, crc(picture), 0, sizes)


def decode(data: bytes, open_codec: "Callable[[Header], BlockCodec]", progress: Progress = iter) -> Picture:
    """The Picture in the bytes of a .bitswap file, exactly as it was encoded.

    open_codec(header): the BlockCodec to use; called only where there are Bit-Swap blocks.
    Raises ContainerError where the bytes are not sound, need another checkpoint or other bins than open_codec()
    gives, or were written under settings under which floats round in other ways than here.
    """
    from codec import block_codec

    header, payload = unpack(data)
    chains: list[np.ndarray] = []
    codec = None
    if header.side:
        codec = open_codec(header)
        block_codec.check(header, codec)
    try:
        if codec is not None:
            chains, payload = block_codec.decode(header, payload, codec, progress)
        picture = _assemble(header, chains, payload)
        if crc(picture) != header.crc:
            raise ValueError("the checksum of the pixels is wrong")
    except Exception as error:  # damaged data may raise any, in Pillow and lzma too
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContainerError(f"{block_codec.verdict(header, codec)} ({detail})") from None
    return picture


def crc(picture: Picture) -> int:
    """CRC-32 of everything that makes up a picture."""
    height, width, _ = picture.pixels.shape
    start = zlib.crc32(f"{picture.mode} {width}x{height}".encode() + picture.palette)
    return zlib.crc32(np.ascontiguousarray(picture.pixels).data, start)


def read_file(path: str | Path) -> bytes:
    """The bytes of a .bitswap file; of another, or a very large one, only so much as it takes to tell.

    Raises UserError where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(len(MAGIC))
            return data + file.read(3 * MAX_PIXELS + 1024) if data == MAGIC else data
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _assemble(header: Header, chains: list[np.ndarray], data: bytes) -> Picture:
    """The Picture that the blocks, as of block_codec.decode(), and the bytes of the conventional parts make up."""
    channels = CHANNELS[header.mode]
    places = blocks.regions(header.width, header.height, header.side, header.blocks)
    shapes = [(y.stop - y.start, x.stop - x.start, channels) for y, x in places]
    if header.mode == "P":
        shapes.insert(0, (1, header.entries, 3))
    parts, position = [], 0
    for (method, length), shape in zip(header.parts, shapes, strict=True):
        parts.append(conventional.METHODS[method].decode(data[position : position + length], shape))
        position += length
    palette = parts.pop(0).tobytes() if header.mode == "P" else b""
    pixels = np.empty((header.height, header.width, channels), np.uint8)
    for place, part in zip(places, parts, strict=True):
        pixels[place] = part
    for k in range(header.blocks):
        blocks.view(pixels, header.side, k)[:] = np.moveaxis(chains[k % len(chains)][k // len(chains)], 0, 2)
    return Picture(header.mode, pixels, palette)
