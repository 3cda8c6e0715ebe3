"""Dealing work to the processes of a job (utils.distributed), and gathering their results.

Process r of n does the items r, r + n, r + 2n ... of a list, as cards are dealt: a list that is sorted by length is
dealt evenly, and stays sorted. Gathering is called by all processes, in the same order.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from utils.errors import UserError

if TYPE_CHECKING:  # PyTorch is imported where it is needed, so that --help answers at once
    from utils.distributed import Job


ALONE = cast("Job", SimpleNamespace(rank=0, size=1, backend=None))  # what coding needs of the Job of one process


@contextlib.contextmanager
def joined(args: argparse.Namespace, what: str) -> Iterator["Job"]:
    """Inside this context, the Job of this process among those that were launched together; only rank 0 prints.

    args: the command line; its gpu becomes the device of the job. what: a word for the work, such as "coding".
    """
    from utils import distributed

    if distributed.launch().size == 1:
        yield ALONE
        return
    with distributed.joined(what, args.gpu) as job:
        args.gpu = job.device.index if job.device.type == "cuda" else -1
        yield job


def refuse_several(what: str) -> None:
    """Raise UserError if several processes were launched for work that one does, since each would do all of it."""
    from utils import distributed

    place = distributed.launch()
    if place.size > 1:
        raise UserError(f"{what} runs in one process, with threads; {place.launcher} launched {place.size}: start one")


def deal(job: "Job", items: Any) -> Any:
    """This process's share of a list or an array."""
    return items[job.rank :: job.size]


def check_enough(job: "Job", count: int, what: str) -> None:
    """Raise UserError if there are more processes than items. what: a word for the items."""
    if count < job.size:
        raise UserError(f"{job.size} processes were launched for {count} {what}; launch at most {count}")


def gather(job: "Job", share: np.ndarray, count: int) -> np.ndarray:
    """The whole array [count, ...], on every process, from the shares that were dealt along the first axis.

    Raises UserError if another process has ended.
    """
    if job.size == 1:
        return share
    import torch

    from utils import distributed

    whole = np.zeros((count, *share.shape[1:]), share.dtype)
    deal(job, whole)[:] = share
    distributed.total(job, torch.from_numpy(whole))
    return whole


def gather_words(job: "Job", share: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The whole list, on every process, of `count` uint32 arrays of any lengths, from the shares that were dealt."""
    lengths = gather(job, np.array([len(words) for words in share], np.int64), count)
    padded = np.zeros((len(share), lengths.max(initial=0)), np.int64)  # a type that both backends can add
    for row, words in zip(padded, share, strict=True):
        row[: len(words)] = words
    return [row[:length].astype(np.uint32) for row, length in zip(gather(job, padded, count), lengths, strict=True)]


def slowest(job: "Job", seconds: float) -> float:
    """The longest of the times that the processes took."""
    return gather(job, np.array([seconds]), job.size).max()
