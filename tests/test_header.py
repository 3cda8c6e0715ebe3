"""The header: what it says is checked, whatever it says."""

import itertools
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from conftest import ROOT
from pictures import NO_MODELS, SIDE, decoding_error, refuse_or_reproduce, samples, small_codec

from codec import container
from codec import header as file_header
from utils.images import MAX_PIXELS, Picture, same


def seal(data):
    """Set right the checksums of header and payload of a file that has been tampered with, if that is possible."""
    data = bytearray(data)
    length = int.from_bytes(data[5:7], "little")
    if not 19 <= length <= len(data):
        return bytes(data)
    data[11:15] = struct.pack("<I", zlib.crc32(data[length:]))
    data[length - 4 : length] = struct.pack("<I", zlib.crc32(data[: length - 4]))
    return bytes(data)


def test_the_header_says_what_is_in_the_file():
    data, picture = samples()["blocks"]
    header, payload = file_header.unpack(data)
    coding = header.coding
    assert (header.shape, coding.side) == (("RGB", 45, 40, 0), SIDE)
    assert (coding.quantbits, coding.networks, coding.bins) == (6, small_codec().networks, small_codec().bins)
    assert header.crc == container.crc(picture)
    assert len(payload) == 4 * sum(coding.words)
    for each, _ in samples().values():
        assert file_header.pack(*file_header.unpack(each)) == each


def test_the_formats_stay_what_they_are():
    """Files of one grey pixel, byte by byte, in format 2, which is only read, and in format 3."""
    one = Picture("L", np.array([[[7]]], np.uint8))
    old = bytes.fromhex("89425357 021a0000 01018d70 d5422e7a 664c0100 0100fc52 a25807")
    new = "89425357 031c008d 70d5422e 7a664c00 00010100 01000100 238e99d6 07"
    assert same(container.decode(old, NO_MODELS), one)
    assert container.encode(one, "conventional").hex(" ", -4) == new
    assert same(container.decode(container.encode(one, "conventional"), NO_MODELS), one)


@pytest.mark.parametrize("arithmetic", [0, 1])
def test_files_in_floats_are_refused_before_a_model_is_opened(arithmetic):
    """They are of format 2, like this file in integers, and have a text on how floats round."""
    data = bytearray((ROOT / "tests" / "golden" / "picture.bitswap").read_bytes())
    end = int.from_bytes(data[5:7], "little")
    assert data[end - 7 : end - 4] == bytes([2, 1, 0])  # integers, 1 thread, no text
    data[end - 7 : end - 4] = bytes([arithmetic, 1, 11]) + b"PyTorch 2.9"
    data[5:7] = (end + 11).to_bytes(2, "little")
    data[end + 7 : end + 11] = struct.pack("<I", zlib.crc32(data[: end + 7]))
    assert decoding_error(bytes(data)) == "written with --floats, which only version 1 of this program decodes"


@pytest.mark.parametrize("name", [name for name in samples() if name not in ("blocks", "blocks with alpha")])
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
                assert refuse_or_reproduce(seal(spliced) if a > 19 else spliced, None)


def test_random_bytes():
    rng = np.random.default_rng(2)
    for i in range(300):
        data = rng.bytes(int(rng.integers(0, 200)))
        head = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, int(rng.integers(0, 100)))
        assert decoding_error(data) and decoding_error(head + data)
        start = file_header.MAGIC + struct.pack("<BH", file_header.VERSION, len(data) % 90 + 7)
        assert decoding_error(seal(start + data))
        sealed = b"".join([head[:5], struct.pack("<H", 15 + len(data) + 4), bytes(8), bytes([i % 3]), data, bytes(3)])
        assert decoding_error(seal(sealed))


def test_absurd_headers_take_no_memory():
    """Headers whose checksums are right, and whose numbers are not; each refused at once and in a few megabytes."""
    header, payload = file_header.unpack(samples()["blocks"][0])
    plain, plain_payload = file_header.unpack(samples()["WebP"][0])
    full, full_payload = file_header.unpack(samples()["context, alpha and metadata"][0])
    coding, parts, most = header.coding, plain.coding.parts, MAX_PIXELS
    sizes = ((2**31, 2**31), (most + 1, 1), (0, 0), (0, 5), (2**34, 1), (most, 1), (11585, 11585), (1, most))
    shapes = [header.shape._replace(width=w, height=h) for w, h in (*sizes, (3, 3), (16384, 8192))]
    blocks = [
        *(coding._replace(side=side) for side in (1, 2, 4, 255)),
        *(coding._replace(blocks=blocks) for blocks in (0, 1, 24, 26, 2**30)),
        *(coding._replace(words=words) for words in ((), (2,), (2**31,), (2**34,), (2,) * 20, (0,) * 20)),
        coding._replace(words=(coding.words[0] + 1, coding.words[1] - 1, *coding.words[2:])),
        coding._replace(words=(sum(coding.words) - 2 * 24, *(2,) * 24), blocks=25),
        *(coding._replace(quantbits=q) for q in (0, 5, 16, 17, 255)),
        coding._replace(networks="00" * 8),
        coding._replace(bins="00" * 8),
    ]
    conventional = [
        *(((coder, size),) for coder in range(5) for size in (0, 1, 2**29, 2**34)),
        *(parts * count for count in (0, 2, 4, 200)),
        ((200, parts[0][1]),),
    ]
    palette = [plain.shape._replace(mode="P", entries=entries) for entries in (0, 300)]
    metadata = full.metadata
    absurd = [
        *((header._replace(shape=shape), payload) for shape in (*shapes, header.shape._replace(mode="L"))),
        *((header._replace(coding=each), payload) for each in blocks),
        (header._replace(crc=0), payload),
        *((plain._replace(shape=shape), plain_payload) for shape in (*shapes, *palette)),
        *((plain._replace(coding=file_header.Conventional(each)), plain_payload) for each in conventional),
        *((plain._replace(transparency=bytes(count)), plain_payload) for count in (1, 2, 5, 7, 300)),
        *((full._replace(shape=shape), full_payload) for shape in shapes),
        *((full._replace(alpha=each), full_payload) for each in (None, coding, full.coding, plain.coding)),
        *((full._replace(metadata=metadata._replace(length=size)), full_payload) for size in (0, 1, 2**24, 2**25)),
        *((full._replace(metadata=metadata._replace(compressed=size)), full_payload) for size in (0, 1, 2**24, 2**30)),
        *((full._replace(**{name: None}), full_payload) for name in ("alpha", "metadata")),
        (full._replace(transparency=bytes(6)), full_payload),
        (full._replace(metadata=metadata._replace(crc=0)), full_payload),
    ]
    tracemalloc.start()
    for wrong in absurd:
        assert refuse_or_reproduce(file_header.pack(*wrong), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_a_number_ends_within_five_bytes():
    """Else another program might read another number from the same file."""
    data = container.encode(Picture("L", np.array([[[7]]], np.uint8)), "conventional")
    assert data[17] == 1  # the width
    for digits, refused in ((b"\x81\x80\x80\x80\x00", False), (b"\x81\x80\x80\x80\x80", True)):
        length = (int.from_bytes(data[5:7], "little") + 4).to_bytes(2, "little")
        longer = seal(data[:5] + length + data[7:17] + digits + data[18:])
        if refused:
            assert "width has more than 5 bytes" in decoding_error(longer)
        else:
            assert container.decode(longer, NO_MODELS).size == (1, 1)
