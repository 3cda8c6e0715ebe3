"""What every script shares at the command line: argument types, the choice of device, errors in one line."""

import argparse
import codecs
import contextlib
import functools
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import paths
from utils.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    import torch


class _Stream(io.TextIOWrapper):
    """stdout, which names itself in errors; or stderr, which ignores them: its messages must not end the work."""

    def write(self, text: str) -> int:
        with self._explained():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._explained():
            super().flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.fileno() != 2:
                error.filename = "standard output"
                raise


def _as_utf_8(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].encode(errors="surrogateescape"), error.end


def prepare_streams() -> None:
    """Make stdout and stderr fit to print anything, whatever the locale, and even if they are closed."""
    # Characters that the encoding lacks are printed in UTF-8, and names of files that are not UTF-8 byte by byte.
    codecs.register_error("as-utf-8", _as_utf_8)
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, as by >&-; else the next file that is opened would have this number
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            stream = _Stream(open(number, "wb", closefd=False), "utf-8")  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper:  # as Python made it; a test may have replaced it
            stream = _Stream(stream.buffer, stream.encoding)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="as-utf-8", line_buffering=True)
        setattr(sys, name, stream)


def script(main: Callable) -> Callable:
    """Decorate a script's main function: an error in flags or files becomes one line and exit status 1."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        prepare_streams()
        paths.remove_unfinished_at_signals()
        try:
            result = main(*args, **kwargs)
            sys.stdout.flush()  # here, to notice that the reader closed the pipe
            return result
        except BrokenPipeError:  # as in `... | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if (reason := _reason(error)) is None:
                raise
            print(f"{sys.argv[0]}: error: {reason}", file=sys.stderr)
            sys.exit(1)

    return run


def _reason(error: Exception) -> str | None:
    """What the user is told of an error; None if it is a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # refused by the system: a name too long, a file as a folder
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return "out of memory" if is_out_of_memory(error) else None


def printable(name: str | Path) -> str:
    """A file name as text that can be drawn: bytes that are not UTF-8 become question marks."""
    return os.fsencode(name).decode(errors="replace")


def counted(count: int, noun: str) -> str:
    """A number of things in words: "1 image", "2,000 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer that is at least `least`, and at most `most` if that is given."""
    condition = f"at least {least}" if most is None else f"{least} to {most}"
    return _number(int, "a whole number", condition, lambda value: least <= value and (most is None or value <= most))


def real_number(condition: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """An argparse type: a finite number for which `holds` is true; condition: the same in words."""
    return _number(float, "a number", condition, lambda value: math.isfinite(value) and holds(value))


def _number(convert, kind, condition, holds):
    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text} is out of range: {condition}")
        return value

    return parse


SEED = whole_number(0, 2**32 - 1)  # the range of NumPy's seeds
QUANTBITS = whole_number(2, 16)  # of the bins of latents
PRECISIONS = ("float32", "bfloat16")  # of the networks' bodies: see model.vae.for_inference()


def target(source: str | Path, to: str | Path | None, suffix: str) -> Path:
    """Where to write what is made from a file: to `to`, into it if it is a folder, or by default next to the source.

    Raises UserError if the name does not end in `suffix`.
    """
    path = Path(os.path.splitext(source)[0] + suffix)
    if to and os.path.isdir(to):
        path = Path(to) / path.name
    elif to:
        path = Path(to)
    if path.suffix.lower() != suffix:
        raise UserError(f"cannot write {path}: name a folder, or a file that ends in {suffix}")
    return path


def refuse_to_overwrite(path: str | Path, force: bool, source: str | Path | None = None) -> None:
    """Raise UserError if a file to write exists, unless --force is given, or is the one that is read."""
    exists = os.path.exists(path)  # unlike Path.exists(), False for a name that is too long
    if source is not None and exists and os.path.exists(source) and os.path.samefile(path, source):
        raise UserError(f"{path} is the file to be read; name another one with -o")
    if exists and not force:
        raise UserError(f"{path} is there already; name another one with -o, or overwrite it with --force")


@contextlib.contextmanager
def progress(desc: str) -> Iterator[Callable[[Iterable], Iterable]]:
    """A context with a wrapper of iterables that shows their progress and the time left.

    The bars end with the context, so that an error message starts on a new line. Without tqdm there are none.
    """
    from utils.progress import bar, tqdm

    with contextlib.ExitStack() as bars:
        yield (lambda steps: bars.enter_context(bar(steps, desc=desc, unit="step"))) if tqdm else iter


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose a checkpoint."""
    parser.add_argument("--nz", type=whole_number(1), help="latent layers (default: the most that a trained model has)")
    default = "model/params/<dataset>/nz<k>, or the one that ships"
    parser.add_argument("--checkpoint", help=f"a checkpoint, a file (default: {default})")


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose a checkpoint, its bins, the device it runs on and where everything is written."""
    add_model_arguments(parser)
    parser.add_argument("--quantbits", type=QUANTBITS, default=10, metavar="Q", help="2^Q bins, 2..16")
    parser.add_argument("--gpu", type=whole_number(-1), help="index of the GPU, -1 for the CPU (default: any GPU)")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, if any, and keep the line breaks of a description."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Reads ~ at the beginning of a path as the home folder, which a shell does not do in --output=~/x."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like that of argparse."""
        given = sys.argv[1:] if args is None else map(str, args)
        home = os.path.expanduser("~")
        at_home = [re.sub(r"^((?:--[^=]+=)?)~(?=/|$)", lambda match: match[1] + home, each) for each in given]
        return super().parse_known_args(at_home, namespace)


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser in the house style."""
    return Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def device(gpu: int | None) -> "torch.device":
    """The torch.device that --gpu names.

    gpu: None for a GPU if there is one, -1 for the CPU, otherwise the index of a CUDA device.
    Raises UserError if there is no such device.
    """
    import torch  # late, so that --help answers at once

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None:
        gpu = 0 if count else -1
    if gpu == -1:
        return torch.device("cpu")
    if not 0 <= gpu < count:
        found = f"this machine has {count}, numbered from 0" if count else "PyTorch sees no GPU here"
        raise UserError(f"--gpu={gpu}: {found}; use --gpu=-1 for the CPU")
    return cuda(gpu)


def cuda(index: int) -> "torch.device":
    """The GPU of an index, on which float32 means float32 from now on, and not TF32 as by PyTorch's default."""
    import torch

    backends: Any = torch.backends  # its annotations lack some of these
    backends.cudnn.conv.fp32_precision = "ieee"
    return torch.device("cuda", index)
