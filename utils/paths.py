"""Where files are, how folders are listed, and how files are written whole or not at all.

All default paths start at the repository root, never at the current directory.
"""

import contextlib
import errno
import glob
import os
import platform
import re
import secrets
import signal
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

DATA = ROOT / "model" / "data"
PRETRAINED = ROOT / "model" / "pretrained"
_unfinished: set[Path] = set()  # what replacing() writes at this moment
_ASIDE = 40  # characters of a file's name in the name of the unfinished file, which may not be too long
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # another machine may use the same disk
NO_DATA = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # what systems add to archives and shared folders


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
    """Every checkpoint of a dataset, {nz: path}.

    The order of precedence: under `output`, under the repository's model/params, the one that ships.
    """
    found = {path: re.fullmatch(rf"{dataset}_nz(\d+)\.pt", path.name) for path in PRETRAINED.glob("*.pt")}
    for folder in (params(dataset), params(dataset, output)):
        found |= {path: re.fullmatch(r"nz(\d+)", path.name) for path in folder.glob("nz*")}
    return {int(match[1]): path for path, match in found.items() if match}


def list_files(folder: str | Path) -> tuple[list[str], int]:
    """The files in a folder and its sub-folders: their sorted paths relative to it, and how many others were left out.

    Left out are hidden files and what other systems add: `._*`, `__MACOSX` and the like. Links are followed, and each
    real folder is visited once. Raises OSError if a folder cannot be read.
    """

    def fail(error):  # by default os.walk() passes over a folder that it cannot read
        raise error

    names, hidden, seen = [], 0, set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        for file in files:
            name = os.path.relpath(os.path.join(parent, file), folder)
            if any(part.startswith(".") or part in NO_DATA for part in name.split(os.sep)):
                hidden += 1
            else:
                names.append(name)
    return sorted(names), hidden


def require_regular(path: str | Path) -> None:
    """Raise OSError if a path does not lead to a regular file: reading a pipe, a socket or a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextlib.contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is complete.

    Writes to a file next to the target, flushes it to disk and renames it. A symbolic link stays, and the file that it
    leads to is replaced. The new file gets the permissions of the old one. On an exception the old file stays.
    Deletes what killed processes left of the same file.
    Raises UserError, with the path and the reason, if the file cannot be written or is not a regular file.
    """
    with _explained(path):
        target, replaced = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(target)
        maker = f"{_HOST}.{os.getpid()}"  # the token is for containers, in which numbers of processes repeat
        aside = target.with_name(f".{target.name[:_ASIDE]}.{maker}.{secrets.token_hex(4)}.tmp")
    _unfinished.add(aside)
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
        _unfinished.discard(aside)


def _remove_unfinished(target: Path) -> None:
    """Delete the unfinished files that killed processes of this machine left next to a file."""
    for aside in target.parent.glob(f".{glob.escape(target.name[:_ASIDE])}.{_HOST}.*.*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            try:
                os.kill(_process_of(aside), 0)  # changes nothing, but fails if there is no such process
            except ProcessLookupError:
                aside.unlink()


def _process_of(aside: Path) -> int:
    return int(aside.name.split(".")[-3])


def remove_unfinished_at_signals() -> None:
    """Let SIGTERM and SIGHUP delete the files that replacing() has not finished, before they end this process."""

    def end(number, _):
        for aside in _unfinished:
            if _process_of(aside) == os.getpid():  # not those of the process that this one was forked from
                aside.unlink(missing_ok=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, end)


def check_writable(*files: str | Path) -> None:
    """Raise UserError, as replacing() would, if one of these files cannot be written; change nothing.

    Called before long work starts. Does not look at the free space of the disk.
    """
    for path in files:
        with _explained(path):
            _try_folder(_target(path)[0].parent)


def check_folder_writable(*folders: str | Path) -> None:
    """Like check_writable(), for files in these folders under --output, which need not exist yet."""
    for folder in folders:
        with _explained(folder, remedy="; name another folder with --output"):
            _try_folder(Path(os.path.realpath(folder)))


def _target(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """The file to replace, with links followed, and its os.stat_result, or None if it does not exist."""
    try:
        found = os.stat(path)  # before realpath(), which turns /dev/stdout into a name without a file
    except FileNotFoundError:
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UserError(f"cannot write {path}: it is a folder, a device, a pipe or a socket, not a regular file")
    return Path(os.path.realpath(path)), found


def _try_folder(folder: Path) -> None:
    """Raise OSError if no file can be made in a folder, or in the nearest existing one above it."""
    while folder != folder.parent:
        with contextlib.suppress(FileNotFoundError):  # not other errors, such as a name that is too long
            os.lstat(folder)
            break
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):  # os.access() says yes to root everywhere
        pass


@contextlib.contextmanager
def _explained(path: str | Path, aside: Path | None = None, remedy: str = "") -> Iterator[None]:
    """Turn an error of writing into a UserError that names the path. aside: the file that is written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if aside is not None and getattr(error, "filename", None) not in (None, str(aside)):
            raise  # of another file, which was read meanwhile
        reason = getattr(error, "strerror", None) or (aside and _why_not(aside))
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {reason}{remedy}") from None


def _why_not(aside: Path) -> str | None:
    """The reason why no more can be written to a file, or None: some errors of NumPy and PyTorch lack it."""
    try:
        with open(aside, "ab", buffering=0) as file:
            file.write(bytes(4096))  # may be written in part
            file.write(bytes(4096))
    except OSError as error:
        return error.strerror
    return None
