"""The header of a .bitswap file: numbers in, numbers out. docs/format.md has the layout byte by byte.

A file is a header and a payload. The header says how the colours are coded and, if there are any, the alpha plane and
the metadata; the payload has the bytes of each, one after the other. Format 3 is written; format 2 is read as well.
"""

import io
import struct
import zlib
from typing import NamedTuple

from codec import blocks
from codec.conventional import METHODS
from utils.cli import counted
from utils.errors import UserError
from utils.images import MAX_PIXELS, MODES
from utils.metadata import MAX_METADATA

MAGIC = b"\x89BSW"
VERSION, OLD_VERSION = 3, 2
MAX_LANES, MAX_STRIPS = 1024, 255
_MAX_WORDS = 1 << 31  # of a lane or a strip
_INTEGERS = 2  # the arithmetic of networks, in format 2. Less stands for floats
_START = struct.Struct("<4sBH")  # magic, version, length of the header
_SUMS = struct.Struct("<II")  # CRC-32 of the picture and of the payload
_ALPHA, _TRANSPARENCY, _METADATA = 1, 2, 4  # flags: what a file holds next to the colours


class ContainerError(UserError):
    """Bytes that are not a sound .bitswap file, or cannot be decoded here; the message says why."""


class Shape(NamedTuple):
    """The shape of a plane: of the colours, or of the alpha values, which are a grey image."""

    mode: str
    width: int
    height: int
    entries: int = 0  # of the palette


Parts = tuple[tuple[int, int], ...]  # (index into METHODS, bytes) of each part


class Conventional(NamedTuple):
    """A plane that conventional methods code. Its parts are the palette, if there is one, and the pixels."""

    parts: Parts

    def pack(self) -> bytes:
        """The fields as bytes. A side of 0 means that there are no blocks."""
        return _pack_parts(self.parts) + b"\0"


class Blocks(NamedTuple):
    """A plane whose blocks Bit-Swap codes, on top of conventionally coded parts (see codec.blocks)."""

    parts: Parts
    side: int  # of a block, in pixels
    blocks: int
    words: tuple[int, ...]  # of each lane
    quantbits: int
    networks: str  # identities: 16 hexadecimal digits
    bins: str

    def pack(self) -> bytes:
        """The fields as bytes."""
        lanes = _numbers(self.blocks, len(self.words), *self.words, self.quantbits)
        return _pack_parts(self.parts) + bytes([self.side]) + lanes + bytes.fromhex(self.networks + self.bins)


class Context(NamedTuple):
    """A plane that the context network codes."""

    identity: str  # of the network: 16 hexadecimal digits
    grid: int  # 1 if the network knows where in its 16x16 block a pixel is, else 0
    adapting: bool
    words: tuple[int, ...]  # of each strip

    def pack(self) -> bytes:
        """The fields as bytes."""
        return bytes.fromhex(self.identity) + _numbers(self.grid + 2 * self.adapting, len(self.words), *self.words)


Coding = Conventional | Blocks | Context


class Metadata(NamedTuple):
    """The section of what an image file held next to its pixels."""

    compressed: int  # bytes
    length: int  # bytes, not compressed
    crc: int  # of these


class Header(NamedTuple):
    """What a file says of itself."""

    shape: Shape
    crc: int  # of the picture: see container.crc()
    coding: Coding  # of the colours
    alpha: Coding | None = None
    transparency: bytes = b""  # see utils.images.Picture
    metadata: Metadata | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The bytes of the payload's sections: the colours, the alpha plane and the metadata."""
        alpha = payload_size(self.alpha) if self.alpha else 0
        return payload_size(self.coding), alpha, self.metadata.compressed if self.metadata else 0


def payload_size(coding: Coding) -> int:
    """Bytes of what is coded. Blocks have their parts among their words: as the lanes' initial bits."""
    return sum(length for _, length in coding.parts) if isinstance(coding, Conventional) else 4 * sum(coding.words)


def pack(header: Header, payload: bytes) -> bytes:
    """The bytes of a file."""
    mode, *size, entries = header.shape
    flags = _ALPHA * bool(header.alpha) + _TRANSPARENCY * bool(header.transparency) + _METADATA * bool(header.metadata)
    body = _SUMS.pack(header.crc, zlib.crc32(payload)) + _numbers(MODES.index(mode), flags, *size)
    if mode == "P":
        body += _numbers(entries)
    for coding in (header.coding, header.alpha) if header.alpha else (header.coding,):
        body += bytes([isinstance(coding, Context)]) + coding.pack()
    if header.transparency:
        body += _numbers(len(header.transparency)) + header.transparency
    if header.metadata:
        body += _numbers(*header.metadata[:2]) + struct.pack("<I", header.metadata.crc)
    head = _START.pack(MAGIC, VERSION, _START.size + len(body) + 4) + body
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def _pack_parts(parts):
    return _numbers(len(parts), *(number for part in parts for number in part))


def _numbers(*values):
    """Base-128 integers: the least significant 7 bits first, the top bit of a byte says that another one follows."""
    out = bytearray()
    for value in values:
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        out.append(value)
    return bytes(out)


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Take a file apart: (Header, payload).

    Raises ContainerError if the header or the payload is damaged, does not hold together or asks for too much.
    """
    if len(data) < _START.size or data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .bitswap file")
    _, version, length = _START.unpack_from(data)
    if version not in (VERSION, OLD_VERSION):
        newer = "; a newer version of this program may read it" if version > VERSION else ""
        raise ContainerError(f"a file of format {version}; this program reads {OLD_VERSION} and {VERSION}{newer}")
    if len(data) < length:
        raise ContainerError("cut short: the file ends within its header")
    end = length - 4
    if end < _START.size or zlib.crc32(data[:end]) != int.from_bytes(data[end:length], "little"):
        raise ContainerError("damaged: the checksum of its header is wrong")
    reader = _Reader(data[_START.size : end])
    try:
        header, payload_crc = (_parse if version == VERSION else _parse_old)(reader)
        if reader.stream.read():
            raise ValueError("it is too long")
    except ValueError as error:
        raise ContainerError(f"its header is invalid: {error}") from error
    payload, expected = data[length:], sum(header.sizes)
    if len(payload) != expected:
        what = "cut short" if len(payload) < expected else "damaged"
        raise ContainerError(f"{what}: {counted(len(payload), 'byte')} after its header instead of {expected:,}")
    if zlib.crc32(payload) != payload_crc:
        raise ContainerError("damaged: the checksum of its contents is wrong")
    return header, payload


class _Reader:
    """Reads a header's fields one by one. Its methods raise ValueError if a field is absent or out of range."""

    def __init__(self, data):
        self.stream = io.BytesIO(data)

    def read(self, count):
        data = self.stream.read(count)
        if len(data) < count:
            raise ValueError("it is too short")
        return data

    def number(self, what, least, most):
        value = 0
        for shift in range(0, 35, 7):
            byte = self.read(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise ValueError(f"{what} has more than 5 bytes")
        if not least <= value <= most:
            raise ValueError(f"{what} is {value:,}, not {least:,} to {most:,}")
        return value

    def shape(self, mode):
        width = self.number("width", 1, MAX_PIXELS)
        height = self.number("height", 1, MAX_PIXELS // width)
        return Shape(
            MODES[mode], width, height, self.number("size of the palette", 1, 256) if MODES[mode] == "P" else 0
        )

    def words(self, what, most):
        count = self.number(f"number of {what}s", 1, most)
        return tuple(self.number(f"length of a {what}", 2, _MAX_WORDS) for _ in range(count))


def _parse(reader):
    """The Header of format 3, and the CRC-32 of its payload."""
    crc, payload_crc = _SUMS.unpack(reader.read(_SUMS.size))
    mode, flags = reader.number("mode", 0, len(MODES) - 1), reader.number("flags", 0, 7)
    shape = reader.shape(mode)
    coding = _parse_coding(reader, shape)
    alpha, transparency, metadata = None, b"", None
    if flags & _ALPHA and (flags & _TRANSPARENCY or shape.mode == "P"):
        raise ValueError("it has transparent colours and an alpha plane")
    if flags & _ALPHA:
        alpha = _parse_coding(reader, shape._replace(mode="L"))
    if flags & _TRANSPARENCY:
        least, most = {"P": (1, shape.entries), "L": (2, 2), "RGB": (6, 6)}[shape.mode]
        transparency = reader.read(reader.number("length of the transparent colours", least, most))
    if flags & _METADATA:
        sizes = reader.number("bytes", 1, 2 * MAX_METADATA), reader.number("bytes", 1, MAX_METADATA)
        metadata = Metadata(*sizes, int.from_bytes(reader.read(4), "little"))
    return Header(shape, crc, coding, alpha, transparency, metadata), payload_crc


def _parse_old(reader):
    """The Header of format 2, and the CRC-32 of its payload."""
    shape = reader.shape(reader.number("mode", 0, len(MODES) - 1))
    crc, payload_crc = _SUMS.unpack(reader.read(_SUMS.size))
    coding = _parse_parts(reader, shape)
    if isinstance(coding, Blocks):
        if reader.number("arithmetic", 0, _INTEGERS) != _INTEGERS:
            raise ContainerError("written with --floats, which only version 1 of this program decodes")
        reader.read(2)  # threads and settings: for integers always 1 and an empty text
    return Header(shape, crc, coding), payload_crc


def _parse_coding(reader, shape):
    if not reader.number("coding", 0, 1):
        return _parse_parts(reader, shape)
    if shape.mode == "P":
        raise ValueError("the context network codes no palette")
    identity, flags = reader.read(8).hex(), reader.number("flags", 0, 3)
    return Context(identity, flags & 1, bool(flags & 2), reader.words("strip", min(shape.height, MAX_STRIPS)))


def _parse_parts(reader, shape):
    """Conventional or Blocks."""
    parts = tuple(
        (reader.number("method", 0, len(METHODS) - 1), reader.number("length of a part", 0, 4 * MAX_PIXELS))
        for _ in range(reader.number("number of parts", 0, 4))
    )
    side, count = reader.read(1)[0], 0
    coding: Conventional | Blocks = Conventional(parts)
    if side:
        count = reader.number("number of blocks", 1, blocks.count(shape.width, shape.height, side))
        words, quantbits = reader.words("lane", min(count, MAX_LANES)), reader.number("quantbits", 1, 16)
        coding = Blocks(parts, side, count, words, quantbits, reader.read(8).hex(), reader.read(8).hex())
    if len(blocks.regions(shape.width, shape.height, side, count)) + (shape.mode == "P") != len(parts):
        raise ValueError(f"it has {len(parts)} parts")
    return coding
