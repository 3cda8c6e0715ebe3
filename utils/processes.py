"""Work that is dealt to the processes of a job (utils.distributed): joining them, dealing, gathering.

Item i of a list goes to process i modulo their number, as cards are dealt: a list that is sorted by length is dealt
evenly, and stays sorted. Gathering is to be called by all processes, in the same order.
"""

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from utils.errors import UserError

if TYPE_CHECKING:  # PyTorch is imported where it is needed, so that --help answers at once
    from utils.distributed import Job


class _Alone(NamedTuple):
    """All that is asked of a distributed.Job where there is one process."""

    rank: int = 0
    size: int = 1
    backend: None = None


ALONE = cast("Job", _Alone())


@contextlib.contextmanager
def joined(args: argparse.Namespace, what: str) -> Iterator["Job"]:
    """Inside this context, the Job of this process among those that were launched together; only rank 0 prints.

    args: the command line, of which gpu becomes the device of the job. what: they do, in a word, "coding" for one.
    """
    from utils import distributed

    if distributed.launch().size == 1:
        yield ALONE
        return
    job = distributed.start(gpu=args.gpu, what=what)
    args.gpu = job.device.index if job.device.type == "cuda" else -1
    with contextlib.ExitStack() as silence:
        if job.rank:
            nowhere = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
        yield job
    distributed.stop(job)


def refuse_several(what: str) -> None:
    """Raise UserError where several processes were launched for what one does: each would do it all."""
    from utils import distributed

    place = distributed.launch()
    if place.size > 1:
        raise UserError(
            f"{what} takes one process, which uses threads; {place.launcher} launched {place.size}: start one"
        )


def deal(job: "Job", items: Any) -> Any:
    """This process's share of a list or an array."""
    return items[job.rank :: job.size]


def check_enough(job: "Job", count: int, what: str) -> None:
    """Raise UserError where some process would get none of `count` items. what: they are called."""
    if count < job.size:
        raise UserError(f"{job.size} processes were launched for {count} {what}; launch at most {count}")


def gather(job: "Job", share: np.ndarray, count: int) -> np.ndarray:
    """The whole array [count, ...], on every process, of which each has its share, dealt by the first axis.

    Raises UserError where another process has ended.
    """
    if job.size == 1:
        return share
    whole = np.zeros((count, *share.shape[1:]), share.dtype)
    deal(job, whole)[:] = share
    _add_up(job, whole)
    return whole


def gather_words(job: "Job", share: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The whole list, on every process, of `count` uint32 arrays of any lengths, of which each has its share."""
    if job.size == 1:
        return list(share)
    lengths = gather(job, np.array([len(words) for words in share], np.int64), count)
    flat = np.zeros(lengths.sum(), np.int64)  # which both backends can add up
    whole = np.split(flat, np.cumsum(lengths)[:-1])
    for place, words in zip(deal(job, whole), share, strict=True):
        place[:] = words
    _add_up(job, flat)
    return [words.astype(np.uint32) for words in whole]


def _add_up(job, array):
    """Replace an array by its sum over the processes."""
    import torch

    from utils import distributed

    distributed.total(job, torch.from_numpy(array))


def slowest(job: "Job", seconds: float) -> float:
    """The most of what the processes took."""
    return gather(job, np.array([seconds]), job.size).max()
