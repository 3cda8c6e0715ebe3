"""The .bitswap file: encode(picture) -> bytes, decode(bytes) -> picture. It combines the two codecs.

An image is coded in one of three ways, by default in the one that gives the smallest file:

    context        pixel by pixel with the context network (codec.context)
    bitswap        its whole square blocks by Bit-Swap, side by side in lanes (codec.block_codec); the rest of the image
                   by conventional methods, whose bytes are the initial bits of the lanes, so that these cost nothing
    conventional   without a model (codec.conventional)

codec.header has the numbers that a file begins with.
"""

import functools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from codec import blocks, context, conventional
from codec import header as file_header
from codec.bitsback import Progress
from codec.header import Blocks, Coding, ContainerError, Context, Conventional, Header, Shape
from codec.models import SHIPPED, Models
from utils import png
from utils.errors import UserError
from utils.images import CHANNELS, MAX_PIXELS, Picture
from utils.metadata import MAX_METADATA

WAYS = ("conventional", "context", "bitswap")
_SLACK = 12  # bytes: no plane is more than this larger than its raw pixels


def encode(picture: Picture, coder: str = "smallest", models: Models = SHIPPED, **options: Any) -> bytes:
    """The bytes of the smallest .bitswap file. For the arguments see encode_each()."""
    return min((file for _, file in encode_each(picture, coder, models, **options)), key=len)


def encode_each(
    picture: Picture,
    coder: str = "smallest",
    models: Models = SHIPPED,
    *,
    lanes: int | None = None,
    adapting: bool = True,
    every: bool = False,
    progress: Progress = iter,
) -> Iterator[tuple[str, bytes]]:
    """Code a picture in each way that it can be coded in: generates (way, bytes of the file).

    coder: "smallest" for all WAYS, or one of these. A way that needs more bytes than the raw pixels gives no file; if
    none is left, "conventional" does.
    models: how to get the models; by default those that ship, or were trained here.
    lanes: number of blocks that Bit-Swap codes side by side; default: by the size of the image.
    adapting: let the context network adapt to the image: a smaller file, mostly, in up to twice the time.
    every: finish every way, even one that is clearly not the smallest.
    progress: wraps the steps of the models, e.g. tqdm.
    Raises UserError if the picture or its metadata are too large, or if there is no such model.
    """
    width, height = picture.size
    if not 0 < height * width <= MAX_PIXELS:
        raise UserError(f"an image of {width}x{height} cannot be coded: 1 to {MAX_PIXELS:,} pixels are allowed")
    raw, behind = png.pack(picture.metadata), b""
    if len(raw) > MAX_METADATA:
        raise UserError(f"{len(raw):,} bytes of metadata cannot be coded: {MAX_METADATA:,} are allowed")
    ways = WAYS if coder == "smallest" else (coder,)
    code = functools.partial(_code_each, models=models, lanes=lanes, adapting=adapting, every=every, progress=progress)
    shape = Shape(picture.mode, width, height, len(picture.palette) // 3)
    header = Header(shape, crc(picture), Conventional(()), transparency=picture.transparency)
    if picture.alpha is not None:
        coded = code(Picture("L", picture.alpha), dict.fromkeys((WAYS[0], *ways)))
        _, alpha, behind = min(coded, key=lambda each: len(each[1].pack()) + len(each[2]))
        header = header._replace(alpha=alpha)
    if raw:
        compressed = conventional.compress(raw)
        header = header._replace(metadata=file_header.Metadata(len(compressed), len(raw), zlib.crc32(raw)))
        behind += compressed
    for way, coding, payload in code(picture, ways):
        yield way, file_header.pack(header._replace(coding=coding), payload + behind)


def _code_each(
    plane: Picture, ways: Iterable[str], models: Models, lanes: int | None, adapting: bool, every: bool,
    progress: Progress,
) -> Iterator[tuple[str, Coding, bytes]]:  # fmt: skip
    """Code a plane in each way that gives less than the raw pixels, or conventionally."""
    limit = plane.pixels.size + len(plane.palette) + _SLACK
    least = None
    for way in ways:
        coded: tuple[Coding, bytes] | None
        if way == "conventional":
            coded = _code_conventionally(plane)
        elif way == "context":
            coded = _code_with_context(plane, models, adapting, progress)
        else:
            most = limit if every or least is None else least
            coded = _code_with_blocks(plane, models, lanes, most, progress)
        if coded is not None and (size := len(coded[0].pack()) + len(coded[1])) <= limit:
            least = min(size, least or size)
            yield way, *coded
    if least is None:
        yield WAYS[0], *_code_conventionally(plane)


def _code_conventionally(plane: Picture) -> tuple[Conventional, bytes]:
    parts, data = blocks.encode_rest(plane)
    return Conventional(parts), data


def _code_with_context(
    plane: Picture, models: Models, adapting: bool, progress: Progress
) -> tuple[Context, bytes] | None:
    """None if the network cannot code such a plane."""
    strips = context.choose_strips(*plane.pixels.shape[:2])
    if plane.mode == "P" or strips is None:
        return None
    weights, identity = models.context(None)
    coding = context.choose_coding(plane.pixels, weights, strips, adapting)
    words = context.encode(plane.pixels, weights, coding, progress)
    described = Context(identity, coding.grid, coding.adapting, tuple(map(len, words)))
    return described, np.concatenate(words).astype("<u4").tobytes()


def _code_with_blocks(
    plane: Picture, models: Models, lanes: int | None, most: int, progress: Progress
) -> tuple[Blocks, bytes] | None:
    """None if Bit-Swap cannot code such a plane, or clearly needs more than `most` bytes."""
    if models.blocks and not blocks.fit(plane, *models.blocks):
        return None
    from codec import block_codec  # imports PyTorch, which the other ways do not need

    codec = models.bitswap(None)
    if not blocks.fit(plane, codec.conditional.xs[0], codec.conditional.xs[-1]):
        return None
    return block_codec.encode(plane, codec, lanes, most, progress)


def decode(data: bytes, models: Models = SHIPPED, progress: Progress = iter) -> Picture:
    """The Picture in the bytes of a .bitswap file, exactly as it was encoded.

    models: how to get the models that the file names; by default those that ship, or were trained here.
    Raises ContainerError if the bytes are not sound, or if `models` gives another model than the file names; UserError
    if there is not enough memory.
    """
    header, payload = file_header.unpack(data)
    shape, ends = header.shape, np.cumsum(header.sizes)
    try:
        picture = _decode_plane(header.coding, shape, payload[: ends[0]], models, progress)
        picture = picture._replace(transparency=header.transparency)
        if header.alpha:
            alpha = _decode_plane(header.alpha, shape._replace(mode="L"), payload[ends[0] : ends[1]], models, progress)
            picture = picture._replace(alpha=alpha.pixels)
        if crc(picture) != header.crc:
            raise ValueError("the checksum of the pixels is wrong")
        if header.metadata:
            raw = conventional.decompress(payload[ends[1] :], header.metadata.length)
            if zlib.crc32(raw) != header.metadata.crc:
                raise ValueError("the checksum of the metadata is wrong")
            picture = picture._replace(metadata=png.unpack(raw))
    except UserError:  # another model than the file's
        raise
    except MemoryError as error:
        raise UserError(f"there is not enough memory for its {shape.width}x{shape.height} pixels") from error
    except Exception as error:  # damaged data may raise any, in Pillow and lzma as well
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ContainerError(f"damaged ({detail})") from error
    return picture


def _decode_plane(coding: Coding, shape: Shape, payload: bytes, models: Models, progress: Progress) -> Picture:
    if isinstance(coding, Context):
        network = models.context(coding.identity)
        if network.identity != coding.identity:
            raise ContainerError(
                f"it was written with another context network, {coding.identity}, not {network.identity}; name "
                "the right one with --context"
            )
        words = np.split(np.frombuffer(payload, "<u4").astype(np.uint32), np.cumsum(coding.words)[:-1])
        size = shape.height, shape.width, CHANNELS[shape.mode]
        how = context.Coding(len(words), coding.grid, coding.adapting)
        return Picture(shape.mode, context.decode(words, size, network.weights, how, progress))
    if isinstance(coding, Blocks):
        from codec import block_codec

        codec = models.bitswap(coding)
        block_codec.check(coding, CHANNELS[shape.mode], codec)
        return _assemble(coding, shape, *block_codec.decode(coding, payload, codec, progress))
    return _assemble(coding, shape, [], payload)


def _assemble(coding: Conventional | Blocks, shape: Shape, chains: list[np.ndarray], data: bytes) -> Picture:
    """The Picture that blocks, in chains as block_codec.decode() gives them, and the bytes of the parts make up."""
    mode, width, height, entries = shape
    channels, side, count = CHANNELS[mode], 0, 0
    if isinstance(coding, Blocks):
        side, count = coding.side, coding.blocks
    places = blocks.regions(width, height, side, count)
    shapes = [(y.stop - y.start, x.stop - x.start, channels) for y, x in places]
    if mode == "P":
        shapes.insert(0, (1, entries, 3))
    parts, position = [], 0
    for (method, length), size in zip(coding.parts, shapes, strict=True):
        parts.append(conventional.METHODS[method].decode(data[position : position + length], size))
        position += length
    palette = parts.pop(0).tobytes() if mode == "P" else b""
    pixels = np.empty((height, width, channels), np.uint8)
    for place, part in zip(places, parts, strict=True):
        pixels[place] = part
    for k in range(count):
        blocks.view(pixels, side, k)[:] = np.moveaxis(chains[k % len(chains)][k // len(chains)], 0, 2)
    return Picture(mode, pixels, palette)


def crc(picture: Picture) -> int:
    """CRC-32 of everything that makes up a picture but its metadata."""
    width, height = picture.size
    value = zlib.crc32(f"{picture.mode} {width}x{height}".encode() + picture.palette)
    value = zlib.crc32(np.ascontiguousarray(picture.pixels).data, value)
    value = zlib.crc32(picture.transparency, value)
    return value if picture.alpha is None else zlib.crc32(np.ascontiguousarray(picture.alpha).data, value)


def read_file(path: str | Path) -> bytes:
    """The bytes of a .bitswap file; of another or a very large file, only as many as show this.

    Raises UserError if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(len(file_header.MAGIC))
            return data + file.read(4 * MAX_PIXELS + (1 << 26)) if data == file_header.MAGIC else data
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
