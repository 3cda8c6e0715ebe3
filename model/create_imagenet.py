"""Make the arrays of ImageNet 32x32 from the files of image-net.org: python create_imagenet.py

PNG files, as the paper used them: images of 32x32 pixels, 8-bit RGB. Any other file is named on stderr with the reason
and skipped. The images keep the sorted order of their paths, sub-folders included.
.npz batches, as offered today: all of them must exist. They are another resampling of the same photographs, so that
rates differ from the paper's.
An array that exists is kept.

Reads   DATA/train_32x32 and DATA/valid_32x32, folders of PNG files; or train_data_batch_{1..10}.npz and val_data.npz
        (uint8 `data` [N, 3072], channels first) in DATA/Imagenet32_train_npz and DATA/Imagenet32_val_npz, or in DATA
Writes  DATA/imagenet/train.npy and DATA/imagenet/test.npy   uint8 [N, 32, 32, 3], whole or not at all
"""

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from utils import cli, datasets, npz, paths, photographs, progress
from utils.errors import UserError

SHAPE = datasets.SHAPES["imagenet"]
SOURCE = (
    "train_32x32.tar and valid_32x32.tar, the downsampled ImageNet 32x32 of the paper (arXiv 1601.06759), or "
    "Imagenet32_train_npz.zip and Imagenet32_val_npz.zip from image-net.org, another resampling with other rates "
    "(arXiv 1707.08819)"
)
FOLDERS = {"train": ("train_32x32", "Imagenet32_train_npz"), "test": ("valid_32x32", "Imagenet32_val_npz")}
BATCHES = {"train": [f"train_data_batch_{i}.npz" for i in range(1, 11)], "test": ["val_data.npz"]}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--data", type=Path, default=paths.DATA, help="folder of the datasets")
    return parser.parse_args(argv)


def find_source(data: Path, split: str) -> tuple[Path, list[Path]]:
    """The folder of a split's images, and its .npz batches if it has any.

    Raises UserError if there is none, or if some batches are missing.
    """
    for folder in [*(data / name for name in FOLDERS[split]), data]:
        batches = [folder / name for name in BATCHES[split]]
        missing = [path for path in batches if not path.exists()]
        if not missing:
            return folder, batches
        if len(missing) < len(batches):
            raise UserError(f"{', '.join(map(str, missing))}: missing, while other batches exist")
        if folder.is_dir() and folder != data:
            return folder, []
    raise UserError(f"{data / FOLDERS[split][0]} is not a folder; in {data}, unpack {SOURCE}")


def decode(path: str | Path) -> np.ndarray | str:
    """The pixels of an image, uint8 [32, 32, 3], or a string that says why it cannot be used."""
    pixels = photographs.decode(path, ("PNG",))
    if not isinstance(pixels, str) and pixels.shape != SHAPE:
        return f"{pixels.shape[1]}x{pixels.shape[0]} pixels, not {SHAPE[1]}x{SHAPE[0]}"
    return pixels


def read_images(folder: Path, names: Iterable[str]) -> Iterator[np.ndarray]:
    """Generate the pixels of the named files, uint8 [1, 32, 32, 3]; name those that cannot be used on stderr."""
    for name in names:
        pixels = decode(folder / name)
        if isinstance(pixels, str):
            tqdm.write(f"{folder / name}: {pixels}", file=sys.stderr)
        else:
            yield pixels[None]


def read_batches(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """Generate the images of .npz batches, uint8 [N, 32, 32, 3], with one batch in memory."""
    height, width, channels = SHAPE
    for path in files:
        [data] = npz.load(path, ["data"], "fetch it again")
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != height * width * channels:
            raise UserError(f"{path} holds {data.dtype} {list(data.shape)}, not uint8 [N, {height * width * channels}]")
        for some in np.array_split(data, len(data) // 4096 + 1):
            yield some.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def write(target: Path, parts: Iterable[np.ndarray], folder: Path) -> int:
    """Write images, uint8 [N, 32, 32, 3] in parts, as one array; returns N. Raises UserError if folder has none."""
    count = 0

    def write_header():  # it has 128 bytes for any count, as NumPy pads to a multiple of 64, and so can be overwritten
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)})

    with paths.replacing(target) as file:
        write_header()
        for part in parts:
            file.write(np.ascontiguousarray(part))
            count += len(part)
        write_header()
        if not count:
            raise UserError(f"{folder} has no good image in it, so {target} is not written")
    return count


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Make the two arrays, or the one that does not exist."""
    args = arguments(argv)
    # As on an exception, leave no unfinished file.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    sources = {}
    for split in FOLDERS:
        target = args.data / "imagenet" / f"{split}.npy"
        if target.exists():
            print(f"{target} exists and is kept")
        else:
            sources[target] = find_source(args.data, split)
    paths.check_writable(*sources)  # before the long work on the first
    for target, (folder, files) in sources.items():
        names, hidden = ([], 0) if files else paths.list_files(folder)
        with progress.bar(files or names, desc=target.stem, unit="batch" if files else "image") as bar:
            count = write(target, read_batches(bar) if files else read_images(folder, bar), folder)
        print(f"wrote {target}: {cli.counted(count, 'image')} of {folder}")
        if files:
            print("Note: these are resampled in another way than the paper's images; rates differ from the paper's")
        elif skipped := len(names) + hidden - count:
            print(f"{skipped} of {count + skipped} files skipped")


if __name__ == "__main__":
    main()
