"""Methods without a model, for what no model codes: raw bytes, LZMA and WebP. Files contain what these give."""

import functools
import io
import lzma
import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.colour import add_green, subtract_green
from utils.images import WEBP_SIDE

Shape = tuple[int, int, int]  # (H, W, C)


class Method(NamedTuple):
    """A way to code a rectangle of pixels."""

    name: str
    encode: Callable[[np.ndarray], bytes | None]  # of uint8 [H, W, C]; None if the method cannot code it
    decode: Callable[[bytes, Shape], np.ndarray]  # uint8 [H, W, C]; damaged bytes may raise any exception


def save(image: np.ndarray, format: str, **options: Any) -> bytes:
    """An image, uint8 [H, W, C], as the bytes of a file that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format=format, **options)
    return file.getvalue()


# The dictionary's size is fixed here and not read from a file, and so is the memory that decoding needs.
_LZMA: dict[str, Any] = {
    "format": lzma.FORMAT_RAW,
    "filters": [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 23}],
}


def compress(data: bytes) -> bytes:
    """The bytes as a raw LZMA2 stream."""
    return lzma.compress(data, **_LZMA)


def decompress(data: bytes, length: int) -> bytes:
    """The inverse of compress(). Raises ValueError or LZMAError if `data` does not hold exactly `length` bytes."""
    decompressor = lzma.LZMADecompressor(**_LZMA)
    found = decompressor.decompress(data, length + 1)  # one more byte reveals a stream that is too long
    if decompressor.unused_data or not decompressor.eof or len(found) != length:
        raise ValueError("an LZMA stream of another length")
    return found


def _lzma_encode(part, axes):
    """LZMA of differences along the given axes; if there are any, of red and blue relative to green."""
    if axes and part.shape[2] == 3:
        part = np.moveaxis(subtract_green(np.moveaxis(part, 2, 0)), 0, 2)
    for axis in axes:
        part = np.diff(part, axis=axis, prepend=np.uint8(0))  # modulo 256
    return compress(part.tobytes())


def _lzma_decode(data, shape, axes):
    part = np.frombuffer(decompress(data, math.prod(shape)), np.uint8).reshape(shape)
    for axis in axes:
        part = np.cumsum(part, axis=axis, dtype=np.uint8)
    if axes and shape[2] == 3:
        part = np.moveaxis(add_green(np.moveaxis(part, 2, 0)), 0, 2)
    return part


# A lossless WebP file is a header of 20 bytes, which follow from the length of the rest, and the VP8L bitstream, padded
# to an even length. Only the bitstream is kept.
_WEBP_HEADER = struct.Struct("<4sI8sI")


def _webp_encode(part):
    if max(part.shape[:2]) > WEBP_SIDE:
        return None
    file = save(part, "WEBP", lossless=True)
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


def _lzma(*axes):
    return Method("LZMA", functools.partial(_lzma_encode, axes=axes), functools.partial(_lzma_decode, axes=axes))


# A file names a method by its index.
METHODS = (
    Method("raw", np.ndarray.tobytes, lambda data, shape: np.frombuffer(data, np.uint8).reshape(shape)),
    _lzma(), _lzma(1), _lzma(1, 0),
    Method("WebP", _webp_encode, _webp_decode),
)  # fmt: skip
WEBP = len(METHODS) - 1
LZMA_MOST = 1 << 20  # bytes: LZMA is slow, and WebP is mostly smaller, so larger parts use LZMA only without WebP


def encode_part(part: np.ndarray) -> tuple[int, bytes]:
    """The shortest encoding of uint8 [H, W, C]: (index into METHODS, bytes)."""
    found = {}
    for i, method in reversed(list(enumerate(METHODS))):
        if method.name != "LZMA" or part.size <= LZMA_MOST or WEBP not in found:
            data = method.encode(part)
            if data is not None:
                found[i] = data
    return min(found.items(), key=lambda item: len(item[1]))
