"""Make the arrays of ImageNet 32x32 from the files of image-net.org: python create_imagenet.py

PNG files, as the paper used them: images of 32x32 pixels, 8-bit RGB. Any other file is named on stderr with the reason
and skipped. The images keep the sorted order of their paths, sub-folders included.
.npz batches, as offered today: all of them must exist. They are another resampling of the same photographs, so that
rates differ from the paper's.
An array that exists is kept; --force replaces it.

Reads   DATA/TRAIN and DATA/TEST, folders of PNG files, or of train_data_batch_{1..10}.npz and of val_data.npz (uint8
        `data` [N, 3072], channels first); default: train_32x32 and valid_32x32, or Imagenet32_train_npz and
        Imagenet32_val_npz, or for .npz batches DATA itself
Writes  DATA/imagenet/train.npy and DATA/imagenet/test.npy   uint8 [N, 32, 32, 3], whole or not at all
"""

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import UnidentifiedImageError
from tqdm import tqdm

from utils import cli, datasets, images, npz, paths
from utils.errors import UserError

HEIGHT, WIDTH, CHANNELS = datasets.SHAPES["imagenet"]
SOURCE = (
    "train_32x32.tar and valid_32x32.tar, the downsampled ImageNet 32x32 of the paper (arXiv 1601.06759), or "
    "Imagenet32_train_npz.zip and Imagenet32_val_npz.zip from image-net.org, another resampling with other rates "
    "(arXiv 1707.08819)"
)
FOLDERS = {"train": ("train_32x32", "Imagenet32_train_npz"), "test": ("valid_32x32", "Imagenet32_val_npz")}
BATCHES = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "test": ["val_data.npz"]}
# Pillow's names for the colours of PNG files; the depth follows, as in "RGB;16B".
COLOURS = {"1": "grey", "L": "grey", "I": "grey", "LA": "grey with alpha", "P": "palette", "RGBA": "RGB with alpha"}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--data", type=Path, default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--train", help="folder of training images, in DATA or absolute")
    parser.add_argument("--test", help="folder of test images, in DATA or absolute")
    parser.add_argument("--force", action="store_true", help="replace arrays that exist")
    return parser.parse_args(argv)


def source(data: Path, split: str, given: str | None) -> Path:
    """The folder of a split's images. given: the value of its flag, or None. Raises UserError if there is none."""
    folders = [data / name for name in ((given,) if given is not None else FOLDERS[split])]
    if given is None and any((data / name).exists() for name in BATCHES[split]):
        folders.append(data)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(f"{folders[0]} is not a folder; in {data}, unpack {SOURCE}")


def decode(path: str | Path) -> bytes:
    """The pixels of an image file: HEIGHT * WIDTH * CHANNELS bytes, in that order.

    Raises UserError if it has another size or other colours, and nearly anything if it is damaged or not an image.
    """
    paths.require_regular(path)
    with images.opened(path, ("PNG",)) as image:
        if image.size != (WIDTH, HEIGHT):
            raise UserError(f"{image.width}x{image.height} pixels, not {WIDTH}x{HEIGHT}")
        if not image.tile:
            raise UserError("no pixels in it")
        # image.mode is RGB for 16 bits as well, which Pillow would cut down to 8; the decoder's raw mode is exact.
        raw: Any = image.tile[0][3]  # of PNG files a string
        if raw != "RGB":
            colour, _, depth = raw.partition(";")
            bits = "16-bit " if depth.startswith("16") else ""
            raise UserError(f"{bits}{COLOURS.get(colour, colour)}, not 8-bit RGB")
        if found := images.refusal(image, transparent=False):  # transparent pixels, or more than one image
            raise UserError(found)
        return image.tobytes()


def good_images(folder: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Generate the pixels of the named files that decode() accepts; name the others on stderr with the reason."""
    for name in names:
        try:
            yield decode(os.path.join(folder, name))
        except Exception as error:  # Pillow raises nearly any exception on a damaged file
            reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
            if isinstance(error, UserError):
                reason = str(error)
            elif isinstance(error, UnidentifiedImageError):
                reason = "not a PNG image, or damaged at its start"
            tqdm.write(f"{os.path.join(folder, name)}: {reason}", file=sys.stderr)


def write_header(file: IO[bytes], count: int) -> None:
    """Write the header of a .npy file of `count` images at the start of the file.

    It has 128 bytes for any count, as NumPy pads to a multiple of 64, so that it can be overwritten.
    """
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, HEIGHT, WIDTH, CHANNELS)}
    np.lib.format.write_array_header_1_0(file, header)


def create(folder: Path, target: Path) -> tuple[int, int]:
    """Write the good images of a folder as one array, uint8 [N, 32, 32, 3].

    Memory holds the names of the files (about 200 bytes each) and the pixels of one image: the header is written again
    once N is known. Returns N and the number of files skipped. Raises UserError if there is no good image.
    """
    names, hidden = paths.list_files(folder)
    with tqdm(names, desc=f"{target.stem} images", unit="image", dynamic_ncols=True) as bar:
        good = good_images(folder, bar)
        first = next(good, None)
        if first is None:
            raise UserError(f"{folder} has no good image in it ({len(names)} files), so {target} is not written")
        with paths.replacing(target) as file:
            write_header(file, 0)
            count = sum(map(file.write, itertools.chain([first], good))) // len(first)
            write_header(file, count)
    return count, len(names) + hidden - count


def batches(folder: Path, split: str) -> list[Path]:
    """The .npz batches of a split in a folder, or none. Raises UserError if some of them are missing."""
    files = [folder / name for name in BATCHES[split]]
    missing = [path for path in files if not path.exists()]
    if missing and len(missing) < len(files):
        raise UserError(f"{', '.join(map(str, missing))}: missing, while other batches exist")
    return [] if missing else files


def create_from_batches(files: Sequence[Path], target: Path) -> int:
    """Write the images of .npz batches as one array, uint8 [N, 32, 32, 3], with one batch in memory; returns N."""
    count = 0
    with paths.replacing(target) as file, tqdm(files, desc=f"{target.stem} batches", dynamic_ncols=True) as bar:
        write_header(file, count)
        for path in bar:
            [data] = npz.load(path, ["data"], "fetch it again")
            if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != CHANNELS * HEIGHT * WIDTH:
                raise UserError(f"{path} holds {data.dtype} {list(data.shape)}, not uint8 [N, 3072]")
            for some in np.array_split(data, len(data) // 4096 + 1):
                file.write(np.ascontiguousarray(some.reshape(-1, CHANNELS, HEIGHT, WIDTH).transpose(0, 2, 3, 1)))
            count += len(data)
        write_header(file, count)
    return count


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Make the two arrays, or the one that does not exist."""
    args = arguments(argv)
    # As on an exception, leave no unfinished file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    sources = {}  # {target: (folder, .npz batches in it)}
    for split, given in {"train": args.train, "test": args.test}.items():
        target = args.data / "imagenet" / f"{split}.npy"
        if target.exists() and not args.force:
            print(f"{target} exists and is kept; --force replaces it")
        else:
            folder = source(args.data, split, given)
            sources[target] = folder, batches(folder, split)
    paths.check_writable(*sources)  # before the long work on the first
    for target, (folder, files) in sources.items():
        if files:
            print(f"wrote {target}: {create_from_batches(files, target)} images of {folder}/*.npz")
            print("Note: these are resampled in another way than the paper's images; rates differ from the paper's")
            continue
        try:
            count, skipped = create(folder, target)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{target} cannot be made from {folder} ({reason})") from None
        print(f"wrote {target}: {count} images; {skipped} of {count + skipped} files skipped")


if __name__ == "__main__":
    main()
