"""The state of a training run, which is what a checkpoint for --resume holds; reading and writing checkpoints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from model.vae import Model
from utils import paths
from utils.errors import UserError

ANEW = "start again with --force instead of --resume"  # the remedy for a full checkpoint that cannot be used
PAST = {"kl_warmup": 0, "likelihood": "logistic"}  # settings of earlier versions; other values cannot be resumed
_PARTS = ("model", "ema", "optimiser")
_FLAGS = {
    "kernel_size": "--kernel", "resdepth": "--blocks", "reswidth": "--width", "dropout_p": "--dropout",
    "images": "the number of training images",
    **{name: f"--{name}" for name in ("nz", "zchannels", "nprocessing", "seed", "batch", "precision")},
    "colour_transform": "--colour-transform",
}  # fmt: skip


@dataclass
class State:
    """Everything that a run needs in order to continue.

    identity: the settings that determine what a step computes. ema: the average of the model's weights. step: optimiser
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
        for group in entries["optimiser"]["param_groups"]:
            group["fused"] = True  # whichever form of Adam saved it
        for part in _PARTS:
            getattr(self, part).load_state_dict(entries[part])
        self.step, self.best, self.run = entries["step"], entries["best"], entries.get("run")
        self.tested, self.seconds = entries.get("tested", self.step), entries.get("seconds", 0.0)


class Files(NamedTuple):
    """What a run writes. best: the averaged weights with the best test ELBO, for the compression scripts. full: what
    --resume needs. runs: the folder of its TensorBoard folders. curves: the folder of its CSV files."""

    best: Path
    full: Path
    runs: Path
    curves: Path


def refuse_to_replace(best: Path, full: Path, resume: bool, force: bool) -> None:
    """Raise UserError if a run would replace the model of another one: its checkpoints `best` and `full`."""
    there = [path for path in (best, full) if path.exists()]
    if there and not force and not (resume and full.exists()):
        on = "continue with --resume, " if full.exists() else "" if not resume else f"{full} is absent; "
        raise UserError(
            f"{there[0]} exists: {on}choose another folder with --output, or replace it with --force "
            f"(--resume needs {full.name})"
        )


def save(entries: Mapping[str, Any], path: Path) -> None:
    """torch.save() of a whole file or of none. Raises UserError, naming file and reason, for example on a full disk."""
    with paths.replacing(path) as file:
        torch.save(entries, file)


def read_full(path: Path) -> dict[str, Any] | None:
    """The entries of a full checkpoint, among them the "identity" of its run; None if the file does not exist.

    Raises UserError if it cannot be read.
    """
    if not path.exists():
        print(f"{path} does not exist: starting from the beginning")
        return None
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
        entries["identity"]
    except Exception as error:  # torch.load may raise anything on a damaged file
        raise UserError(f"{path} is not a full checkpoint ({type(error).__name__}); {ANEW}") from error
    return entries


def load_full(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """As read_full(). Raises UserError also if the checkpoint belongs to a run with another identity.

    A precision of None, in `identity` or in an old checkpoint, stands for any.
    """
    entries = read_full(path)
    if entries is not None:
        saved, expected = PAST | {"precision": None} | entries["identity"], PAST | identity
        if None in (saved["precision"], expected["precision"]):
            expected["precision"] = saved["precision"]
        differing = [f"{_FLAGS.get(name, name)} {saved.get(name)} is now {value}" for name, value in expected.items()
                     if saved.get(name) != value]  # fmt: skip
        if differing:
            raise UserError(f"{path} is of another run ({', '.join(differing)}); use its settings, or {ANEW}")
    return entries
