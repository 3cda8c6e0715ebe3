"""PNG files as lists of chunks, and the chunks that hold metadata."""

import struct
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # type, contents
# The metadata that is kept, and how many bytes the contents of each chunk may have.
METADATA: Mapping[bytes, Container[int]] = {
    b"iCCP": range(5, 1 << 31), b"sRGB": (1,), b"gAMA": (4,), b"cHRM": (32,), b"cICP": (4,), b"mDCV": (24,),
    b"cLLI": (8,), b"sBIT": range(1, 5), b"pHYs": (9,), b"tIME": (7,), b"eXIf": range(8, 1 << 31),
    b"tEXt": range(2, 1 << 31), b"zTXt": range(4, 1 << 31), b"iTXt": range(6, 1 << 31),
}  # fmt: skip
TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))  # the kinds that a file may hold several of
_HEADER_END = len(SIGNATURE) + 25  # signature and IHDR


def chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes, bool]]:
    """The chunks of a file that is open after its SIGNATURE: (type, contents, whether the checksum is right).

    Raises ValueError if the file ends before IEND.
    """
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        length = int.from_bytes(head[:4], "big")
        kind, data, crc = head[4:], file.read(length), file.read(4)
        if len(crc) < 4:
            raise ValueError("the PNG file is cut short")
        yield kind, data, zlib.crc32(data, zlib.crc32(kind)) == int.from_bytes(crc, "big")


def frame(kind: bytes, data: bytes) -> bytes:
    """A chunk as it stands in a file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def insert(file: bytes, metadata: Iterable[Chunk]) -> bytes:
    """A PNG file with further chunks right after its IHDR, where all METADATA may stand."""
    return file[:_HEADER_END] + b"".join(frame(*chunk) for chunk in metadata) + file[_HEADER_END:]


def is_sound(kind: bytes, data: bytes) -> bool:
    """Whether a chunk of METADATA has the form that its type calls for."""
    if len(data) not in METADATA[kind]:
        return False
    if kind in TEXTS or kind == b"iCCP":  # a keyword comes first
        return 1 <= data.find(b"\0") <= 79
    return kind != b"eXIf" or data[:4] in (b"II*\0", b"MM\0*")


XMP = "XML:com.adobe.xmp"  # the keyword under which XMP data stand
DAMAGED = "damaged metadata"  # in place of a chunk that cannot be made


def text(keyword: str, value: bytes) -> Chunk | str:
    """A chunk with a text: value as UTF-8 if it is, else as Latin-1; DAMAGED if it is neither."""
    value = value.rstrip(b"\0")
    if b"\0" in value or not value:
        return DAMAGED
    try:
        is_latin_1 = value.decode("utf-8").isascii() and keyword != XMP
    except ValueError:
        is_latin_1 = True
    if is_latin_1:
        return b"tEXt", keyword.encode() + b"\0" + value
    return b"iTXt", keyword.encode() + bytes(5) + value  # not compressed, no language, no translated keyword


def profile(data: bytes) -> Chunk:
    """A chunk with a colour profile."""
    return b"iCCP", b"ICC Profile\0\0" + zlib.compress(data, 9)


def resolution(density: tuple[float, float], unit: float) -> Chunk | str:
    """A chunk with a resolution, (x, y) in pixels per unit, a unit being so many metres; DAMAGED if it is none."""
    per_metre = [round(value / unit) for value in density]
    return (b"pHYs", struct.pack(">IIB", *per_metre, 1)) if all(0 < value < 1 << 31 for value in per_metre) else DAMAGED


def pack(metadata: Iterable[Chunk]) -> bytes:
    """Chunks one after the other: length (4 bytes, big-endian), type, contents."""
    return b"".join(struct.pack(">I", len(data)) + kind + data for kind, data in metadata)


def unpack(data: bytes) -> tuple[Chunk, ...]:
    """The inverse of pack(). Raises ValueError if the bytes are not sound chunks of METADATA."""
    found, position = [], 0
    while position < len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        contents = data[position + 8 : position + 8 + length]
        if kind not in METADATA or len(contents) < length or not is_sound(kind, contents):
            raise ValueError("the metadata are not sound")
        found.append((kind, contents))
        position += 8 + length
    return tuple(found)
