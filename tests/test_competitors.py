"""The compressors to compare with: what they count, and that it is lossless."""

import bz2
import gzip
import importlib
import io
import lzma
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from codec import competitors
from codec.conventional import save


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
        assert competitors.COMPRESSORS[name](images) == 8 * len(stream)


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 28, 28, 1), (5, 32, 32, 3), (2, 3, 32, 32, 3), (7, 41, 3)])
@pytest.mark.parametrize(
    "name, options", [("PNG", {"optimize": True}), ("WebP", {"lossless": True, "quality": 100, "exact": True})]
)
def test_image_compressors_count_whole_lossless_files(shape, name, options):
    images = synthetic(*shape)
    each = images.reshape(-1, *shape[-3:])
    files = [save(image, name, **options) for image in each]
    for image, file in zip(each, files, strict=True):
        np.testing.assert_array_equal(decoded(file, shape[-1]), image)
    assert competitors.COMPRESSORS[name](images) == 8 * sum(map(len, files))


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
    assert competitors.idat_bytes(data) == sum(sizes)
    assert competitors.idat_bytes(data) == len(data) - 8 - sum(12 + (kind != b"IDAT") * size for kind, size in chunks)
    for damaged in (data[:-1], data[:-13], data[:50], b"", b"GIF89a" + data):
        with pytest.raises(ValueError, match="PNG"):
            competitors.idat_bytes(damaged)


def test_png_counts_idat_only_when_asked():
    images = synthetic(4, 28, 28, 1)
    files = [save(image, "PNG", optimize=True) for image in images]
    assert competitors.png(images) == 8 * sum(map(len, files))
    pixels = competitors.png(images, competitors.idat_bytes)
    assert pixels == 8 * sum(map(competitors.idat_bytes, files))
    # One IDAT chunk: signature 8, IHDR 25, IDAT's frame 12, IEND 12.
    assert competitors.png(images) - pixels == 8 * 57 * len(images)


def test_measure():
    images = synthetic(3, 4, 28, 28, 1)
    seen = []
    rates = competitors.measure(images, progress=lambda chains: (seen.append(len(c)) or c for c in chains))
    assert list(rates) == ["gzip", "bz2", "LZMA", "PNG", "WebP", "JPEG XL"][: len(competitors.COMPRESSORS)]
    assert seen == [4, 4, 4]
    dims = 3 * 4 * 28 * 28
    assert rates["gzip"] == sum(8 * len(gzip.compress(chain.tobytes())) for chain in images) / dims
    assert rates["PNG"] == competitors.png(images, competitors.idat_bytes) / dims
    assert rates["WebP"] == competitors.webp(images) / dims


def test_jxl_is_lossless():
    pytest.importorskip("pillow_jxl")
    for images in (synthetic(2, 28, 28, 1), synthetic(2, 32, 32, 3)):
        files = [save(image, "JXL", lossless=True) for image in images]
        for image, file in zip(images, files, strict=True):
            np.testing.assert_array_equal(decoded(file, image.shape[-1]), image)
        assert competitors.measure(images[None])["JPEG XL"] == 8 * sum(map(len, files)) / images.size


def test_without_jxl_the_others_are_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    assert "JPEG XL" not in importlib.reload(competitors).COMPRESSORS
    monkeypatch.undo()
    importlib.reload(competitors)
