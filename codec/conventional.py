"""Conventional lossless compressors on uint8 images: what Bit-Swap is compared with.

The comparison of the paper (Kingma, Abbeel, Ho 2019, section 5) is `measure`, with the settings of the published code:
PNG with optimize=True, WebP with quality=100, the others as their libraries have them. What is compressed:

    gzip, bz2, LZMA  the raw bytes of all images of an experiment, one after another (rows of interleaved channels),
                     as one stream, so that they may learn across images
    PNG, WebP        every image as a file of its own; of the PNG files `measure` counts the compressed pixels only
                     (the payload of the IDAT chunks), of the WebP files everything

The arrays are the images themselves: MNIST's 28x28, without the padding that the model sees.
"""

import bz2
import functools
import gzip
import io
import lzma
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.cli import UserError
from utils.colour import add_green, subtract_green
from utils.images import WEBP_SIDE


def _flat(images):
    """uint8 [..., H, W, C] as [N, H, W, C]; ValueError if it is anything else."""
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(f"{images.dtype} {list(images.shape)}: not uint8 [..., H, W, C] with 1 or 3 channels")
    return images.reshape(-1, *images.shape[-3:])


def encode(image: np.ndarray, format: str, **options: Any) -> bytes:
    """One image, uint8 [H, W, C], as the bytes of a file that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format=format, **options)
    return file.getvalue()


def idat_bytes(data: bytes) -> int:
    """Number of bytes of compressed pixels in a PNG file: the payload of its IDAT chunks.

    Leaves out the signature, the other chunks, and each chunk's length, type and checksum.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    position, total = 8, 0
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        position += 12 + length  # a chunk is length, type, payload, checksum
        if kind == b"IDAT":
            total += length
        if kind == b"IEND" and position <= len(data):
            return total
    raise ValueError("the PNG file is cut short")


def raw(images: np.ndarray, compress: Callable[[bytes], bytes]) -> int:
    """Bits of the raw bytes of all images [..., H, W, C], one after another, compressed as one stream."""
    return 8 * len(compress(_flat(images).tobytes()))


def png(images: np.ndarray, idat_only: bool = False) -> int:
    """Bits of the images [..., H, W, C], each a PNG file; with idat_only, of their compressed pixels only."""
    files = (encode(image, "PNG", optimize=True) for image in _flat(images))
    return 8 * sum(idat_bytes(file) if idat_only else len(file) for file in files)


def webp(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless WebP file.

    WebP knows no images of more than WEBP_SIDE pixels a side: ValueError.
    """
    return 8 * sum(len(encode(image, "WEBP", lossless=True, quality=100)) for image in _flat(images))


def jxl_encoder() -> Callable[[np.ndarray], bytes]:
    """The function uint8 [H, W, C] -> bytes of a lossless JPEG XL file.

    Needs one of two optional packages; UserError where neither is installed.
    """
    try:
        import pillow_jxl  # noqa: F401  (teaches Pillow the format)

        return functools.partial(encode, format="JXL", lossless=True)
    except ImportError:
        pass
    try:
        from imagecodecs import jpegxl_encode
    except ImportError:
        raise UserError("JPEG XL needs a package: pip install pillow-jxl-plugin (or imagecodecs)") from None
    return lambda image: jpegxl_encode(image.squeeze(-1) if image.shape[-1] == 1 else image, lossless=True)


def has_jxl() -> bool:
    """Whether there is an encoder for JPEG XL."""
    try:
        return bool(jxl_encoder())
    except UserError:
        return False


def jxl(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless JPEG XL file; UserError where no encoder is installed."""
    encoder = jxl_encoder()
    return 8 * sum(len(encoder(image)) for image in _flat(images))


# {name: function(uint8 [H, W, C] or a batch [..., H, W, C]) -> number of bits}. Files are counted whole.
COMPRESSORS: dict[str, Callable[[np.ndarray], int]] = {
    "gzip": functools.partial(raw, compress=gzip.compress),
    "bz2": functools.partial(raw, compress=bz2.compress),
    "LZMA": functools.partial(raw, compress=lzma.compress),
    "PNG": png,
    "WebP": webp,
}


def measure(
    images: np.ndarray, with_jxl: bool = False, progress: Callable[[np.ndarray], Iterable[np.ndarray]] = iter
) -> dict[str, float]:
    """The paper's benchmark: {name: bits/dim} for gzip, bz2, LZMA, PNG and WebP (see above for what they compress).

    images: uint8 [E, N, H, W, C], E experiments of N images. A dimension is one value of one channel of a pixel.
    with_jxl: JPEG XL, too, every image as a file of its own; UserError where no encoder is installed.
    progress: wraps the iteration over the experiments, e.g. tqdm.tqdm.
    """
    if images.ndim != 5:
        raise ValueError(f"images has shape {list(images.shape)}, not [E, N, H, W, C]")
    compressors = COMPRESSORS | {"PNG": functools.partial(png, idat_only=True)}
    if with_jxl:
        jxl_encoder()  # fails early if it is missing
        compressors["JPEG XL"] = jxl
    bits = dict.fromkeys(compressors, 0)
    for experiment in progress(images):
        for name, compressor in compressors.items():
            bits[name] += compressor(experiment)
    return {name: count / images.size for name, count in bits.items()}


# Methods for what no model codes


Shape = tuple[int, int, int]  # (H, W, C)


class Method(NamedTuple):
    """A way to code a rectangle of pixels without a model."""

    name: str
    encode: Callable[[np.ndarray], bytes | None]  # of uint8 [H, W, C]; None where it cannot
    decode: Callable[[bytes, Shape], np.ndarray]  # uint8 [H, W, C]; damaged bytes may raise any exception


def _raw_encode(part):
    return part.tobytes()


def _raw_decode(data, shape):
    return np.frombuffer(data, np.uint8).reshape(shape)


# The dictionary's size, and with it the memory that decoding takes, is fixed here and not read from a file.
_LZMA: dict[str, Any] = {
    "format": lzma.FORMAT_RAW,
    "filters": [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 23}],
}


def _lzma_encode(part, axes):
    """LZMA of differences along the axes given; if any, of red and blue relative to green."""
    if axes and part.shape[2] == 3:
        part = np.moveaxis(subtract_green(np.moveaxis(part, 2, 0)), 0, 2)
    for axis in axes:
        part = np.diff(part, axis=axis, prepend=np.uint8(0))  # modulo 256
    return lzma.compress(part.tobytes(), **_LZMA)


def _lzma_decode(data, shape, axes):
    decompressor = lzma.LZMADecompressor(**_LZMA)
    flat = decompressor.decompress(data, math.prod(shape) + 1)  # one more, to notice a stream that is too long
    if decompressor.unused_data or not decompressor.eof:
        raise ValueError("an LZMA stream of another length")
    part = np.frombuffer(flat, np.uint8).reshape(shape)
    for axis in axes:
        part = np.cumsum(part, axis=axis, dtype=np.uint8)
    if axes and shape[2] == 3:
        part = np.moveaxis(add_green(np.moveaxis(part, 2, 0)), 0, 2)
    return part


# A lossless WebP file is a header of 20 bytes, which follows from the length of what it is a header for, and the
# VP8L bitstream, padded to an even length. Only the latter is kept.
_WEBP_HEADER = struct.Struct("<4sI8sI")


def _webp_encode(part):
    if max(part.shape[:2]) > WEBP_SIDE:
        return None
    file = encode(part, "WEBP", lossless=True)
    _, _, kind, length = _WEBP_HEADER.unpack_from(file)
    return file[_WEBP_HEADER.size :][:length] if kind == b"WEBPVP8L" else None


def _webp_decode(data, shape):
    # Pillow allocates memory for the size that a file states, so it is checked first: 0x2f, width - 1, height - 1.
    fields = int.from_bytes(data[1:5], "little")
    if data[:1] != b"\x2f" or (1 + (fields >> 14 & 0x3FFF), 1 + (fields & 0x3FFF)) != shape[:2]:
        raise ValueError("a WebP bitstream of another size")
    padded = data + bytes(len(data) % 2)
    file = _WEBP_HEADER.pack(b"RIFF", 12 + len(padded), b"WEBPVP8L", len(data)) + padded
    with Image.open(io.BytesIO(file), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB"))[..., : shape[2]]


METHODS = (
    Method("raw", _raw_encode, _raw_decode),
    Method("LZMA", *(functools.partial(half, axes=()) for half in (_lzma_encode, _lzma_decode))),
    Method("LZMA", *(functools.partial(half, axes=(1,)) for half in (_lzma_encode, _lzma_decode))),
    Method("LZMA", *(functools.partial(half, axes=(1, 0)) for half in (_lzma_encode, _lzma_decode))),
    Method("WebP", _webp_encode, _webp_decode),
)
LZMA_MOST = 1 << 20  # bytes of a part up to which LZMA, which is slow, is tried beside WebP, which is mostly better


def encode_part(part: np.ndarray) -> tuple[int, bytes]:
    """The shortest encoding of uint8 [H, W, C]: (index into METHODS, bytes)."""
    found = {}
    for i, method in reversed(list(enumerate(METHODS))):
        if method.name != "LZMA" or part.size <= LZMA_MOST or len(METHODS) - 1 not in found:
            data = method.encode(part)
            if data is not None:
                found[i] = data
    return min(found.items(), key=lambda item: len(item[1]))
