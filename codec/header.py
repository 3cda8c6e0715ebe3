"""The header of a .bitswap file: numbers in, numbers out. docs/format.md has the layout byte by byte.

A file is a header and a payload. The header says how the colours are coded and, if there are any, the alpha plane and
the metadata; the payload has the bytes of each, one after the other. Format 3 is written; format 2 is read as well.
"""

import io
import struct
import zlib
from typing import NamedTuple, Self

from codec import blocks
from codec.conventional import METHODS
from utils.errors import UserError
from utils.images import MAX_PIXELS, MODES
from utils.metadata import MAX_METADATA

MAGIC = b"\x89BSW"
VERSION, OLD_VERSION = 3, 2
FLOAT_CPU, FLOAT_GPU, INTEGERS = 0, 1, 2
ARITHMETICS = ("float32 on the CPU", "float32 on a GPU", "integers")  # what the networks compute in
MAX_LANES, MAX_STRIPS, MAX_THREADS = 1024, 255, 256
_START = struct.Struct("<4sBH")  # magic, version, length of the header
_ALPHA, _TRANSPARENCY, _METADATA = 1, 2, 4  # flags: what a file holds next to the colours


class ContainerError(UserError):
    """Bytes that are not a sound .bitswap file, or cannot be decoded here; the message says why."""


class Reader:
    """Reads a header's fields one by one. Every method raises ValueError if the field is absent or out of range."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        data = self._stream.read(count)
        if len(data) < count:
            raise ValueError("it is too short")
        return data

    def integer(self, what: str, size: int = 1, least: int = 0, most: int = (1 << 32) - 1) -> int:
        """A little-endian integer of `size` bytes."""
        return self.within(what, int.from_bytes(self.read(size), "little"), least, most)

    def number(self, what: str, least: int, most: int) -> int:
        """A base-128 integer of at most 35 bits."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.read(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return self.within(what, value, least, most)
        raise ValueError(f"{what} is too long a number")

    @staticmethod
    def within(what: str, value: int, least: int, most: int) -> int:
        """The value, if it is in range."""
        if not least <= value <= most:
            raise ValueError(f"{what} is {value:,}, not {least:,} to {most:,}")
        return value

    def end(self) -> None:
        """Check that nothing is left."""
        if self._stream.read(1):
            raise ValueError("it is too long")


def _number(value: int) -> bytes:
    """A base-128 integer: the least significant 7 bits first, the top bit of a byte says that another one follows."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _numbers(*values: int) -> bytes:
    return b"".join(map(_number, values))


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
    arithmetic: int  # index into ARITHMETICS
    threads: int = 1
    settings: str = ""

    def pack(self) -> bytes:
        """The fields as bytes."""
        lanes = _numbers(self.blocks, len(self.words), *self.words)
        model = bytes([self.quantbits]) + bytes.fromhex(self.networks + self.bins) + bytes([self.arithmetic])
        settings = _number(self.threads) + bytes([len(self.settings)]) + self.settings.encode("ascii")
        return _pack_parts(self.parts) + bytes([self.side]) + lanes + model + settings


class Context(NamedTuple):
    """A plane that the context network codes."""

    identity: str  # of the network: 16 hexadecimal digits
    grid: int  # 1 if the network knows where in its 16x16 block a pixel is, else 0
    adapting: bool
    words: tuple[int, ...]  # of each strip

    def pack(self) -> bytes:
        """The fields as bytes."""
        flags = bytes([self.grid + 2 * self.adapting])
        return bytes.fromhex(self.identity) + flags + _numbers(len(self.words), *self.words)

    @classmethod
    def parse(cls, reader: Reader, shape: Shape) -> Self:
        """The inverse of pack()."""
        if shape.mode == "P":
            raise ValueError("the context network codes no palette")
        identity, flags = reader.read(8).hex(), reader.integer("flags", most=3)
        strips = reader.number("number of strips", 1, min(shape.height, MAX_STRIPS))
        words = tuple(reader.number("length of a strip", 2, 1 << 31) for _ in range(strips))
        return cls(identity, flags & 1, bool(flags & 2), words)


Coding = Conventional | Blocks | Context


def payload_size(coding: Coding | None) -> int:
    """Bytes of what is coded. Blocks have their parts among their words: as the lanes' initial bits."""
    if coding is None:
        return 0
    return sum(length for _, length in coding.parts) if isinstance(coding, Conventional) else 4 * sum(coding.words)


def _pack_parts(parts):
    return bytes([len(parts)]) + b"".join(bytes([method]) + _number(length) for method, length in parts)


def _parse_parts(reader: Reader, shape: Shape) -> Conventional | Blocks:
    """The inverse of the pack() of these."""
    parts = tuple(
        (reader.integer("coder", most=len(METHODS) - 1), reader.number("length of a part", 0, 4 * MAX_PIXELS))
        for _ in range(reader.integer("number of parts", most=4))
    )
    side, count = reader.integer("side of a block"), 0
    coding: Conventional | Blocks = Conventional(parts)
    if side:
        count = reader.number("number of blocks", 1, blocks.count(shape.width, shape.height, side))
        lanes = reader.number("number of lanes", 1, min(count, MAX_LANES))
        coding = Blocks(
            parts,
            side,
            count,
            words=tuple(reader.number("length of a lane", 2, 1 << 31) for _ in range(lanes)),
            quantbits=reader.integer("quantbits", 1, 1, 16),
            networks=reader.read(8).hex(),
            bins=reader.read(8).hex(),
            arithmetic=reader.integer("arithmetic", most=len(ARITHMETICS) - 1),
            threads=reader.number("number of threads", 1, MAX_THREADS),
            settings=reader.read(reader.integer("length of the settings")).decode("ascii"),
        )
        if not coding.settings.isprintable():
            raise ValueError("its settings are not a line of text")
    if len(blocks.regions(shape.width, shape.height, side, count)) + (shape.mode == "P") != len(parts):
        raise ValueError(f"it has {len(parts)} parts")
    return coding


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

    def split(self, payload: bytes) -> tuple[bytes, bytes, bytes]:
        """The bytes of the colours, of the alpha plane and of the metadata."""
        first, second, _ = self.sizes
        return payload[:first], payload[first : first + second], payload[first + second :]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The bytes of these sections of the payload."""
        return payload_size(self.coding), payload_size(self.alpha), self.metadata.compressed if self.metadata else 0


def pack(header: Header, payload: bytes) -> bytes:
    """The bytes of a file."""
    mode, width, height, entries = header.shape
    flags = _ALPHA * bool(header.alpha) + _TRANSPARENCY * bool(header.transparency) + _METADATA * bool(header.metadata)
    fields = [struct.pack("<IIBB", header.crc, zlib.crc32(payload), MODES.index(mode), flags), _numbers(width, height)]
    fields += [_number(entries)] if mode == "P" else []
    fields += [_pack_coding(coding) for coding in (header.coding, header.alpha) if coding]
    if header.transparency:
        fields += [_number(len(header.transparency)), header.transparency]
    if header.metadata:
        fields += [_numbers(*header.metadata[:2]), struct.pack("<I", header.metadata.crc)]
    body = b"".join(fields)
    head = _START.pack(MAGIC, VERSION, _START.size + len(body) + 4) + body
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def _pack_coding(coding):
    return bytes([isinstance(coding, Context)]) + coding.pack()


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Take a file apart: (Header, payload).

    Raises ContainerError if the header or the payload is damaged, does not hold together or asks for too much.
    """
    if len(data) < _START.size or data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .bitswap file")
    _, version, length = _START.unpack_from(data)
    if version not in (VERSION, OLD_VERSION):
        newer = "; a newer version of this program may read it" if version > VERSION else ""
        raise ContainerError(
            f"a .bitswap file of format {version}, while this program reads {OLD_VERSION} and {VERSION}{newer}"
        )
    if len(data) < length:
        raise ContainerError("cut short: the file ends within its header")
    end = length - 4
    if end < _START.size or zlib.crc32(data[:end]) != int.from_bytes(data[end:length], "little"):
        raise ContainerError("damaged: the checksum of its header is wrong")
    try:
        reader = Reader(data[_START.size : end])
        header, payload_crc = (_parse if version == VERSION else _parse_old)(reader)
        reader.end()
    except ValueError as error:
        raise ContainerError(f"its header makes no sense: {error}") from error
    payload, expected = data[length:], sum(header.sizes)
    if len(payload) != expected:
        what = "cut short" if len(payload) < expected else "damaged"
        raise ContainerError(f"{what}: {len(payload):,} bytes follow its header instead of {expected:,}")
    if zlib.crc32(payload) != payload_crc:
        raise ContainerError("damaged: the checksum of its contents is wrong")
    return header, payload


def _parse(reader: Reader) -> tuple[Header, int]:
    """The Header of format 3, and the CRC-32 of its payload."""
    crc, payload_crc = reader.integer("checksum", 4), reader.integer("checksum", 4)
    mode, flags = reader.integer("mode", most=len(MODES) - 1), reader.integer("flags", most=7)
    shape = _parse_shape(reader, MODES[mode])
    coding = _parse_coding(reader, shape)
    alpha, transparency, metadata = None, b"", None
    if flags & _ALPHA:
        if shape.mode == "P":
            raise ValueError("a palette image has no alpha plane")
        alpha = _parse_coding(reader, shape._replace(mode="L"))
    if flags & _TRANSPARENCY:
        if alpha:
            raise ValueError("it has transparent colours and an alpha plane")
        least, most = {"P": (1, shape.entries), "L": (2, 2), "RGB": (6, 6)}[shape.mode]
        transparency = reader.read(reader.number("length of the transparent colours", least, most))
    if flags & _METADATA:
        compressed = reader.number("bytes of the metadata", 1, 2 * MAX_METADATA)
        length = reader.number("length of the metadata", 1, MAX_METADATA)
        metadata = Metadata(compressed, length, reader.integer("checksum", 4))
    return Header(shape, crc, coding, alpha, transparency, metadata), payload_crc


def _parse_coding(reader: Reader, shape: Shape) -> Coding:
    return Context.parse(reader, shape) if reader.integer("coder", most=1) else _parse_parts(reader, shape)


def _parse_old(reader: Reader) -> tuple[Header, int]:
    """The Header of format 2, and the CRC-32 of its payload."""
    shape = _parse_shape(reader, MODES[reader.integer("mode", most=len(MODES) - 1)])
    crc, payload_crc = reader.integer("checksum", 4), reader.integer("checksum", 4)
    return Header(shape, crc, _parse_parts(reader, shape)), payload_crc


def _parse_shape(reader: Reader, mode: str) -> Shape:
    width, height = reader.number("width", 1, MAX_PIXELS), reader.number("height", 1, MAX_PIXELS)
    reader.within("number of pixels", width * height, 1, MAX_PIXELS)
    return Shape(mode, width, height, reader.number("size of the palette", 1, 256) if mode == "P" else 0)
