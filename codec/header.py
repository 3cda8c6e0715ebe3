"""The header of a .bitswap file: numbers in, numbers out.

A file, integers little-endian, "number" a base-128 integer with its least significant 7 bits first:

    4 bytes   magic
    1         format version
    2         length of the header, from the magic to the header's CRC
    1         mode: 0 grey, 1 RGB, 2 palette
    numbers   width, height and, for a palette image only, the entries of the palette
    4         CRC-32 of mode, size, palette and pixels: see container.crc()
    4         CRC-32 of the payload
    1         parts coded conventionally, then for each: 1 byte, an index into conventional.METHODS, and its length
              in bytes, a number
    1         side of a block, 0 where there are none, which ends the header but for its CRC
    numbers   blocks, lanes and, for each lane, its 32-bit words
    1         quantbits
    8 + 8     identities of the networks, which are a checkpoint or its exact form (model.exact), and of the bins
    1         arithmetic: an index into ARITHMETICS
    number    threads, then 1 byte for the length of a text, ASCII: the other settings that decide how floats round;
              1 and no text where the arithmetic is that of integers
    4         CRC-32 of the header up to here
    the rest  payload: the words of one lane after the other; without blocks, the bytes of one part after the other

The blocks are the first of the image in raster order, dealt to the lanes in turn. For the parts see
blocks.regions().

This is format 2. Format 3 is that of an image coded with the context network (codec.context). After the
CRC-32 of the payload, its header goes on with

    8         identity of the network
    1         flags: 1 where the network is told of blocks, 2 where it adapts
    numbers   strips and, for each, its 32-bit words
    4         CRC-32 of the header up to here

and its payload is the words of one strip after the other.
"""

import io
import struct
import zlib
from typing import NamedTuple

from codec import blocks
from codec.conventional import METHODS
from utils.errors import UserError
from utils.images import MAX_PIXELS, MODES

MAGIC = b"\x89BSW"
VERSION, CONTEXT_VERSION = 2, 3
FLOAT_CPU, FLOAT_GPU, INTEGERS = 0, 1, 2
ARITHMETICS = ("float32 on the CPU", "float32 on a GPU", "integers")  # what the networks compute in
MAX_LANES, MAX_STRIPS, MAX_THREADS = 1024, 255, 256


class ContainerError(UserError):
    """Bytes that are not a sound .bitswap file, or cannot be decoded here; the message says why."""


class Header(NamedTuple):
    """What a file says of itself. The defaults are those of an image that is coded conventionally."""

    mode: str
    width: int
    height: int
    entries: int  # of the palette
    crc: int  # of the picture
    payload_crc: int
    parts: tuple[tuple[int, int], ...] = ()  # (index into METHODS, bytes) of each part
    side: int = 0  # of a block
    blocks: int = 0
    words: tuple[int, ...] = ()  # of each lane, or strip
    quantbits: int = 0
    networks: str = ""
    bins: str = ""
    arithmetic: int = 0
    threads: int = 1
    settings: str = ""
    context: str = ""  # identity of the context network
    grid: int = 0  # 1 where it is told of blocks
    adapting: bool = False


def _number(value: int) -> bytes:
    """A base-128 integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack(header: Header, payload: bytes) -> bytes:
    """The bytes of a file. header: its payload_crc is filled in."""
    parts = [struct.pack("<B", MODES.index(header.mode)), _number(header.width), _number(header.height)]
    parts += [_number(header.entries)] if header.mode == "P" else []
    parts += [struct.pack("<II", header.crc, zlib.crc32(payload))]
    if header.context:
        parts += [bytes.fromhex(header.context), bytes([header.grid + 2 * header.adapting])]
        parts += [_number(value) for value in (len(header.words), *header.words)]
    else:
        parts += [bytes([len(header.parts)])]
        parts += [bytes([method]) + _number(length) for method, length in header.parts]
        parts += [bytes([header.side])]
    if header.side:
        parts += [_number(value) for value in (header.blocks, len(header.words), *header.words)]
        parts += [bytes([header.quantbits]), bytes.fromhex(header.networks), bytes.fromhex(header.bins)]
        parts += [bytes([header.arithmetic]), _number(header.threads)]
        parts += [bytes([len(header.settings)]), header.settings.encode("ascii")]
    body = b"".join(parts)
    start = len(MAGIC) + 3
    version = CONTEXT_VERSION if header.context else VERSION
    head = MAGIC + struct.pack("<BH", version, start + len(body) + 4) + body
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Take a file apart: (Header, payload).

    Raises ContainerError where the header or the payload is damaged, does not hold together or asks for too much.
    """
    start = len(MAGIC) + 3
    if len(data) < start or data[: len(MAGIC)] != MAGIC:
        raise ContainerError("not a .bitswap file")
    version, length = struct.unpack_from("<BH", data, len(MAGIC))
    if version not in (VERSION, CONTEXT_VERSION):
        newer = "; a newer version of this program may read it" if version > CONTEXT_VERSION else ""
        read = f"{VERSION} and {CONTEXT_VERSION}"
        raise ContainerError(f"a .bitswap file of format {version}, where this program reads {read}{newer}")
    if len(data) < length:
        raise ContainerError("cut short: the file ends within its header")
    if length < start + 4 or zlib.crc32(data[: length - 4]) != int.from_bytes(data[length - 4 : length], "little"):
        raise ContainerError("damaged: the checksum of its header is wrong")
    try:
        header = _parse(io.BytesIO(data[start : length - 4]), version)
    except (ValueError, struct.error) as error:
        raise ContainerError(f"its header makes no sense: {error}") from None
    payload = data[length:]
    expected = 4 * sum(header.words) if header.words else sum(length for _, length in header.parts)
    if len(payload) != expected:
        what = "cut short" if len(payload) < expected else "damaged"
        raise ContainerError(f"{what}: {len(payload):,} bytes follow its header instead of {expected:,}")
    if zlib.crc32(payload) != header.payload_crc:
        raise ContainerError("damaged: the checksum of its contents is wrong")
    return header, payload


def _parse(stream: io.BytesIO, version: int) -> Header:
    """A Header from the bytes between its length and its CRC. Raises ValueError or struct.error."""

    def unpack_one(form):
        return struct.unpack(form, stream.read(struct.calcsize(form)))[0]

    def number(what, least, most):
        value = 0
        for shift in range(0, 35, 7):
            byte = unpack_one("<B")
            value |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise ValueError(f"{what} is too long a number")
        return within(what, value, least, most)

    def within(what, value, least, most):
        if not least <= value <= most:
            raise ValueError(f"{what} is {value:,}, not {least:,} to {most:,}")
        return value

    mode = MODES[within("mode", unpack_one("<B"), 0, len(MODES) - 1)]
    width, height = number("width", 1, MAX_PIXELS), number("height", 1, MAX_PIXELS)
    within("number of pixels", width * height, 1, MAX_PIXELS)
    entries = number("size of the palette", 1, 256) if mode == "P" else 0
    crc, payload_crc = unpack_one("<I"), unpack_one("<I")
    if version == CONTEXT_VERSION:
        context, flags = unpack_one("8s").hex(), within("flags", unpack_one("<B"), 0, 3)
        strips = number("number of strips", 1, min(height, MAX_STRIPS))
        words = tuple(number("length of a strip", 2, 1 << 31) for _ in range(strips))
        if mode == "P":
            raise ValueError("the context network codes no palette")
        if stream.read(1):
            raise ValueError("it is too long")
        grid, adapting = flags & 1, bool(flags & 2)
        fields = mode, width, height, entries, crc, payload_crc
        return Header(*fields, words=words, context=context, grid=grid, adapting=adapting)
    parts = tuple(
        (within("coder", unpack_one("<B"), 0, len(METHODS) - 1), number("length of a part", 0, 4 * MAX_PIXELS))
        for _ in range(within("number of parts", unpack_one("<B"), 0, 4))
    )
    header = Header(mode, width, height, entries, crc, payload_crc, parts, side=unpack_one("<B"))
    if header.side:
        count = number("number of blocks", 1, blocks.count(width, height, header.side))
        lanes = number("number of lanes", 1, min(count, MAX_LANES))
        header = header._replace(
            blocks=count,
            words=tuple(number("length of a lane", 2, 1 << 31) for _ in range(lanes)),
            quantbits=within("quantbits", unpack_one("<B"), 1, 16),
            networks=unpack_one("8s").hex(),
            bins=unpack_one("8s").hex(),
            arithmetic=within("arithmetic", unpack_one("<B"), 0, len(ARITHMETICS) - 1),
            threads=number("number of threads", 1, MAX_THREADS),
            settings=unpack_one(f"{unpack_one('<B')}s").decode("ascii"),
        )
        if not header.settings.isprintable():
            raise ValueError("its settings are not a line of text")
    if len(blocks.regions(width, height, header.side, header.blocks)) + (mode == "P") != len(parts):
        raise ValueError(f"it has {len(parts)} parts")
    if stream.read(1):
        raise ValueError("it is too long")
    return header
