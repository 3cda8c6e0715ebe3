"""Photographs: a folder that is checked and decoded once, random patches of them, and the blocks of whole ones.

Training cuts random patches of PATCH x PATCH pixels. The full-resolution experiment crops each photograph so that both
sides are multiples of PATCH: it leaves out rows at the bottom and columns on the right. The blocks of a photograph, row
by row of blocks and from left to right, are the images of one chain.
"""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import images, npz, paths, progress
from utils.cli import counted, printable
from utils.compiled import processors
from utils.errors import UserError
from utils.threads import ahead

PATCH = 32  # pixels a side
COUNT = 100  # photographs in the paper's experiment
DECODED_LIMIT = 32 << 30  # bytes of decoded photographs to keep on disk; beyond it, each crop decodes its photograph


class Photographs:
    """A folder of photographs that have been checked: RGB, at least PATCH pixels a side, of any size.

    folder: their folder. names: their paths in it. sizes: int64 [N, 2], heights and widths.
    decoded: the file of all their pixels, one photograph after the other, each uint8 [H, W, 3]; None if they would need
    more than DECODED_LIMIT.
    """

    def __init__(self, folder: Path, names: Sequence[str], sizes: np.ndarray, decoded: Path | None) -> None:
        self.folder, self.names, self.sizes, self.decoded = folder, names, sizes, decoded
        if decoded is not None:
            self.ends = np.cumsum(3 * sizes.prod(1))
            self.pixels = np.asarray(np.memmap(decoded, np.uint8, "r"))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: int) -> np.ndarray:
        """Photograph i: uint8 [H, W, 3]. Raises UserError if its file has changed."""
        height, width = self.sizes[i]
        if self.decoded is not None:
            return self.pixels[self.ends[i] - 3 * height * width : self.ends[i]].reshape(height, width, 3)
        path = self.folder / self.names[i]
        photograph = decode(path)
        if isinstance(photograph, str) or photograph.shape[:2] != (height, width):
            raise UserError(f"{path} has changed since it was checked; start again, with --resume when training")
        return photograph


class Patches:
    """Crops of photographs, indexed like an array uint8 [N, PATCH, PATCH, 3].

    where: int64 [N, 3], the photograph, the top row and the left column of each.
    """

    def __init__(self, photographs: Photographs, where: np.ndarray) -> None:
        self.photographs, self.where = photographs, where

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, indices: Any) -> np.ndarray:
        where = self.where[indices]
        patches = np.empty((*where.shape[:-1], PATCH, PATCH, 3), np.uint8)
        for position in np.ndindex(where.shape[:-1]):
            which, top, left = where[position]
            patches[position] = self.photographs[which][top : top + PATCH, left : left + PATCH]
        return patches


def random_patches(photographs: Photographs, seed: int | Sequence[int], crops: int) -> Patches:
    """Crop every photograph `crops` times, at random positions that follow from the seed alone.

    seed: as for np.random.default_rng(). Returns Patches; patch i is of photograph i modulo their number.
    """
    sizes = np.tile(photographs.sizes, (crops, 1))
    corners = np.random.default_rng(seed).integers(0, sizes - PATCH, endpoint=True)
    which = np.arange(len(sizes)) % len(photographs)
    return Patches(photographs, np.column_stack((which, corners)))


def recrop(images: np.ndarray | Patches, seed: int | Sequence[int], crops: int) -> np.ndarray | Patches:
    """Other patches of the same photographs, see random_patches(). An array is returned as it is."""
    return random_patches(images.photographs, seed, crops) if isinstance(images, Patches) else images


def split(photographs: Photographs, held: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Training photographs and, at the most `held` or half of them, those for validation; the same in every run.

    Returns two lists of uint8 [H, W, 3]. Raises UserError if there are fewer than two photographs.
    """
    order = np.random.default_rng(0).permutation(len(photographs))
    held = min(held, len(order) // 2)
    if not held:
        raise UserError(f"{photographs.folder} has {counted(len(order), 'photograph')}; training requires two or more")
    return [photographs[i] for i in order[held:]], [photographs[i] for i in order[:held]]


def open_photographs(folder: Path) -> Photographs:
    """Check the photographs of a folder and its sub-folders (JPEG or PNG), and decode them if the disk has room.

    Files that are not RGB, have under PATCH pixels a side or cannot be decoded are skipped, counted and named.
    The result is cached next to the folder, as <split>.index.npz and <split>.pixels, and made again when the name, size
    or time of a file changes. Memory: two photographs a processor, and some hundred bytes a file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; put photographs there (JPEG or PNG, in sub-folders or not)")
    index, decoded = folder.with_name(f"{folder.name}.index.npz"), folder.with_name(f"{folder.name}.pixels")
    names, hidden = paths.list_files(folder)
    state = hashlib.sha256()  # of the folder
    for name in names:
        path = folder / name
        status = path.stat() if path.exists() else path.lstat()  # a link that leads nowhere
        state.update(repr((name, status.st_size, status.st_mtime_ns)).encode())
    fields = ("state", "sizes", "skipped")
    skipped: np.ndarray | str
    room = min(DECODED_LIMIT, shutil.disk_usage(folder.parent).free // 2)
    try:
        known, sizes, skipped = npz.load(index, fields, "")
        current = known == state.hexdigest() and (_is_decoded(decoded, sizes) or 3 * sizes.prod(1).sum() > room)
    except UserError:  # absent, or from a process that was killed: made again
        current = False
    if not current:
        index.unlink(missing_ok=True)  # first: it must never stand next to other pixels than its own
        sizes, skipped = _decode_all(folder, names, decoded, room)
        npz.save(index, **dict(zip(fields, (state.hexdigest(), sizes, skipped), strict=True)))
    good = np.flatnonzero(sizes.all(1))
    if len(good) < len(names):
        print(f"{folder}: {len(names) - len(good):,} of {counted(len(names), 'file')} skipped: {skipped}")
    if hidden:
        print(f"{folder}: {counted(hidden, 'hidden file')} left out")
    if not len(good):
        raise UserError(f"{folder} has no photograph in it; put some there (JPEG or PNG, RGB, from {PATCH}x{PATCH} up)")
    where = decoded if _is_decoded(decoded, sizes) else None
    return Photographs(folder, [names[i] for i in good], sizes[good], where)


def _is_decoded(decoded: Path, sizes: np.ndarray) -> bool:
    return decoded.exists() and decoded.stat().st_size == 3 * sizes.prod(1).sum()


def decode(path: str | Path, formats: tuple[str, ...] = ("JPEG", "PNG")) -> np.ndarray | str:
    """The pixels of a photograph, uint8 [H, W, 3], or a string that says why it cannot be used."""
    try:
        paths.require_regular(path)
        with images.opened(path, formats) as image:
            if image.mode != "RGB":
                return f"{image.mode}, not RGB"
            if found := images.refusal(image, transparent=False):  # 16 bits, animated ...
                return found
            if min(image.size) < PATCH:
                return f"only {image.width}x{image.height} pixels"
            if image.width * image.height > images.MAX_PIXELS:
                return f"{image.width}x{image.height} is over {images.MAX_PIXELS:,} pixels"
            return np.asarray(image)
    except MemoryError:  # not the fault of the file, which must not be skipped for good
        raise
    except Exception as error:  # Pillow raises nearly any exception on a damaged file
        return getattr(error, "strerror", None) or f"damaged, or not {' or '.join(formats)}"


def _decode_all(folder: Path, names: Sequence[str], target: Path, room: int) -> tuple[np.ndarray, str]:
    """Decode the named files into one file, or none if that would need more than `room` bytes.

    Returns their heights and widths, int64 [N, 2], 0 for those that cannot be used, and a line that names the first
    few of these.
    """
    sizes, skipped, threads = np.zeros((len(names), 2), np.int64), [], processors()
    bar = progress.bar(names, desc=f"{folder.name} photographs", unit="file")
    with paths.replacing(target) as file, bar:
        # Pillow decodes without the GIL.
        photographs = ahead(lambda name: decode(folder / name), bar, threads, 2 * threads - 1)
        for i, pixels in enumerate(photographs):
            if isinstance(pixels, str):
                skipped.append(f"{printable(names[i])} ({pixels})")
                continue
            sizes[i] = pixels.shape[:2]
            room -= pixels.size
            if room >= 0:
                file.write(pixels)
            else:
                file.truncate(0)  # at once: checking the rest may take an hour
    if room < 0 or not sizes.any():
        target.unlink()
    return sizes, ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")


# Whole photographs


class Photograph(NamedTuple):
    """A photograph, cropped."""

    name: str  # its path in the folder, printable
    pixels: np.ndarray  # uint8 [H, W, 3], H and W multiples of PATCH


def choose(folder: str | Path, count: int | None, seed: int) -> list[Photograph]:
    """Draw photographs from a folder and its sub-folders, none twice.

    count: how many; None means COUNT, or all if there are fewer, with a note. A file that cannot be used (see decode())
    is named and skipped, and the next one is drawn. Only files that are drawn are opened.
    Returns the Photographs, those with most blocks first: all of them in memory, as bytes.
    Raises UserError if there are not enough.
    """
    folder = Path(folder)
    names, _ = paths.list_files(folder) if folder.exists() else ([], 0)
    if not names:
        raise UserError(f"there are no photographs in {folder}; put some there (JPEG or PNG, in sub-folders or not)")
    chosen: list[Photograph] = []
    # The first `count` of a permutation are the paper's draw of `count` without replacement.
    for i in np.random.RandomState(seed).permutation(len(names)):
        pixels = decode(folder / names[i])
        if not isinstance(pixels, str) and max(pixels.shape) > images.WEBP_SIDE:
            pixels = f"over {images.WEBP_SIDE} pixels a side, which WebP cannot hold"
        if isinstance(pixels, str):
            print(f"skipped {printable(names[i])}: {pixels}")
        else:
            chosen.append(Photograph(printable(names[i]), crop(pixels)))
        if len(chosen) == (count or COUNT):
            break
    if len(chosen) < (count or 1):
        raise UserError(f"{folder} holds {counted(len(chosen), 'photograph')} that can be used, not {count or 'one'}")
    if len(chosen) < (count or COUNT):
        print(f"Note: using all there is, {counted(len(chosen), 'photograph')}")
    return sorted(chosen, key=lambda photograph: -photograph.pixels.size)


def crop(pixels: np.ndarray) -> np.ndarray:
    """Leave out the rows at the bottom and the columns on the right beyond the last multiple of PATCH; a copy."""
    height, width = (side // PATCH * PATCH for side in pixels.shape[:2])
    return pixels[:height, :width].copy()


def to_blocks(pixels: np.ndarray) -> np.ndarray:
    """The blocks of a cropped photograph, as models read them: uint8 [H, W, 3] -> [N, 3, PATCH, PATCH]."""
    height, width, channels = pixels.shape
    grid = pixels.reshape(height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, channels, PATCH, PATCH)


def digest(photographs: Iterable[Photograph]) -> str:
    """A digest of all pixels: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for photograph in photographs:
        total.update(f"{photograph.pixels.shape}\n".encode())
        total.update(photograph.pixels.data)
    return total.hexdigest()[:16]
