"""The datasets behind one function: uint8 arrays kept under model/data/<dataset>/<split>.npy, and for imagenetcrop a
folder of photographs of any size, model/data/imagenetcrop/<split>, cropped at random positions.
"""

import argparse
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils import cli, npz, originals, paths
from utils import images as pictures
from utils.cli import UserError
from utils.published import CHAINS, SEED

SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "imagenet": (32, 32, 3)}  # of the arrays
PHOTOGRAPHS = "imagenetcrop"
NAMES = (*SHAPES, PHOTOGRAPHS)
PATCH = 32  # pixels a side of the crops of photographs
TEST_PATCHES = 2000  # at the least, over all test photographs
DECODED_LIMIT = 32 << 30  # bytes of decoded photographs to keep on disk; beyond, each crop decodes its photograph
_TORCHVISION = {"mnist": "MNIST", "cifar": "CIFAR10"}


def load(dataset: str, split: str, root: str | Path | None = None) -> "np.ndarray | Patches":
    """Load the images of one split.

    dataset: "mnist", "cifar", "imagenet" (ImageNet 32x32) or "imagenetcrop". split: "train" or "test".
    root: the folder that holds <dataset>/<split>.npy; model/data by default. Where the array is absent, MNIST and
    CIFAR-10 are made of the files they are published as (see originals.py), or else downloaded with torchvision, and
    the array is kept where it can be.
    Returns a read-only uint8 array [N, H, W, C], mapped from disk if it is there; for imagenetcrop Patches, which index
    like one: one crop of every training photograph (recrop() gives others and more), and of every test photograph as
    many as make TEST_PATCHES, at random positions that are the same in every run.
    Raises UserError, naming the file and the remedy, where the images are absent or not what they should be.
    """
    if dataset == PHOTOGRAPHS:
        photographs = open_photographs(Path(root or paths.DATA) / dataset / split)
        crops = math.ceil(TEST_PATCHES / len(photographs.sizes)) if split == "test" else 1
        return random_patches(photographs, 0, crops)
    path = Path(root or paths.DATA) / dataset / f"{split}.npy"
    images = None if path.exists() else _fetch(dataset, split, path)
    if images is None:
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read as a NumPy array ({error}); delete it and fetch it again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != SHAPES[dataset] or not len(images):
        height, width, channels = SHAPES[dataset]
        raise UserError(
            f"{path} holds {images.dtype} {list(images.shape)}; {dataset} is uint8 [N, {height}, {width}, {channels}]"
        )
    return images


def _fetch(dataset: str, split: str, path: Path) -> np.ndarray | None:
    """Make the array at path, from what is at hand or a download; returns it where it cannot be kept, else None."""
    if dataset not in _TORCHVISION:
        raise UserError(f"{path} is absent; python model/create_imagenet.py prepares it")
    found = originals.find(dataset, split, (path.parent, path.parents[1]))
    if found:
        images, source = found
        print(f"{path} is absent: made of {source}")
    else:
        images = _download(dataset, split, path)
    try:
        with paths.replacing(path) as file:
            np.save(file, images)
    except UserError as error:
        print(f"Note: {error}; the images are not kept there")
        images = np.ascontiguousarray(images)
        images.flags.writeable = False
        return images
    return None


def _download(dataset: str, split: str, path: Path) -> np.ndarray:
    """The images as torchvision downloads them: uint8 [N, H, W, C]."""
    import torchvision

    print(f"{path} is absent: downloading {dataset} with torchvision")
    source = getattr(torchvision.datasets, _TORCHVISION[dataset])
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = source(folder, train=split == "train", download=True).data
    except (OSError, RuntimeError) as error:
        height, width, channels = SHAPES[dataset]
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dataset} could not be downloaded ({reason}); put torchvision's files into {path.parent}, or "
            f"its {split} images at {path}, a uint8 array [N, {height}, {width}, {channels}] written with numpy.save"
        ) from None
    return np.array(data).reshape(-1, *SHAPES[dataset])


class Photographs:
    """A folder of photographs that have been checked: RGB, at least PATCH pixels a side, of any size.

    folder: their folder. names: bytes [N], their paths in it. sizes: int64 [N, 2], heights and widths.
    decoded: file of all their pixels, one photograph after the other, each uint8 [H, W, 3]; None where they would
    take more than DECODED_LIMIT.
    """

    def __init__(self, folder: Path, names: np.ndarray, sizes: np.ndarray, decoded: Path | None) -> None:
        self.folder, self.names, self.sizes, self.decoded = folder, names, sizes, decoded
        if decoded is not None:
            self.ends = np.cumsum(3 * sizes.prod(1))
            self.pixels = np.asarray(np.memmap(decoded, np.uint8, "r"))

    def __reduce__(self) -> tuple:
        # Pickle, which some systems need for --workers, would store everything that is mapped.
        return Photographs, (self.folder, self.names, self.sizes, self.decoded)

    def crop(self, i: int, top: int, left: int) -> np.ndarray:
        """The patch of photograph i at a corner: uint8 [PATCH, PATCH, 3]."""
        height, width = self.sizes[i]
        photograph: np.ndarray | str
        if self.decoded is not None:
            photograph = self.pixels[self.ends[i] - 3 * height * width : self.ends[i]].reshape(height, width, 3)
        else:
            path = self.folder / os.fsdecode(self.names[i])
            photograph = decode(path)
            if isinstance(photograph, str) or photograph.shape[:2] != (height, width):
                raise UserError(f"{path} has changed since it was checked; go on with --resume")
        return photograph[top : top + PATCH, left : left + PATCH]


class Patches:
    """Crops of photographs, to be indexed like an array uint8 [N, PATCH, PATCH, 3].

    where: int64 [N, 3], of each the photograph, the top row and the left column.
    """

    def __init__(self, photographs: Photographs, where: np.ndarray) -> None:
        self.photographs, self.where = photographs, where

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, indices: Any) -> np.ndarray:
        where = self.where[indices]
        patches = np.empty((*where.shape[:-1], PATCH, PATCH, 3), np.uint8)
        for position in np.ndindex(where.shape[:-1]):
            patches[position] = self.photographs.crop(*where[position])
        return patches


def random_patches(photographs: Photographs, seed: int | Sequence[int], crops: int) -> Patches:
    """Crop every photograph `crops` times, at random positions that follow from the seed alone.

    seed: as np.random.default_rng() takes it. Returns Patches; number i is of photograph i modulo their count.
    """
    sizes = np.tile(photographs.sizes, (crops, 1))
    corners = np.random.default_rng(seed).integers(0, sizes - PATCH, endpoint=True)
    which = np.arange(len(sizes)) % len(photographs.sizes)
    return Patches(photographs, np.column_stack((which, corners)))


def recrop(images: np.ndarray | Patches, seed: int | Sequence[int], crops: int) -> np.ndarray | Patches:
    """Other patches of the same photographs, as random_patches() draws them; an array is returned as it is."""
    return random_patches(images.photographs, seed, crops) if isinstance(images, Patches) else images


def open_photographs(folder: Path) -> Photographs:
    """Check the photographs of a folder and its sub-folders (JPEG or PNG), and decode them where there is room.

    Files that are not RGB, are under PATCH pixels a side or cannot be decoded are skipped, counted and named.
    The outcome is kept beside the folder, as <split>.index.npz and <split>.pixels, and made again when the name, size
    or time of a file has changed. Memory: two photographs a processor, and some hundred bytes for every file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is absent; put photographs there (JPEG or PNG, any size, in sub-folders or not)")
    index, decoded = folder.with_name(f"{folder.name}.index.npz"), folder.with_name(f"{folder.name}.pixels")
    names, digest = _list_files(folder)
    fields = ("digest", "good", "sizes", "is_decoded", "skipped")
    is_decoded: np.ndarray | bool
    skipped: np.ndarray | str
    try:
        known, good, sizes, is_decoded, skipped = npz.load(index, fields, "")
    except UserError:  # absent, or from a process that was killed: made again
        known = None
    if known != digest or (is_decoded and not (decoded.exists() and decoded.stat().st_size == 3 * sizes.prod(1).sum())):
        try:
            index.unlink(missing_ok=True)  # first of all: it must never stand beside other pixels than its own
            good, sizes, is_decoded, skipped = _decode_all(folder, names, decoded)
            npz.save(index, **dict(zip(fields, (digest, good, sizes, is_decoded, skipped), strict=True)))
        except OSError as error:
            raise UserError(f"{index} and {decoded.name} cannot be written ({error.strerror or error})") from None
    if len(good) < len(names):
        print(f"{folder}: {len(names) - len(good):,} of {len(names):,} files skipped: {skipped}")
    if not len(good):
        raise UserError(f"{folder} has no photograph in it; put some there (JPEG or PNG, RGB, from {PATCH}x{PATCH} up)")
    return Photographs(folder, np.array(names)[good], sizes, decoded if is_decoded else None)


def decode(path: str | Path) -> np.ndarray | str:
    """The pixels of a photograph, uint8 [H, W, 3], or a string that says why it is of no use."""
    try:
        with pictures.opened(path, ("JPEG", "PNG")) as image:
            if image.mode != "RGB":
                return f"{image.mode}, not RGB"
            if found := pictures.refusal(image, transparent=False):  # 16 bits, animated ...
                return found
            if min(image.size) < PATCH:
                return f"only {image.width}x{image.height} pixels"
            return np.asarray(image)
    except Image.DecompressionBombError:
        return "too large for Pillow"
    except MemoryError:  # no fault of the file, which must not be skipped for good
        raise
    except Exception as error:  # Pillow raises nearly any exception on a damaged file
        return getattr(error, "strerror", None) or "damaged, or neither JPEG nor PNG"


def _list_files(folder: Path) -> tuple[list[bytes], str]:
    """The sorted paths (bytes) of all files in a folder, relative to it, and a digest that changes when they do."""
    files = []
    try:
        for name in paths.list_files(folder):
            path = os.path.join(folder, name)
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)  # a link that leads nowhere
            files.append((os.fsencode(name), status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from None
    files.sort()
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr(file).encode())
    return [name for name, _, _ in files], digest.hexdigest()


def _decode_all(folder: Path, names: Sequence[bytes], target: Path) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """Decode the named files into one file, or none where that would take too much of the disk.

    Returns the indices of the good ones among the names, int64 [N]; their heights and widths, int64 [N, 2]; whether
    their pixels are in the target; and a line that names the first few of the others.
    """
    room = min(DECODED_LIMIT, shutil.disk_usage(target.parent).free // 2)
    good, sizes, skipped = [], [], []
    with paths.replacing(target) as file:
        for i, pixels in enumerate(_decode_each(folder, names)):
            if isinstance(pixels, str):
                skipped.append(f"{names[i].decode(errors='replace')} ({pixels})")
                continue
            good.append(i)
            sizes.append(pixels.shape[:2])
            room -= pixels.size
            if room >= 0:
                file.write(pixels)
            else:
                file.truncate(0)  # at once: checking the rest may take an hour
    if room < 0 or not good:
        target.unlink()
    named = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
    return np.array(good, np.int64), np.array(sizes, np.int64).reshape(-1, 2), room >= 0 and bool(good), named


def _decode_each(folder: Path, names: Sequence[bytes]) -> Iterator[np.ndarray | str]:
    """Generate what decode() makes of each named file, in order, holding two of them a processor."""
    processors = os.cpu_count() or 1
    chunk = 2 * processors
    bar = tqdm(total=len(names), desc=f"{folder.name} photographs", unit="file", dynamic_ncols=True)
    with bar, ThreadPoolExecutor(processors) as pool:  # threads: Pillow decodes without the GIL
        for first in range(0, len(names), chunk):
            files = [folder / os.fsdecode(name) for name in names[first : first + chunk]]
            for pixels in pool.map(decode, files):
                yield pixels
                bar.update()


def sample_chains(count: int, experiments: int | None, ndatapoints: int | None, seed: int) -> np.ndarray:
    """Choose the test images of the compression experiment, none twice.

    count: how many test images there are. experiments, ndatapoints: chains and images in each; None stands for
    CHAINS, or as many as there are images for, with a note where that is fewer.
    Returns their indices, int [experiments, ndatapoints]: a row per chain.
    Raises UserError where there are not enough images.
    """
    wanted = experiments or CHAINS, ndatapoints or CHAINS
    ndatapoints = ndatapoints or max(1, min(CHAINS, count // (experiments or 1)))
    experiments = experiments or max(1, min(CHAINS, count // ndatapoints))
    if experiments * ndatapoints > count:
        raise UserError(
            f"--experiments={experiments} --ndatapoints={ndatapoints}: that takes {experiments * ndatapoints} "
            f"different images, and the test set has {count}"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed={seed}: a seed is at least 0 and less than 2^32")
    if (experiments, ndatapoints) != wanted:
        print(f"Note: there are {count} test images: using {experiments} x {ndatapoints} of them")
    return np.random.RandomState(seed).choice(count, (experiments, ndatapoints), replace=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose test images, as sample_chains() takes them."""
    fewer = f"(default: {CHAINS}, or as many as the test set allows)"
    parser.add_argument("--experiments", type=cli.whole_number(1), help=f"chains, each coded on its own {fewer}")
    parser.add_argument("--ndatapoints", type=cli.whole_number(1), help=f"images in a chain {fewer}")
    parser.add_argument("--seed", type=cli.SEED, default=SEED, help="seed of the choice of images")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")


def model_shape(dataset: str) -> tuple[int, int, int]:
    """The shape (C, H, W) of a dataset's images as the models take them: see to_channels_first()."""
    return (3, PATCH, PATCH) if dataset == PHOTOGRAPHS else (SHAPES[dataset][-1], 32, 32)


def to_channels_first(images: np.ndarray, size: Sequence[int] = (32, 32)) -> np.ndarray:
    """Turn uint8 images [..., H, W, C] into what the models take: uint8 [..., C, *size].

    Smaller images (MNIST's 28x28) are zero-padded evenly on every side, as in the paper.
    """
    missing = [wanted - side for wanted, side in zip(size, images.shape[-3:-1], strict=True)]
    pads = [(0, 0)] * (images.ndim - 3) + [(each // 2, each - each // 2) for each in missing]
    padded = np.pad(images, [*pads, (0, 0)])
    return np.ascontiguousarray(np.moveaxis(padded, -1, -3))
