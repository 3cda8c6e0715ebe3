"""Other lossless compressors, to compare with: gzip, bz2, LZMA, PNG, WebP and JPEG XL.

measure() is the comparison of the paper (Kingma, Abbeel, Ho 2019, section 5) with the settings of the published code:
PNG with optimize=True, WebP with quality=100, the others with their libraries' defaults. What is compressed:

    gzip, bz2, LZMA      the raw bytes of all images of an experiment, one after another (rows of interleaved channels),
                         as one stream, so that the compressor learns across images
    PNG, WebP, JPEG XL   every image as a file of its own; measure() counts only the compressed pixels of a PNG file
                         (the payload of its IDAT chunks), and the other files whole

The arrays are the images themselves: MNIST's 28x28, without the padding that the model sees.
"""

import bz2
import functools
import gzip
import io
import lzma
from collections.abc import Callable, Iterable

import numpy as np

from codec.conventional import save
from utils.png import SIGNATURE, chunks


def _flat(images):
    """uint8 [..., H, W, C] as [N, H, W, C]; ValueError if it is anything else."""
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] > 4 or not images.size:
        raise ValueError(f"{images.dtype} {list(images.shape)}: not uint8 [..., H, W, C] with 1 to 4 channels")
    return images.reshape(-1, *images.shape[-3:])


def idat_bytes(data: bytes) -> int:
    """Bytes of compressed pixels in a PNG file: the contents of its IDAT chunks. ValueError if it ends early."""
    file = io.BytesIO(data)
    file.seek(len(SIGNATURE))
    return sum(len(contents) for kind, contents, _ in chunks(file) if kind == b"IDAT")


def raw(images: np.ndarray, compress: Callable[[bytes], bytes]) -> int:
    """Bits of the raw bytes of all images [..., H, W, C], one after another, compressed as one stream."""
    return 8 * len(compress(_flat(images).tobytes()))


def png(images: np.ndarray, idat_only: bool = False) -> int:
    """Bits of the images [..., H, W, C], each a PNG file; with idat_only, of their compressed pixels only."""
    files = (save(image, "PNG", optimize=True) for image in _flat(images))
    return 8 * sum(idat_bytes(file) if idat_only else len(file) for file in files)


def webp(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless WebP file. ValueError if a side exceeds 16383 pixels.

    exact: colours under alpha 0 are kept.
    """
    return 8 * sum(len(save(image, "WEBP", lossless=True, quality=100, exact=True)) for image in _flat(images))


def jxl(images: np.ndarray) -> int:
    """Bits of the images [..., H, W, C], each a lossless JPEG XL file; only if has_jxl()."""
    return 8 * sum(len(save(image, "JXL", lossless=True)) for image in _flat(images))


@functools.cache
def has_jxl() -> bool:
    """Whether the package pillow-jxl-plugin, which teaches Pillow the format, is installed."""
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        return False
    return True


# {name: function(uint8 [H, W, C] or a batch [..., H, W, C]) -> number of bits}. Files are counted whole.
COMPRESSORS: dict[str, Callable[[np.ndarray], int]] = {
    "gzip": functools.partial(raw, compress=gzip.compress),
    "bz2": functools.partial(raw, compress=bz2.compress),
    "LZMA": functools.partial(raw, compress=lzma.compress),
    "PNG": png,
    "WebP": webp,
}


def measure(
    images: np.ndarray, with_jxl: bool = False, progress: Callable[[np.ndarray], Iterable[np.ndarray]] = iter
) -> dict[str, float]:
    """The paper's benchmark: {name: bits/dim} for gzip, bz2, LZMA, PNG and WebP (see above for what they compress).

    images: uint8 [E, N, H, W, C], E experiments of N images. A dimension is one value of one channel of a pixel.
    with_jxl: JPEG XL as well; only if has_jxl().
    progress: wraps the iteration over the experiments, e.g. tqdm.tqdm.
    """
    if images.ndim != 5:
        raise ValueError(f"images has shape {list(images.shape)}, not [E, N, H, W, C]")
    compressors = COMPRESSORS | {"PNG": functools.partial(png, idat_only=True)}
    if with_jxl:
        compressors["JPEG XL"] = jxl
    bits = dict.fromkeys(compressors, 0)
    for experiment in progress(images):
        for name, compressor in compressors.items():
            bits[name] += compressor(experiment)
    return {name: count / images.size for name, count in bits.items()}
