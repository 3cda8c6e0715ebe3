"""Make the arrays of ImageNet 32x32 out of what image-net.org offers: python create_imagenet.py

Of PNG files, which the paper used, every one must be an intact image of 32x32 pixels, 8-bit RGB. Any other is named on
stderr with what is wrong with it, and skipped. The images keep the sorted order of their paths, subfolders included.
Of .npz batches, which are offered today, all must be there. They are another resampling of the same photographs, so
that rates differ from the paper's. An array that is there already is kept, so that a second run makes only what is
absent; --force makes both anew.

Reads   DATA/TRAIN and DATA/TEST, folders of PNG files, or of train_data_batch_{1..10}.npz and of val_data.npz (uint8
        `data` [N, 3072], channels first); without --train and --test, what there is of train_32x32 and valid_32x32,
        Imagenet32_train_npz and Imagenet32_val_npz, and DATA itself for .npz batches
Writes  DATA/imagenet/train.npy and DATA/imagenet/test.npy   uint8 [N, 32, 32, 3], in full or not at all
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
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from utils import cli, datasets, images, npz, paths

HEIGHT, WIDTH, CHANNELS = datasets.SHAPES["imagenet"]
SOURCE = (
    "train_32x32.tar and valid_32x32.tar, the downsampled ImageNet 32x32 of the paper (van den Oord et al. 2016, arXiv "
    "1601.06759), or Imagenet32_train_npz.zip and Imagenet32_val_npz.zip from image-net.org, whose resampling, and so "
    "whose rates, are others (arXiv 1707.08819)"
)
FOLDERS = {"train": ("train_32x32", "Imagenet32_train_npz"), "test": ("valid_32x32", "Imagenet32_val_npz")}
BATCHES = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "test": ["val_data.npz"]}
# What a PNG file may hold besides 8-bit RGB, under Pillow's names for it; the depth comes after, as in "RGB;16B".
COLOURS = {"1": "grey", "L": "grey", "I": "grey", "LA": "grey with alpha", "P": "palette", "RGBA": "RGB with alpha"}

# No need of Pillow's guard against huge images: the size of each is checked before it is decoded.
Image.MAX_IMAGE_PIXELS = None


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; the folders of images as given, relative to --data."""
    parser = cli.parser(__doc__)
    parser.add_argument("--data", type=Path, default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--train", help="folder of training images, in DATA or absolute")
    parser.add_argument("--test", help="folder of test images, in DATA or absolute")
    parser.add_argument("--force", action="store_true", help="replace the arrays that are there already")
    return parser.parse_args(argv)


def source(data: Path, split: str, given: str | None) -> Path:
    """The folder of a split. given: what the flag says, or None. Raises UserError where there is none."""
    if given is not None:
        folders = [data / given]
    else:
        folders = [data / name for name in FOLDERS[split]]
        folders += [data] * any((data / name).exists() for name in BATCHES[split])
    for folder in folders:
        if folder.is_dir():
            return folder
    raise cli.UserError(f"{folders[0]} is absent or no folder; in {data}, unpack {SOURCE}")


def decode(path: str | Path) -> bytes:
    """The pixels of an image file: HEIGHT * WIDTH * CHANNELS bytes, in that order.

    Raises UserError where the size or the colours are others; nearly anything where the file is damaged or no image.
    """
    with images.opened(path, ("PNG",)) as image:
        if image.size != (WIDTH, HEIGHT):
            raise cli.UserError(f"{image.width}x{image.height} pixels, not {WIDTH}x{HEIGHT}")
        if not image.tile:
            raise cli.UserError("no pixels in it")
        # image.mode is RGB for 16 bits as well, which Pillow would cut down to 8: the decoder's raw mode tells.
        raw: Any = image.tile[0][3]  # of PNG files a string
        if raw != "RGB":
            colour, _, depth = raw.partition(";")
            bits = "16-bit " if depth.startswith("16") else ""
            raise cli.UserError(f"{bits}{COLOURS.get(colour, colour)}, not 8-bit RGB")
        if found := images.refusal(image, transparent=False):  # transparent pixels, or more than one image
            raise cli.UserError(found)
        return image.tobytes()


def good_images(folder: Path, names: Iterable[str]) -> Iterator[bytes]:
    """Generate the pixels (see decode) of the good images among the named files; name the bad ones on stderr."""
    for name in names:
        try:
            pixels = decode(os.path.join(folder, name))
        except cli.UserError as error:
            reason: Exception | str = error
        except UnidentifiedImageError:
            reason = "not a PNG image, or damaged at its start"
        except Exception as error:  # Pillow raises nearly any exception on a damaged file
            reason = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        else:
            yield pixels
            continue
        tqdm.write(f"{os.path.join(folder, name)}: {reason}", file=sys.stderr)


def write_header(file: IO[bytes], count: int) -> None:
    """Write the header of a .npy file of `count` images at the start of the file.

    It takes 128 bytes for any count, as NumPy pads to a multiple of 64, and so can be written over.
    """
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, HEIGHT, WIDTH, CHANNELS)}
    np.lib.format.write_array_header_1_0(file, header)


def create(folder: Path, target: Path) -> tuple[int, int]:
    """Write the good images of a folder as one array, uint8 [N, 32, 32, 3].

    The file is written one image after the other and its header again once N is known: memory holds the names of
    the files (200 bytes each or so), but the pixels of one image only.
    Returns N and the number of files skipped. Raises UserError where there is no good image.
    """
    with tqdm(paths.list_files(folder), desc=f"{target.stem} images", unit="image", dynamic_ncols=True) as names:
        good = good_images(folder, names)
        first = next(good, None)
        if first is None:
            raise cli.UserError(f"{folder} has no good image in it ({len(names)} files), so {target} is not written")
        with paths.replacing(target) as file:
            write_header(file, len(names))
            count = sum(map(file.write, itertools.chain([first], good))) // len(first)
            write_header(file, count)
    return count, len(names) - count


def batches(folder: Path, split: str) -> list[Path]:
    """The paths of a split's .npz batches in a folder; none where it holds none of them.

    Raises UserError where some are lacking.
    """
    files = [folder / name for name in BATCHES[split]]
    lacking = [path for path in files if not path.exists()]
    if lacking and len(lacking) < len(files):
        raise cli.UserError(f"{', '.join(map(str, lacking))}: absent, while others of the batches are there")
    return [] if lacking else files


def create_of_batches(files: Sequence[Path], target: Path) -> int:
    """Write the images of .npz batches as one array, uint8 [N, 32, 32, 3], holding one batch; returns N."""
    count = 0
    with paths.replacing(target) as file, tqdm(files, desc=f"{target.stem} batches", dynamic_ncols=True) as bar:
        write_header(file, count)
        for path in bar:
            [data] = npz.load(path, ["data"], "fetch it again")
            if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != CHANNELS * HEIGHT * WIDTH:
                raise cli.UserError(f"{path} holds {data.dtype} {list(data.shape)}, not uint8 [N, 3072]")
            for some in np.array_split(data, len(data) // 4096 + 1):
                file.write(np.ascontiguousarray(some.reshape(-1, CHANNELS, HEIGHT, WIDTH).transpose(0, 2, 3, 1)))
            count += len(data)
        write_header(file, count)
    return count


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Make the two arrays, or the one that is absent."""
    args = arguments(argv)
    # End as on an exception, so that no unfinished file is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    sources = {}  # {target: (folder, .npz batches in it)}
    for split, given in {"train": args.train, "test": args.test}.items():
        target = args.data / "imagenet" / f"{split}.npy"
        if target.exists() and not args.force:
            print(f"{target} is there already and kept; --force makes it anew")
        else:
            folder = source(args.data, split, given)
            sources[target] = folder, batches(folder, split)
    paths.check_writable(*sources)  # before the long work on the first
    for target, (folder, files) in sources.items():
        if files:
            print(f"wrote {target}: {create_of_batches(files, target)} images of {folder}/*.npz")
            print("Note: these are resampled in another way than the paper's images; rates differ from the paper's")
            continue
        try:
            count, skipped = create(folder, target)
        except OSError as error:
            reason = error.strerror or error
            raise cli.UserError(f"{target} cannot be made from {folder} ({reason})") from None
        print(f"wrote {target}: {count} images; {skipped} of {count + skipped} files skipped")


if __name__ == "__main__":
    main()
