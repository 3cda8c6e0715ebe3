"""The processes that train together, behind one small interface: alone, with Horovod, or with torch.distributed.

Which of them is chosen by how the process was launched. mpiexec: Horovod where it is installed, torch.distributed
where it is not; torchrun and srun: torch.distributed, over NCCL on GPUs and Gloo on CPUs. Gradients are averaged by
PyTorch's DistributedDataParallel or by Horovod's DistributedOptimizer; either divides before it sums, so that nothing
overflows in float16. Every function but share() is to be called by all processes, in the same order.

A long module, as there are four launchers and two libraries to get along with.
"""

import contextlib
import functools
import os
import re
import socket
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from utils import cli
from utils.cli import UserError

_T = TypeVar("_T")

TIMEOUT = timedelta(hours=1)  # rank 0 may have a large data set to prepare while the others wait
GRACE = 0.5  # seconds in which Gloo's threads end; a process that ends before they have may abort


class Launch(NamedTuple):
    """What a launcher says in the environment about this process. local: among the processes on its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str | None = None


class Backend(NamedTuple):
    """broadcast(tensor) overwrites a tensor with rank 0's; broadcast_object(value) returns rank 0's value.
    start_sum(tensor, name) starts to overwrite a tensor with its sum over the processes and returns a function that
    waits for that; no two sums under way have the same name. average_gradients: as the function of that name."""

    name: str
    broadcast: Callable[[torch.Tensor], object]
    broadcast_object: Callable[[Any], Any]
    start_sum: Callable[[torch.Tensor, str], Callable[[], object]]
    average_gradients: Callable[[nn.Module, Optimizer, bool], tuple[nn.Module, Optimizer]]
    stop: Callable[[], object]


class Job(NamedTuple):
    """This process's place among those that train together, and the device that it trains on."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = torch.device("cpu")
    backend: Backend | None = None  # None where there is one process


# Launchers and the variables in which they tell rank, size, local rank and local size, in the order in which they
# count: torchrun may run under srun or mpiexec, and mpiexec under srun.
_LAUNCHERS = {
    "torchrun": [("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")],
    "mpiexec": [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH and Intel MPI
    ],
    # Not SLURM_NTASKS, which stands in a batch script as well, where nothing has been launched yet.
    "srun": [("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")],
}


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The Launch that the environment variables tell of.

    Raises UserError where they tell of several processes but not where this one stands among them.
    """
    alone, problem = Launch(), None
    for launcher, conventions in _LAUNCHERS.items():
        for names in conventions:
            values: list[Any] = [environment.get(name) for name in names]
            if None in values[:2]:
                continue
            if values[1] == "1":  # says little: a container may set it once and for all
                alone = Launch(launcher=alone.launcher or launcher)
            elif None in values:
                absent = ", ".join(name for name, value in zip(names, values, strict=True) if value is None)
                problem = f"{names[1]} is {values[1]}, but {absent} not set; launch with torchrun or mpiexec"
            else:
                if launcher == "srun":  # "8(x2),4": eight on each of two nodes, four on the third
                    values[3] = re.sub(r"\D.*", "", values[3])
                try:
                    rank, size, local_rank, local_size = map(int, values)
                    return Launch(rank, size, local_rank, local_size, launcher)
                except ValueError:
                    problem = f"{', '.join(names)} are {', '.join(values)}, which are not all numbers"
    if problem:
        raise UserError(problem)
    return alone


def start(dist: int | None = None, gpu: int | None = None, what: str = "training") -> Job:
    """Join the other processes of this job, and say in one line on rank 0 how.

    dist: the --dist flag, 1 to require a launcher, 0 to refuse several processes, None for what was launched.
    gpu: the --gpu flag, -1 for the CPU; by default the GPU of this process's local rank, if there are any.
    what: the processes do, in a word.
    Returns a Job. Raises UserError where the flags and the launch do not agree.
    """
    place = launch()
    if dist and not place.launcher:
        raise UserError(
            "--dist=1: this process was launched on its own; start it with mpiexec -np N or torchrun --nproc-per-node N"
        )
    if place.size == 1:
        job = Job(device=cli.device(gpu))
        print(f"{what} in one process")
        return job
    if dist == 0:
        raise UserError(
            f"--dist=0: {place.launcher} launched {place.size} processes, which would all train the same model over "
            f"the same files; leave --dist=0 out, or start one process without {place.launcher}"
        )
    device = device_of(gpu, place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    reason = None
    if place.launcher == "mpiexec":
        backend, reason = _horovod(place, device)
    if place.launcher != "mpiexec" or reason:
        backend = _torch(place, device)
    job = Job(place.rank, place.size, place.local_rank, device, backend)
    if job.rank == 0:
        nodes = "" if place.size == place.local_size else f" ({place.local_size} on this node)"
        reason = f" ({reason})" if reason else ""
        print(f"{what} in {place.size} processes{nodes}, launched by {place.launcher}: {backend.name}{reason}")
    barrier(job)
    return job


def device_of(gpu: int | None, place: Launch) -> torch.device:
    if gpu == -1:
        return torch.device("cpu")
    if gpu is not None:
        raise UserError(
            f"--gpu={gpu}: each of {place.size} processes takes the GPU of its rank; leave --gpu out and choose the "
            "GPUs with CUDA_VISIBLE_DEVICES, or use --gpu=-1 for the CPU"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return torch.device("cpu")
    if count == 1:  # a scheduler may show every process a GPU of its own; that two share one, NCCL finds out
        return torch.device("cuda", 0)
    if place.local_size > count:
        raise UserError(f"{place.local_size} processes on this node and {count} GPUs; launch one process for each GPU")
    return torch.device("cuda", place.local_rank)


def _horovod(place: Launch, device: torch.device) -> tuple[Any, str | None]:
    """(Backend, None), or (None, why Horovod cannot be used)."""
    remedy = "scripts/install_horovod.sh installs it"
    try:
        import horovod
        import horovod.torch as hvd

        if not hvd.mpi_built():
            return None, f"Horovod is built without MPI; {remedy}"
        if device.type == "cuda" and not hvd.nccl_built():
            return None, f"Horovod is built without NCCL; {remedy} with --gpu"
    except ModuleNotFoundError as error:
        missing = "installed" if error.name == "horovod" else f"complete: {error.name} is missing"
        return None, f"Horovod is not {missing}; {remedy}"
    except (ImportError, AttributeError, OSError) as error:  # built for another PyTorch, say
        return None, f"Horovod cannot be imported, {_first_line(error)}; {remedy}"
    hvd.init()
    if hvd.size() != place.size:
        raise UserError(
            f"mpiexec launched {place.size} processes and Horovod sees {hvd.size()}: it was built with another MPI; "
            "put the mpiexec of that one first on PATH, or use torchrun"
        )

    def start_sum(tensor, name):
        handle = hvd.allreduce_async_(tensor, op=hvd.Sum, name=name)
        return lambda: hvd.synchronize(handle)

    def average_gradients(module, optimiser, fp16):
        compression = hvd.Compression.fp16 if fp16 else hvd.Compression.none
        ours = hvd.DistributedOptimizer(
            optimiser, list(module.named_parameters()), compression, gradient_predivide_factor=place.size
        )
        ours.load_state_dict(optimiser.state_dict())  # Horovod takes over the settings only
        return module, ours

    name = f"Horovod {horovod.__version__} over " + ("NCCL" if device.type == "cuda" else "MPI")
    # The default name is that of the type of the value, which may differ between the processes.
    broadcast_object = functools.partial(hvd.broadcast_object, root_rank=0, name="object")
    return Backend(
        name, lambda tensor: hvd.broadcast_(tensor, 0), broadcast_object, start_sum, average_gradients, hvd.shutdown
    ), None


def _torch(place: Launch, device: torch.device) -> Backend:
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    address, port = rendezvous(place)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, f"tcp://{address}:{port}" if place.launcher != "torchrun" else "env://",
            rank=place.rank, world_size=place.size, timeout=TIMEOUT,
        )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the {place.size} processes did not meet at {address}:{port} ({_first_line(error)}); "
            "set MASTER_ADDR to the first node and MASTER_PORT to a free port of it"
        ) from None

    def broadcast_object(value):
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def average_gradients(module, optimiser, fp16):
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # they are copied
        module = torch.nn.parallel.DistributedDataParallel(module)
        if fp16:
            module.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return module, optimiser

    def stop():
        dist.destroy_process_group()
        time.sleep(GRACE)

    return Backend(
        "torch.distributed over " + ("NCCL" if device.type == "cuda" else "Gloo"),
        lambda tensor: dist.broadcast(tensor, 0),
        broadcast_object,
        lambda tensor, name: dist.all_reduce(tensor, async_op=True).wait,
        average_gradients,
        stop,
    )


def rendezvous(place: Launch, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port at which torch.distributed's processes meet: the environment's, or on one node a free guess."""
    address = environment.get("MASTER_ADDR")
    port: str | int | None = environment.get("MASTER_PORT")
    if not address and place.size > place.local_size:
        raise UserError(
            f"MASTER_ADDR is not set, and the {place.size} processes are on several nodes; set it to the first one's "
            "name (mpiexec -x MASTER_ADDR=... with Open MPI), or launch with torchrun or Horovod"
        )
    if not port:
        # The same in all processes of a job, and in two jobs on a node hardly ever.
        keys = (environment.get(name) for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID"))
        key = next(filter(None, keys), None) or (str(os.getppid()) if place.size == place.local_size else "")
        port = 20000 + zlib.crc32(f"{key}.{environment.get('SLURM_STEP_ID')}".encode()) % 10000
    return address or "127.0.0.1", int(port)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _contact() -> Iterator[None]:
    """Turn what a backend raises, when another process has ended, into one line."""
    try:
        yield
    except RuntimeError as error:  # Horovod's own error is one
        raise UserError(
            f"rank {launch().rank} on {socket.gethostname()} lost contact with the other processes "
            f"({_first_line(error)}): one of them has ended, and said why if it could; "
            "start them again (training goes on with --resume)"
        ) from None


def stop(job: Job) -> None:
    """Leave the job, once all processes have come this far."""
    if job.backend:
        barrier(job)
        job.backend.stop()


def start_sum(job: Job, tensor: torch.Tensor, name: str) -> Callable[[], object]:
    """Start to replace a tensor by its sum over the processes; returns a function that waits for it.

    name: of this sum; no two that are under way may have the same.
    """
    if job.backend is None:
        return lambda: None
    with _contact():
        wait = job.backend.start_sum(tensor, name)

    def finish():
        with _contact():
            wait()

    return finish


def total(job: Job, tensor: torch.Tensor, name: str = "total") -> torch.Tensor:
    """The sum over the processes of a tensor, in place; returns it."""
    start_sum(job, tensor, name)()
    return tensor


def barrier(job: Job) -> None:
    """Wait until all processes have come this far."""
    total(job, torch.zeros(1), "barrier")


def in_turn(job: Job, function: Callable[[], _T]) -> _T:
    """Call a function on rank 0, then on the first rank of each other node, then on all the rest.

    What an earlier one leaves on a disk the later ones find there. Returns what the function returned here.
    """
    turn = 0 if job.rank == 0 else 1 if job.local_rank == 0 else 2
    for current in range(3 if job.backend else 1):
        if current == turn:
            result = function()
        barrier(job)
    return result


def share(job: Job, count: int) -> slice:
    """This process's part, a slice, of `count` images; parts are equal where `count` allows, and may be empty."""
    return slice(count * job.rank // job.size, count * (job.rank + 1) // job.size)


def any_of(job: Job, flag: object) -> Callable[[], bool]:
    """Start to ask whether any process has a flag set; returns a function that waits for the answer."""
    votes = torch.tensor([float(bool(flag))])
    finish = start_sum(job, votes, "any")

    def answer():
        finish()
        return votes.item() > 0

    return answer


def broadcast(job: Job, tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite every tensor of an iterable with rank 0's."""
    if job.backend:
        for tensor in tensors:
            with _contact():
                job.backend.broadcast(tensor)


def broadcast_object(job: Job, value: _T) -> _T:
    """Rank 0's value of a small object that can be pickled."""
    if job.backend is None:
        return value
    with _contact():
        return job.backend.broadcast_object(value)


def average_gradients(
    job: Job, module: nn.Module, optimiser: Optimizer, fp16: bool = False
) -> tuple[nn.Module, Optimizer]:
    """Have gradients averaged over the processes, while backward() still computes others.

    module: its forward() gives what backward() starts from. fp16: send them as float16, half the traffic.
    Returns (module, optimiser) to be used in their places, with backward() and step() below.
    """
    return job.backend.average_gradients(module, optimiser, fp16) if job.backend else (module, optimiser)


def backward(loss: torch.Tensor, optimiser: Optimizer) -> None:
    """loss.backward(); when this returns, every gradient is the mean of all processes'."""
    optimiser.zero_grad()
    with _contact():
        loss.backward()
        getattr(optimiser, "synchronize", lambda: None)()  # Horovod's


def step(optimiser: Optimizer) -> None:
    """optimiser.step(), with the gradients as they are now."""
    with getattr(optimiser, "skip_synchronize", contextlib.nullcontext)():  # Horovod's would average them once more
        optimiser.step()
