"""The seam between training and the processes it runs on. Training calls these functions at every point where
several processes would have to agree; at present there is one process, which agrees with itself.
"""

from typing import NamedTuple

from utils.cli import UserError


class Job(NamedTuple):
    """This process's place among those that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def start(dist):
    """Join the other processes of this job. dist: the --dist flag, 1 to train on several processes."""
    if dist:
        raise UserError("--dist=1: training on several processes is not implemented yet; leave --dist out")
    return Job()


def broadcast(job, model, optimiser):
    """Give every process rank 0's parameters and optimiser state, in place."""
    assert job.size == 1


def average_gradients(job, model):
    """Replace every gradient by its mean over the processes, in place."""
    assert job.size == 1


def total(job, values):
    """The sum over the processes of a tensor."""
    assert job.size == 1
    return values
