"""Divide photographs into a training and a test set: python create_imagenetcrop.py FOLDER [FOLDER ...]

The published split is 5,000 photographs for testing, drawn at random from the validation and test sets of ILSVRC 2012,
and the others for training; which ones, is not published. Here it follows from the seed and the names of the files.
Any other photographs will do: JPEG or PNG files, in sub-folders or not. Nothing in FOLDER is changed: the sets are hard
links to its files, which take no room, or copies where they lie on another disk.

Writes  DATA/imagenetcrop/train/ and DATA/imagenetcrop/test/   each in full or not at all: both are made aside and then
        renamed, one after the other
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from utils import cli, datasets, paths

TEST = 5000
SUFFIXES = (".jpeg", ".jpg", ".png")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="photographs")
    count = f"test photographs (default: {TEST}, or a tenth of fewer than {10 * TEST})"
    parser.add_argument("--count", type=cli.whole_number(1), help=count)
    parser.add_argument("--seed", type=cli.SEED, default=0, help="seed of the draw")
    parser.add_argument("--data", type=Path, default=paths.DATA, help="folder of the datasets")
    return parser.parse_args(argv)


def list_photographs(folders: Iterable[Path]) -> dict[str, Path]:
    """The photographs in folders, {path to give it in its set: path}, sorted; others are counted on stdout."""
    found: dict[str, Path] = {}
    others = 0
    for folder in folders:
        if not folder.is_dir():
            raise cli.UserError(f"{folder} is absent or no folder; name a folder of photographs (JPEG or PNG)")
        for name in paths.list_files(folder):
            if not name.lower().endswith(SUFFIXES):
                others += 1
            elif name in found:
                raise cli.UserError(f"{folder / name} has the name of {found[name]}; rename one")
            else:
                found[name] = folder / name
    if others:
        print(f"{others} files that are neither JPEG nor PNG left out")
    return dict(sorted(found.items()))


def place(source: str | Path, target: Path) -> None:
    """Link a file, or copy it where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Draw the test set, and place every photograph in one of the two."""
    args = arguments(argv)
    # End as on an exception, so that nothing unfinished is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    root = args.data / datasets.PHOTOGRAPHS
    targets = {split: root / split for split in ("train", "test")}
    for target in targets.values():
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise cli.UserError(f"{target} is there already; move it away, or choose another folder with --data")
    paths.check_folder_writable(root)
    photographs = list_photographs(args.folders)
    count = args.count or min(TEST, max(1, len(photographs) // 10))
    if len(photographs) <= count:
        where = ", ".join(map(str, args.folders))
        raise cli.UserError(f"{where}: {len(photographs)} photographs are too few to draw {count} of them for testing")
    drawn = set(np.random.default_rng(args.seed).choice(len(photographs), count, replace=False).tolist())
    aside = root / f".{os.getpid()}.tmp"
    try:
        bar = tqdm(photographs.items(), unit="photograph", dynamic_ncols=True)
        for i, (name, source) in enumerate(bar):
            place(source, aside / ("test" if i in drawn else "train") / name)
        for split, target in targets.items():
            os.replace(aside / split, target)  # in place of an empty folder, too
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"wrote {targets['train']}: {len(photographs) - count} photographs, and {targets['test']}: {count}")


if __name__ == "__main__":
    main()
