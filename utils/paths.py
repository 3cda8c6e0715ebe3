"""Where everything lies. All paths hang from the repository root, never from the current directory."""

import contextlib
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

DATA = ROOT / "model" / "data"
PRETRAINED = ROOT / "model" / "pretrained"


def params(dataset, output=ROOT):
    """Folder of the checkpoints trained on a dataset, one file nz<k> per number of latent layers."""
    return Path(output) / "model" / "params" / dataset


def results(dataset, nz, output=ROOT):
    """Folder of the result arrays and training curves that the figures are drawn from."""
    return Path(output) / "plots" / f"{dataset}{nz}"


def bitstreams(dataset, nz, output=ROOT):
    """Folder of the compressed test sets."""
    return Path(output) / "bitstreams" / f"{dataset}{nz}"


def bins(output=ROOT):
    """Folder of the cached latent ranges (see discretization.py)."""
    return Path(output) / "bins"


def runs(dataset, nz, output=ROOT):
    """Folder of the TensorBoard logs."""
    return Path(output) / "runs" / dataset / f"nz{nz}"


def pretrained(dataset, nz):
    """The small checkpoint that ships with the repository."""
    return PRETRAINED / f"{dataset}_nz{nz}.pt"


def checkpoints(dataset, output=ROOT):
    """Every checkpoint at hand, {nz: path}; one trained (or downloaded) hides the one shipped, and one under `output`
    one under the repository's own model/params."""
    found = {path: re.fullmatch(rf"{dataset}_nz(\d+)\.pt", path.name) for path in PRETRAINED.glob("*.pt")}
    for folder in (params(dataset), params(dataset, output)):
        found |= {path: re.fullmatch(r"nz(\d+)", path.name) for path in folder.glob("nz*")}
    return {int(match[1]): path for path, match in found.items() if match}


@contextlib.contextmanager
def whole(path, mode="wb"):
    """Open a file for writing so that it appears under its name only when it is complete.

    Writes beside the target, flushes to disk and renames; on an exception the target is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove_unfinished(path):
    """Delete what processes that were killed inside whole() left beside a file."""
    path = Path(path)
    for aside in path.parent.glob(f".{path.name}.*.tmp"):
        aside.unlink(missing_ok=True)
