"""Where everything lies. All paths hang from the repository root, never from the current directory."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

DATA = ROOT / "model" / "data"
PRETRAINED = ROOT / "model" / "pretrained"


def params(dataset: str, output: str | Path = ROOT) -> Path:
    """Folder of the checkpoints trained on a dataset, one file nz<k> per number of latent layers."""
    return Path(output) / "model" / "params" / dataset


def results(dataset: str, nz: int, output: str | Path = ROOT) -> Path:
    """Folder of the result arrays and training curves that the figures are drawn from."""
    return Path(output) / "plots" / f"{dataset}{nz}"


def bitstreams(dataset: str, nz: int, output: str | Path = ROOT) -> Path:
    """Folder of the compressed test sets."""
    return Path(output) / "bitstreams" / f"{dataset}{nz}"


def bins(output: str | Path = ROOT) -> Path:
    """Folder of the cached latent ranges (see discretization.py)."""
    return Path(output) / "bins"


def runs(dataset: str, nz: int, output: str | Path = ROOT) -> Path:
    """Folder of the TensorBoard logs."""
    return Path(output) / "runs" / dataset / f"nz{nz}"


def pretrained(dataset: str, nz: int) -> Path:
    """The small checkpoint that ships with the repository."""
    return PRETRAINED / f"{dataset}_nz{nz}.pt"


def checkpoints(dataset: str, output: str | Path = ROOT) -> dict[int, Path]:
    """Every checkpoint at hand, {nz: path}; one trained (or downloaded) hides the one shipped, and one under `output`
    one under the repository's own model/params."""
    found = {path: re.fullmatch(rf"{dataset}_nz(\d+)\.pt", path.name) for path in PRETRAINED.glob("*.pt")}
    for folder in (params(dataset), params(dataset, output)):
        found |= {path: re.fullmatch(r"nz(\d+)", path.name) for path in folder.glob("nz*")}
    return {int(match[1]): path for path, match in found.items() if match}


def list_files(folder: str | Path) -> list[str]:
    """The paths of all files in a folder and its sub-folders, relative to it and sorted; links are followed.

    Every real folder is visited once, however many links lead to it, and under a name without links where it has one.
    Raises OSError where a folder cannot be read.
    """

    def fail(error):  # by default os.walk() passes over a folder that it cannot read
        raise error

    names, seen, starts = [], set(), [str(folder)]
    for start in starts:  # which grows by the links that are found
        for parent, folders, files in os.walk(start, onerror=fail):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            names += [os.path.relpath(os.path.join(parent, file), folder) for file in files]
            starts += sorted(path for each in folders if os.path.islink(path := os.path.join(parent, each)))
    return sorted(names)


@contextlib.contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing so that it appears under its name only when it is complete.

    Writes beside the target, flushes to disk and renames. A symbolic link stays, and what it leads to is replaced; a
    file that is replaced hands on its permissions. On an exception the target is left as it was.
    Raises UserError, naming the file and the reason, where it cannot be written or is no regular file.
    """
    with _explained(path):
        target, replaced = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.exists()  # raises where the name is too long, which that of the file aside need not be
    aside = target.with_name(f".{_short(target.name)}.{os.getpid()}.tmp")
    try:
        with _explained(path, aside):
            with open(aside, mode) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replaced is not None:
                os.chmod(aside, stat.S_IMODE(replaced.st_mode))
            os.replace(aside, target)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_unfinished(path: str | Path) -> None:
    """Delete what processes that were killed inside replacing() left beside a file."""
    path = Path(os.path.realpath(path))
    for aside in path.parent.glob(f".{glob.escape(_short(path.name))}.*.tmp"):
        aside.unlink(missing_ok=True)


def check_writable(*files: str | Path) -> None:
    """Raise UserError, as replacing() would, where one of these files cannot be written; changes nothing.

    To be asked before the work starts. Room on the disk is not looked at.
    """
    for path in files:
        with _explained(path):
            target, _ = _target(path)
            _try_folder(target.parent, target.name)


def check_folder_writable(*folders: str | Path) -> None:
    """As check_writable(), for files that are yet to be named in these folders, which may be absent.

    These hang from --output, of which the error reminds.
    """
    for folder in folders:
        with _explained(folder, remedy="; name another folder with --output"):
            _try_folder(Path(os.path.realpath(folder)))


def _target(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """What is to be replaced, links followed, and its os.stat_result, None where it is absent."""
    try:
        found = os.stat(path)  # before realpath(), which makes of /dev/stdout the name of no file
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
        raise UserError(f"cannot write {path}: it is {kind}, no regular file")
    return Path(os.path.realpath(path)), found


def _try_folder(folder: Path, name: str = "") -> None:
    """Raise OSError where a file of that name could not be made in a folder that may be absent."""
    absent = [name]
    while not folder.exists() and folder != folder.parent:
        absent.append(folder.name)
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):  # os.access() says yes to root everywhere
        pass
    if max(len(os.fsencode(each)) for each in absent) > os.pathconf(folder, "PC_NAME_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _short(name: str) -> str:
    """The name for a file aside: room is left for what is put around it."""
    return name if len(os.fsencode(name)) <= 200 else hashlib.sha256(os.fsencode(name)).hexdigest()


@contextlib.contextmanager
def _explained(path: str | Path, aside: Path | None = None, remedy: str = "") -> Iterator[None]:
    """Turn what goes wrong with writing into a UserError that names the path.

    aside: the file that is written. NumPy and PyTorch raise errors that do not tell the reason (OSError "1000
    requested and 0 written", RuntimeError "unexpected pos"): then writing a little more tells it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        named = getattr(error, "filename", None)
        if named is not None and aside is not None and named != str(aside):
            raise  # of another file, which was read meanwhile
        reason = getattr(error, "strerror", None) or (aside and _why_not(aside))
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}{remedy}") from None


def _why_not(aside: Path) -> str | None:
    """The reason why no more can be written to a file, or None."""
    try:
        with open(aside, "ab", buffering=0) as file:
            for _ in range(1024):
                file.write(bytes(4096))
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror
    return None
