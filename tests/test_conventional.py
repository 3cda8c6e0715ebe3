"""What no model codes: every method gives its pixels back and takes no more memory than they need."""

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc

import numpy as np
import pytest
from pictures import picture_of, refuse_or_reproduce, round_trip, samples
from PIL import Image, PngImagePlugin

from codec import conventional
from codec import header as file_header
from utils.cli import UserError
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
        tampered = file_header.pack(plain._replace(parts=((coder, len(bomb)),)), bomb)
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


def synthetic(*shape, seed=0):
    """Smooth images with a little noise, uint8 [..., H, W, C]."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(shape[-3])[:, None, None] * 3 + np.arange(shape[-2])[:, None] * 2
    return (ramp + rng.integers(0, 8, shape)).astype(np.uint8)


def decoded(data, channels):
    """The pixels of an image file, uint8 [H, W, channels]; grey may be stored as three equal channels."""
    image = Image.open(io.BytesIO(data))
    pixels = np.atleast_3d(np.asarray(image))
    assert pixels.shape[-1] == channels or (pixels == pixels[..., :1]).all()
    return pixels[..., :channels]


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 28, 28, 1), (5, 32, 32, 3), (2, 3, 32, 32, 3), (7, 41, 3)])
def test_raw_compressors_count_one_stream(shape):
    images = synthetic(*shape)
    for name, module in {"gzip": gzip, "bz2": bz2, "LZMA": lzma}.items():
        stream = module.compress(images.tobytes())
        np.testing.assert_array_equal(np.frombuffer(module.decompress(stream), np.uint8).reshape(shape), images)
        assert conventional.COMPRESSORS[name](images) == 8 * len(stream)


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 28, 28, 1), (5, 32, 32, 3), (2, 3, 32, 32, 3), (7, 41, 3)])
@pytest.mark.parametrize("name, options", [("PNG", {"optimize": True}), ("WebP", {"lossless": True, "quality": 100})])
def test_image_compressors_count_whole_lossless_files(shape, name, options):
    images = synthetic(*shape)
    each = images.reshape(-1, *shape[-3:])
    files = [conventional.encode(image, name, **options) for image in each]
    for image, file in zip(each, files, strict=True):
        np.testing.assert_array_equal(decoded(file, shape[-1]), image)
    assert conventional.COMPRESSORS[name](images) == 8 * sum(map(len, files))


def test_idat_bytes():
    # Noise, so large that Pillow writes several IDAT chunks, and a text that only looks like another.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("comment", "\0\0\1\0IDAT")
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=text)
    data = file.getvalue()

    chunks, rest = [], data[8:]
    while rest:
        length = int.from_bytes(rest[:4], "big")
        chunks.append((rest[4:8], length))
        rest = rest[12 + length :]
    sizes = [length for kind, length in chunks if kind == b"IDAT"]
    assert len(sizes) > 1 and data.count(b"IDAT") > len(sizes)
    assert conventional.idat_bytes(data) == sum(sizes)
    assert conventional.idat_bytes(data) == len(data) - 8 - sum(12 + (kind != b"IDAT") * size for kind, size in chunks)
    for damaged in (data[:-1], data[:-13], data[:50], b"", b"GIF89a" + data):
        with pytest.raises(ValueError, match="PNG"):
            conventional.idat_bytes(damaged)


def test_png_counts_idat_only_when_asked():
    images = synthetic(4, 28, 28, 1)
    files = [conventional.encode(image, "PNG", optimize=True) for image in images]
    assert conventional.png(images) == 8 * sum(map(len, files))
    assert conventional.png(images, idat_only=True) == 8 * sum(map(conventional.idat_bytes, files))
    # One IDAT chunk: signature 8, IHDR 25, IDAT's frame 12, IEND 12.
    assert conventional.png(images) - conventional.png(images, idat_only=True) == 8 * 57 * len(images)


def test_measure():
    images = synthetic(3, 4, 28, 28, 1)
    seen = []
    rates = conventional.measure(images, progress=lambda chains: (seen.append(len(c)) or c for c in chains))
    assert list(rates) == ["gzip", "bz2", "LZMA", "PNG", "WebP"]
    assert seen == [4, 4, 4]
    dims = 3 * 4 * 28 * 28
    assert rates["gzip"] == sum(8 * len(gzip.compress(chain.tobytes())) for chain in images) / dims
    assert rates["PNG"] == conventional.png(images, idat_only=True) / dims
    assert rates["WebP"] == conventional.webp(images) / dims


@pytest.mark.parametrize("shape, dtype", [((2, 8, 8, 1), float), ((8, 8), np.uint8), ((2, 8, 8, 4), np.uint8)])
def test_other_arrays_are_refused(shape, dtype):
    images = np.zeros(shape, dtype)
    for compressor in conventional.COMPRESSORS.values():
        with pytest.raises(ValueError, match="not uint8"):
            compressor(images)


@pytest.mark.parametrize("package", ["pillow_jxl", "imagecodecs"])
def test_jxl_is_lossless(package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, {"pillow_jxl": "imagecodecs", "imagecodecs": "pillow_jxl"}[package], None)
    for images in (synthetic(2, 28, 28, 1), synthetic(2, 32, 32, 3)):
        files = [conventional.jxl_encoder()(image) for image in images]
        for image, file in zip(images, files, strict=True):
            if package == "pillow_jxl":
                pixels = decoded(file, image.shape[-1])
            else:
                pixels = np.atleast_3d(sys.modules[package].jpegxl_decode(file))
            np.testing.assert_array_equal(pixels, image)
        assert conventional.measure(images[None], with_jxl=True)["JPEG XL"] == 8 * sum(map(len, files)) / images.size


def test_jxl_without_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UserError, match="pillow-jxl-plugin"):
        conventional.measure(synthetic(1, 1, 28, 28, 1), with_jxl=True)
