"""What a training run is at any moment, which is what a checkpoint for --resume holds; reading and writing both."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.vae import Model
from utils import paths
from utils.cli import UserError

ANEW = "start anew with --force in place of --resume"  # what a full checkpoint that is of no use leaves


@dataclass
class State:
    """model, ema: Model, and the average of its weights. step: optimiser steps taken. tested: the step of the last
    test, 0 before the first. best: best ELBO, infinite before. run: number of its TensorBoard folder."""

    model: Model
    ema: Model
    optimiser: torch.optim.Optimizer
    step: int = 0
    tested: int = 0
    best: float = math.inf
    run: int | None = None


@dataclass(frozen=True)
class Files:
    """best: the averaged weights that tested best, for the compression scripts. full: all that --resume needs."""

    best: Path
    full: Path

    def __init__(self, dataset: str, nz: int, output: str | Path) -> None:
        best = paths.params(dataset, output) / f"nz{nz}"
        object.__setattr__(self, "best", best)
        object.__setattr__(self, "full", best.with_name(best.name + ".resume"))


def refuse_to_replace(best: Path, full: Path, resume: bool, force: bool) -> None:
    """Raise UserError where a run would replace the model of another one: its checkpoints `best` and `full`."""
    there = [path for path in (best, full) if path.exists()]
    if there and not force and not (resume and full.exists()):
        on = "go on with --resume, " if full.exists() else "" if not resume else f"{full} is absent; "
        raise UserError(
            f"{there[0]} is there already: {on}name another folder with --output, or replace it with --force "
            f"(--resume needs {full.name})"
        )


def save_full(path: Path, state: State, identity: dict[str, Any]) -> None:
    entries = {
        "model": state.model.state_dict(), "ema": state.ema.state_dict(), "optimiser": state.optimiser.state_dict(),
        "step": state.step, "tested": state.tested, "best": state.best, "run": state.run, "identity": identity,
    }  # fmt: skip
    save(entries, path)


def save(entries: Mapping[str, Any], path: Path) -> None:
    """torch.save() of a whole file, or of none; UserError, naming file and reason, as on a full disk."""
    with paths.replacing(path) as file:
        torch.save(entries, file)


def read_full(path: Path) -> dict[str, Any] | None:
    """The entries of the full checkpoint that --resume goes on from, or None where there is none; UserError where it
    cannot be read. "identity" is among them, the settings of its run."""
    if not path.exists():
        print(f"{path} does not exist: starting from the beginning")
        return None
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
        entries["identity"]
    except Exception as error:  # torch.load raises whatever the corruption happens to provoke
        raise UserError(f"{path} is not a full checkpoint ({type(error).__name__}); {ANEW}") from None
    return entries


def load_full(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """As read_full(), of a run of the paper's models.

    A precision of None in `identity` stands for whichever the run has had.
    Raises UserError, too, where the checkpoint belongs to a run with other settings than `identity`.
    """
    entries = read_full(path)
    if entries is None:
        return None
    saved = {"kl_warmup": 0} | entries["identity"]  # which checkpoints of before do not record
    # Checkpoints of before --precision was recorded have none.
    expected = {
        key: value for key, value in identity.items() if key != "precision" or None not in (value, saved.get(key))
    }
    differing = [f"{key} {saved.get(key)} is now {value}" for key, value in expected.items() if saved.get(key) != value]
    if differing:
        raise UserError(f"{path} is of another run ({', '.join(differing)}); use its settings, or {ANEW}")
    return entries
