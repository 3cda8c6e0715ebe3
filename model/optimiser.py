"""What every training needs: Adam, its learning rate, the limit on the gradient norm, signals that end a run."""

import argparse
import contextlib
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from utils.errors import UserError
from utils.published import LEAST_LR

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def adam(model: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """The optimiser of all parameters of a model, in the form that updates them in one compiled loop."""
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


def learning_rate(step: int, args: argparse.Namespace, decay_after: int, done: float, total: float) -> float:
    """The learning rate of a step, counted from 0.

    args: schedule, lr and decay of a training script. decay_after: steps before the decay starts. done, total: how much
    of the run has passed, in any unit, for the cosine.
    """
    if args.schedule == "cosine":
        return cosine(args.lr, done, total)
    if args.schedule == "1":
        return max(min(LEAST_LR, args.lr), args.lr * args.decay ** max(0, step - decay_after))
    return args.lr


def cosine(lr: float, done: float, total: float) -> float:
    """A learning rate that falls from lr to 0 as `done` rises from 0 to `total`."""
    return lr * 0.5 * (1 + math.cos(math.pi * done / total))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def clip(model: torch.nn.Module) -> torch.Tensor:
    """Scale the gradient down to norm 1 if it is longer; returns the norm it had."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def check_finite(loss: float, gnorm: float, step: int, full: Path) -> None:
    """Raise UserError if a loss or gradient norm is infinite or NaN after a step. full: the full checkpoint."""
    if not (math.isfinite(loss) and math.isfinite(gnorm)):
        on = "continue with --resume and" if full.exists() else "start again with"
        raise UserError(f"the loss is {loss} and the gradient norm {gnorm} after step {step}; {on} a lower --lr")


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Inside this context Ctrl-C, SIGTERM and SIGUSR1 only append their numbers to the list that this yields.

    A second Ctrl-C raises KeyboardInterrupt. Clusters send SIGTERM before they take a node away; mpiexec passes SIGUSR1
    on to its processes.
    """
    asked: list[int] = []

    def ask(number, frame):
        if number == signal.SIGINT:
            if signal.SIGINT in asked:
                raise KeyboardInterrupt
            print("\nstopping; press Ctrl-C again to stop at once", file=sys.stderr)
        asked.append(number)

    previous = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
