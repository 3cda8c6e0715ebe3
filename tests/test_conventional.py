"""What no model codes: every method gives its pixels back and takes no more memory than they need."""

import tracemalloc

import numpy as np
import pytest
from pictures import picture_of, refuse_or_reproduce, round_trip, samples

from codec import conventional
from codec import header as file_header
from utils.images import MODES


@pytest.mark.parametrize("mode", MODES)
def test_longer_than_webp_allows(mode):
    round_trip(picture_of("gradient", 2, conventional.WEBP_SIDE + 1, mode))
    round_trip(picture_of("gradient", conventional.WEBP_SIDE + 1, 2, mode))


def lzma_bomb(size):
    return conventional.METHODS[1].encode(np.zeros((size, 1, 1), np.uint8))


def webp_of(width, height):
    """The first bytes of a VP8L bitstream for an image of this size."""
    return b"\x2f" + (width - 1 | (height - 1) << 14).to_bytes(4, "little") + bytes(20)


def test_parts_that_expand_take_no_memory():
    """A part's own size, in a file that is otherwise sound: no bomb goes off."""
    plain = file_header.unpack(samples()["WebP"][0])[0]
    bombs = [lzma_bomb(64 << 20), webp_of(16000, 16000)]
    tracemalloc.start()
    for coder, bomb in zip((1, len(conventional.METHODS) - 1), bombs, strict=True):
        tampered = file_header.pack(plain._replace(coding=file_header.Conventional(((coder, len(bomb)),))), bomb)
        assert "damaged" in refuse_or_reproduce(tampered, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


@pytest.mark.parametrize("method", conventional.METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("shape", [(1, 1, 1), (13, 17, 3), (9, 40, 1), (40, 9, 3)])
def test_methods_are_lossless(method, shape):
    for kind in ("noise", "gradient", "few"):
        part = picture_of(kind, *shape[:2], "RGB" if shape[2] == 3 else "L").pixels
        np.testing.assert_array_equal(method.decode(method.encode(part), shape), part)


def test_the_shortest_encoding_is_taken():
    for kind in ("noise", "constant", "gradient"):
        part = picture_of(kind, 30, 40, "RGB").pixels
        index, data = conventional.encode_part(part)
        assert conventional.METHODS[index].encode(part) == data
        assert len(data) == min(len(method.encode(part)) for method in conventional.METHODS)
