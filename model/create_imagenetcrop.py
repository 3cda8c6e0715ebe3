"""Divide photographs into a training and a test set: python create_imagenetcrop.py FOLDER [FOLDER ...]

The published split has 5,000 photographs for testing, drawn at random from the validation and test sets of ILSVRC 2012,
and the others for training. Which ones is not published; here the seed and the names of the files decide. Any other
photographs will do: JPEG or PNG files, in sub-folders or not.
Nothing in FOLDER is changed: the sets are hard links to its files, which use no space, or copies on another disk.

Writes  DATA/imagenetcrop/train/ and DATA/imagenetcrop/test/   each whole or not at all
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils import cli, datasets, paths, progress
from utils.errors import UserError

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
    """The photographs in folders, {path in the set: path}, sorted; the other files are counted on stdout.

    Raises UserError if a folder does not exist, or two photographs have the same name.
    """
    found: dict[str, Path] = {}
    others, seen = 0, set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; name a folder of photographs (JPEG or PNG)")
        names, hidden = paths.list_files(folder)
        photographs = [name for name in names if name.lower().endswith(SUFFIXES) and (folder / name).is_file()]
        others += hidden + len(names) - len(photographs)
        for name in photographs:
            status = (folder / name).stat()
            if (status.st_dev, status.st_ino) in seen:  # another link to the same file
                continue
            seen.add((status.st_dev, status.st_ino))
            if name in found:
                raise UserError(f"{folder / name} has the same name as {found[name]}; rename one")
            found[name] = folder / name
    if others:
        print(f"left out: {cli.counted(others, 'file')}, hidden or neither JPEG nor PNG")
    return dict(sorted(found.items()))


def place(source: Path, target: Path) -> None:
    """Link to a file, or copy it if that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Draw the test set, and place every photograph in one of the two sets."""
    args = arguments(argv)
    # As on an exception, leave nothing unfinished.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    root = args.data / datasets.PHOTOGRAPHS
    targets = {split: root / split for split in ("train", "test")}
    for target in targets.values():
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} exists; move it away, or choose another folder with --data")
    paths.check_folder_writable(root)
    photographs = list_photographs(args.folders)
    count = args.count or min(TEST, max(1, len(photographs) // 10))
    if len(photographs) <= count:
        where = ", ".join(map(str, args.folders))
        found = cli.counted(len(photographs), "photograph")
        raise UserError(f"{where}: {found}, too few to draw {count} for testing and have one for training")
    drawn = set(np.random.default_rng(args.seed).choice(len(photographs), count, replace=False).tolist())
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unfinished.", ignore_cleanup_errors=True) as aside:
        bar = progress.bar(photographs.items(), unit="photograph")
        for i, (name, source) in enumerate(bar):
            place(source, Path(aside, "test" if i in drawn else "train", name))
        for split, target in targets.items():
            os.replace(Path(aside, split), target)  # also replaces an empty folder
    training = cli.counted(len(photographs) - count, "photograph")
    print(f"wrote {targets['train']}: {training}, and {targets['test']}: {count}")


if __name__ == "__main__":
    main()
