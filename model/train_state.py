"""The state of a training run, which is what a checkpoint for --resume holds; reading and writing checkpoints."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoints import save
from model.vae import Model
from utils import paths
from utils.errors import UserError
from utils.locks import locked

_PARTS = ("model", "ema", "optimiser")
_FLAGS = {
    "kernel_size": "--kernel", "resdepth": "--blocks", "reswidth": "--width", "dropout_p": "--dropout",
    "images": "the number of training images",
}  # fmt: skip


@dataclass
class State:
    """Everything that a run needs in order to continue.

    identity: the settings that a resumed run must have, too. ema: the average of the model's weights. step: optimiser
    steps taken. seconds: wall time from the first step on, tests included. tested: the step of the last test, 0 before
    the first. best: the best test ELBO, infinite before the first. run: number of the TensorBoard folder.
    """

    identity: dict[str, Any]
    model: Model
    ema: Model
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    tested: int = 0
    best: float = math.inf
    run: int | None = None

    def save(self, path: Path) -> None:
        """Write the full checkpoint."""
        save(vars(self) | {part: getattr(self, part).state_dict() for part in _PARTS}, path)

    def load(self, entries: dict[str, Any]) -> None:
        """Continue from the entries of a full checkpoint, the identity excepted."""
        for part in _PARTS:
            getattr(self, part).load_state_dict(entries[part])
        for name in ("step", "seconds", "tested", "best", "run"):
            setattr(self, name, entries[name])


@contextlib.contextmanager
def claim(best: Path, full: Path, resume: bool, force: bool) -> Iterator[None]:
    """Inside this context no other run writes these checkpoints: a model, and what --resume needs.

    Raises UserError if this run cannot write them, or if it would replace the model of another one.
    """
    paths.check_writable(best, full)
    with locked(full):
        there = [path for path in (best, full) if path.exists()]
        if there and not force and not (resume and full.exists()):
            raise UserError(
                f"{there[0]} exists: continue with --resume, which requires {full.name}; choose another folder with "
                "--output; or replace it with --force"
            )
        yield


def load_full(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entries of a full checkpoint, among them the "identity" of its run; None if the file does not exist.

    identity: settings that the run must have. Raises UserError if it has others, or if the file cannot be read.
    """
    if not path.exists():
        print(f"{path} does not exist: starting from the beginning")
        return None
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
        saved = entries["identity"]
    except Exception as error:  # torch.load may raise anything on a damaged file
        problem = f"{path} is not a full checkpoint ({type(error).__name__})"
        raise UserError(f"{problem}; start again with --force instead of --resume") from error
    names = {name: _FLAGS.get(name, "--" + name.replace("_", "-")) for name in identity}
    differing = [f"{names[name]} {saved.get(name)} is now {value}" for name, value in identity.items()
                 if saved.get(name) != value]  # fmt: skip
    if differing:
        problem = f"{path} is of another run ({', '.join(differing)})"
        raise UserError(f"{problem}; use its settings, or start again with --force instead of --resume")
    return entries
