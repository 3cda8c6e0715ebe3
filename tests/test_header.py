"""The header: what it says is checked, whatever it says."""

import itertools
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from pictures import SIDE, decoding_error, no_codec, refuse_or_reproduce, samples, small_codec

from codec import container
from codec import header as file_header
from utils.images import MAX_PIXELS, Picture


def seal(data):
    """Set right the checksums of header and payload of a file that has been tampered with, where that can be."""
    data = bytearray(data)
    length = int.from_bytes(data[5:7], "little")
    if not 11 <= length <= len(data):
        return bytes(data)
    # The CRC of the payload comes after the mode, two or three numbers and the CRC of the picture.
    position = 8
    for _ in range(2 + (data[7] == 2)):
        while position < length and data[position] > 127:
            position += 1
        position += 1
    data[position + 4 : position + 8] = struct.pack("<I", zlib.crc32(data[length:]))
    data[length - 4 : length] = struct.pack("<I", zlib.crc32(data[: length - 4]))
    return bytes(data)


def test_the_header_says_what_is_in_the_file():
    data, picture = samples()["blocks"]
    header, payload = file_header.unpack(data)
    assert (header.mode, header.width, header.height, header.side) == ("RGB", 45, 40, SIDE)
    assert (header.quantbits, header.networks, header.bins) == (6, small_codec().networks, small_codec().bins)
    assert header.arithmetic == file_header.INTEGERS and header.crc == container.crc(picture)
    assert len(payload) == 4 * sum(header.words)
    assert file_header.pack(header, payload) == data


def test_the_format_stays_what_it_is():
    """A file of one grey pixel, byte by byte."""
    one = container.encode(Picture("L", np.array([[[7]]], np.uint8)))
    assert one.hex(" ", -4) == "89425357 021a0000 01018d70 d5422e7a 664c0100 0100fc52 a25807"
    assert container.decode(one, no_codec).pixels.item() == 7


@pytest.mark.parametrize(
    "name", ["raw", "LZMA", "WebP", "palette", "one lane", "grey blocks", "context", "grey context"]
)
def test_bits_flipped_under_checksums_that_are_right(name, monkeypatch):
    """As somebody would who means harm. What the header says is checked, and the picture's checksum sees the rest."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # for the speed of this test, whatever the header says
    data, picture = samples()[name]
    rng = np.random.default_rng(0)
    header_bits = 8 * int.from_bytes(data[5:7], "little")
    bits = [*range(header_bits), *rng.integers(header_bits, 8 * len(data), 60 if "RGB" in picture.mode else 100)]
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << int(bit % 8)
        refuse_or_reproduce(seal(damaged), picture)


def test_spliced_files():
    """The head of one file and the tail of another, cut where the headers end and anywhere else."""
    files = [data for data, _ in samples().values()]
    rng = np.random.default_rng(1)
    for first, second in itertools.permutations(files, 2):
        cuts = [(int.from_bytes(first[5:7], "little"), int.from_bytes(second[5:7], "little"))]
        cuts += [(rng.integers(len(first)), rng.integers(len(second))) for _ in range(5)]
        for a, b in cuts:
            spliced = first[:a] + second[b:]
            if spliced not in files:
                refuse = refuse_or_reproduce(spliced, None)
                assert refuse
                assert refuse_or_reproduce(seal(spliced) if a > 11 else spliced, None)


def test_random_bytes():
    rng = np.random.default_rng(2)
    for i in range(300):
        data = rng.bytes(int(rng.integers(0, 200)))
        head = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, int(rng.integers(0, 100)))
        assert decoding_error(data) and decoding_error(head + data)
        start = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, len(data) % 90 + 7)
        assert decoding_error(seal(start + data))
        sealed = b"".join([head[:5], struct.pack("<H", 7 + len(data) + 4), bytes([i % 3]), data, bytes(3)])
        assert decoding_error(seal(sealed))


def test_absurd_headers_take_no_memory():
    """Headers whose checksums are right, and whose numbers are not; each refused at once and in a few megabytes."""
    data, _ = samples()["blocks"]
    payload = file_header.unpack(data)[1]
    header = file_header.unpack(data)[0]
    plain = file_header.unpack(samples()["WebP"][0])[0]
    most = MAX_PIXELS
    absurd = [
        *(header._replace(width=w, height=h) for w, h in ((2**31, 2**31), (most + 1, 1), (0, 0), (0, 5), (2**34, 1))),
        *(header._replace(width=w, height=h) for w, h in ((most, 1), (11585, 11585), (3, 3), (16384, 8192))),
        *(plain._replace(width=w, height=h) for w, h in ((2**31, 2**31), (most, 1), (11585, 11585), (1, most))),
        *(plain._replace(parts=((coder, size),)) for coder in range(5) for size in (0, 1, 2**29, 2**34)),
        *(plain._replace(parts=plain.parts * count) for count in (0, 2, 4, 200)),
        plain._replace(parts=((200, plain.parts[0][1]),)),
        plain._replace(mode="P", entries=0),
        plain._replace(mode="P", entries=300),
        *(header._replace(side=side) for side in (1, 2, 4, 255)),
        *(header._replace(blocks=blocks) for blocks in (0, 1, 24, 26, 2**30)),
        *(header._replace(words=words) for words in ((), (2,), (2**31,), (2**34,), (2,) * 20, (0,) * 20)),
        header._replace(words=(header.words[0] + 1, header.words[1] - 1, *header.words[2:])),
        header._replace(words=(sum(header.words) - 2 * 24, *(2,) * 24), blocks=25),
        *(header._replace(quantbits=q) for q in (0, 5, 16, 17, 255)),
        *(header._replace(arithmetic=code) for code in (0, 1, 3, 255)),
        *(header._replace(threads=count) for count in (0, 257, 2**33)),
        *(header._replace(settings=text) for text in ("a\nb", "\x1b[2J", "\0")),
        header._replace(networks="00" * 8),
        header._replace(bins="00" * 8),
        header._replace(mode="L"),
        header._replace(crc=0),
    ]
    tracemalloc.start()
    for wrong in absurd:
        tampered = file_header.pack(wrong, payload if wrong.side else file_header.unpack(samples()["WebP"][0])[1])
        assert refuse_or_reproduce(tampered, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6
