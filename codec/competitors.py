"""Other lossless compressors, to compare with: gzip, bz2, LZMA, PNG, WebP and, if it is installed, JPEG XL.

measure() is the comparison of the paper (Kingma, Abbeel, Ho 2019, section 5) with the settings of the published code:
PNG with optimize=True, WebP with quality=100, the others with their libraries' defaults. gzip, bz2 and LZMA compress
the raw bytes of all images of an experiment, one after another (rows of interleaved channels), as one stream, so that
they learn across images. PNG, WebP and JPEG XL compress every image as a file of its own.

The arrays are the images themselves: MNIST's 28x28, without the padding that the model sees.
"""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
from collections.abc import Callable, Iterable

import numpy as np

from codec.conventional import save
from utils.png import SIGNATURE, chunks


def raw(images: np.ndarray, compress: Callable[[bytes], bytes]) -> int:
    """Bits of the raw bytes of all images, one after another, compressed as one stream."""
    return 8 * len(compress(images.tobytes()))


def png(images: np.ndarray, size: Callable[[bytes], int] = len) -> int:
    """Bits of the images [..., H, W, C], each a PNG file. size: counts the bytes of a file."""
    return 8 * sum(size(save(image, "PNG", optimize=True)) for image in _flat(images))


def idat_bytes(data: bytes) -> int:
    """Bytes of compressed pixels in a PNG file: the contents of its IDAT chunks. ValueError if it ends early."""
    file = io.BytesIO(data)
    file.seek(len(SIGNATURE))
    return sum(len(contents) for kind, contents, _ in chunks(file) if kind == b"IDAT")


def webp(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless WebP file. ValueError if a side exceeds 16383 pixels.

    exact: colours under alpha 0 are kept.
    """
    return 8 * sum(len(save(image, "WEBP", lossless=True, quality=100, exact=True)) for image in _flat(images))


def jxl(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless JPEG XL file."""
    return 8 * sum(len(save(image, "JXL", lossless=True)) for image in _flat(images))


def _flat(images):
    return images.reshape(-1, *images.shape[-3:])


# {name: function(uint8 [H, W, C] or a batch [..., H, W, C]) -> number of bits}. Files are counted whole.
COMPRESSORS: dict[str, Callable[[np.ndarray], int]] = {
    "gzip": functools.partial(raw, compress=gzip.compress),
    "bz2": functools.partial(raw, compress=bz2.compress),
    "LZMA": functools.partial(raw, compress=lzma.compress),
    "PNG": png,
    "WebP": webp,
}
with contextlib.suppress(ImportError):
    import pillow_jxl  # noqa: F401  (of the package pillow-jxl-plugin: teaches Pillow the format)

    COMPRESSORS["JPEG XL"] = jxl


def measure(images: np.ndarray, progress: Callable[[np.ndarray], Iterable[np.ndarray]] = iter) -> dict[str, float]:
    """The paper's benchmark: {name: bits/dim}. Of PNG files only the compressed pixels count, their IDAT chunks.

    images: uint8 [E, N, H, W, C], E experiments of N images. A dimension is one value of one channel of a pixel.
    progress: wraps the iteration over the experiments, e.g. tqdm.tqdm.
    """
    compressors = COMPRESSORS | {"PNG": functools.partial(png, size=idat_bytes)}
    bits = dict.fromkeys(compressors, 0)
    for experiment in progress(images):
        for name, compressor in compressors.items():
            bits[name] += compressor(experiment)
    return {name: count / images.size for name, count in bits.items()}
