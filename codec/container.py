"""The .bitswap file: any 8-bit grey, RGB or palette image, of any size, without cropping.

Whole square blocks of the image are coded by Bit-Swap, side by side in lanes (codec.bitsback). What is left, the
strips at the right and the bottom and as many blocks as it takes, is coded by conventional methods, and those bytes
are the initial bits of the lanes: the decoder finds them on the stacks once it has taken all blocks off, so they cost
nothing.

Or a whole image, grey or RGB, is coded pixel by pixel with the context network (codec.autoregressive). And what
neither codes in fewer bytes than a conventional method does is coded by that. codec.header has the layout.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec import autoregressive, blocks, conventional
from codec.autoregressive import ContextNetwork
from codec.bitsback import Progress
from codec.header import MAGIC, ContainerError, Header, pack, unpack
from utils.errors import UserError
from utils.images import CHANNELS, MAX_PIXELS, Picture

if TYPE_CHECKING:  # elsewhere codec.block_codec, and with it PyTorch, is imported where there are blocks to code
    from codec.block_codec import BlockCodec

OVERHEAD = 64  # no file is more bytes than this larger than the raw pixels
CHOICES = ("smallest", "context", "bitswap")  # of encode()


def encode(
    picture: Picture,
    codec: "BlockCodec | None" = None,
    coder: str = "smallest",
    lanes: int | None = None,
    progress: Progress = iter,
    network: ContextNetwork | None = None,
    adapting: bool = True,
) -> bytes:
    """The bytes of a .bitswap file, at most OVERHEAD more than the picture's raw bytes.

    codec: a BlockCodec, or None to do without Bit-Swap.
    coder: "smallest" for whatever makes least of the picture; "context" or "bitswap" for that alone as long as it
    makes less than the raw pixels take. What neither can code is coded by conventional methods.
    lanes: how many blocks to code side by side, where the image allows; more are faster. By default a number for its
    size.
    progress: wraps the steps, e.g. tqdm.
    network: a ContextNetwork, or None to do without. adapting: whether it may adapt to the image, which takes three
    times as long, twice in decoding, and makes less of most images.
    Raises UserError where the picture is too large.
    """
    width, height = picture.size
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"an image of {width}x{height} is not coded: it takes 1 to {MAX_PIXELS:,} pixels")
    file = _encode_conventionally(picture) if coder == "smallest" else None
    most = picture.raw_bytes + OVERHEAD if file is None else len(file)
    if network is not None and coder != "bitswap":
        file = _shorter(_encode_with_context(picture, network, adapting, progress), most) or file
        most = most if file is None else len(file)
    if codec is not None and coder != "context":
        file = _shorter(_encode_with_blocks(picture, codec, lanes, most, progress), most) or file
    return file or _encode_conventionally(picture)


def _shorter(file: bytes | None, most: int) -> bytes | None:
    return file if file is not None and len(file) <= most else None


def _encode_with_context(picture: Picture, network: ContextNetwork, adapting: bool, progress: Progress) -> bytes | None:
    """The bytes of a file, or None where the network codes no such picture."""
    strips = autoregressive.choose_strips(*picture.pixels.shape[:2])
    if picture.mode == "P" or strips is None:
        return None
    grid = autoregressive.choose_grid(picture.pixels, network.weights)
    found = []  # a few images are better off without adaptation, such as screenshots
    for each in (True, False) if adapting else (False,):
        coding = autoregressive.Coding(strips, grid, each)
        found.append((each, autoregressive.encode(picture.pixels, network.weights, coding, progress)))
    adapting, words = min(found, key=lambda pair: sum(map(len, pair[1])))
    header = _header(picture)._replace(
        context=network.identity, grid=grid, adapting=adapting, words=tuple(map(len, words))
    )
    return pack(header, np.concatenate(words).astype("<u4").tobytes())


def _encode_with_blocks(
    picture: Picture, codec: "BlockCodec", lanes: int | None, most: int, progress: Progress
) -> bytes | None:
    """The bytes of a file, or None where Bit-Swap codes no such picture, or would clearly take over `most` bytes."""
    from codec import block_codec

    if not block_codec.codes_blocks(picture, codec.conditional.xs[0], codec.conditional.xs[-1]):
        return None
    coded = block_codec.encode(picture, codec, lanes, most, progress)
    if coded is None:
        return None
    fields, parts, payload = coded
    return pack(_header(picture, parts)._replace(**fields), payload)


def _encode_conventionally(picture: Picture) -> bytes:
    parts = blocks.encode_rest(picture)
    return pack(_header(picture, parts), b"".join(data for _, data in parts))


def _header(picture: Picture, parts: Sequence[tuple[int, bytes]] = ()) -> Header:
    sizes = tuple((method, len(data)) for method, data in parts)
    return Header(picture.mode, *picture.size, len(picture.palette) // 3, crc(picture), 0, sizes)


def decode(data: bytes, open_codec: Callable[[Header], Any], progress: Progress = iter) -> Picture:
    """The Picture in the bytes of a .bitswap file, exactly as it was encoded.

    open_codec(header): what the image was coded with, where that is not conventional methods alone: the BlockCodec
    where header.side is not 0, the ContextNetwork where header.context is not empty.
    Raises ContainerError where the bytes are not sound, need another checkpoint or other bins than open_codec()
    gives, or were written in floats; UserError where memory is short.
    """
    header, payload = unpack(data)
    if header.side:
        from codec import block_codec

        block_codec.refuse_floats(header)
    codec: Any = open_codec(header) if header.side or header.context else None
    decode_parts: Callable[..., Picture] = _decode_conventionally
    if header.side:
        block_codec.check(header, codec)
        decode_parts = _decode_blocks
    elif header.context:
        if codec.identity != header.context:
            raise ContainerError(
                f"it was written with another context network, {header.context} where this is {codec.identity}; name "
                "the right one with --context"
            )
        decode_parts = _decode_context
    try:
        picture = decode_parts(header, payload, codec, progress)
        if crc(picture) != header.crc:
            raise ValueError("the checksum of the pixels is wrong")
    except MemoryError:
        raise UserError(f"there is not enough memory for its {header.width}x{header.height} pixels") from None
    except Exception as error:  # damaged data may raise any, in Pillow and lzma too
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContainerError(f"damaged ({detail})") from None
    return picture


def _decode_conventionally(header: Header, payload: bytes, _codec: None, _progress: Progress) -> Picture:
    return _assemble(header, [], payload)


def _decode_blocks(header: Header, payload: bytes, codec: "BlockCodec", progress: Progress) -> Picture:
    from codec import block_codec

    return _assemble(header, *block_codec.decode(header, payload, codec, progress))


def _decode_context(header: Header, payload: bytes, network: ContextNetwork, progress: Progress) -> Picture:
    words = np.split(np.frombuffer(payload, "<u4").astype(np.uint32), np.cumsum(header.words)[:-1])
    shape = header.height, header.width, CHANNELS[header.mode]
    coding = autoregressive.Coding(len(words), header.grid, header.adapting)
    return Picture(header.mode, autoregressive.decode(words, shape, network.weights, coding, progress))


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
