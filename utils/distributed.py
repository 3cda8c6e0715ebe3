"""The processes that work together, behind one small interface: one alone, Horovod, or torch.distributed.

The launcher decides. mpiexec: Horovod if it is installed, else torch.distributed; torchrun and srun: torch.distributed,
over NCCL on GPUs and Gloo on CPUs. PyTorch's DistributedDataParallel or Horovod's DistributedOptimizer averages the
gradients; both divide before they sum, so that nothing overflows in float16. All processes call every function but
share(), in the same order.
"""

import contextlib
import functools
import os
import re
import signal
import socket
import sys
import threading
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
from utils.errors import UserError

_T = TypeVar("_T")

TIMEOUT = timedelta(hours=1)  # rank 0 may have a large dataset to prepare while the others wait
GRACE = 0.5  # seconds in which Gloo's threads end; a process that ends before them may abort


class Launch(NamedTuple):
    """What a launcher says in the environment about this process. local: among the processes on its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str | None = None


class Backend(NamedTuple):
    """How processes communicate. broadcast overwrites a tensor with rank 0's; broadcast_object returns rank 0's value;
    the others are as the functions below of the same names."""

    name: str
    broadcast: Callable[[torch.Tensor], object]
    broadcast_object: Callable[[Any], Any]
    start_sum: Callable[[torch.Tensor, str], Callable[[], object]]
    average_gradients: Callable[[nn.Module, Optimizer, bool], tuple[nn.Module, Optimizer]]
    stop: Callable[[], object]


class Job(NamedTuple):
    """This process's place among those that work together, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    backend: Backend | None = None  # None: there is one process


# Launchers and the variables with rank, size, local rank and local size, in the order of precedence: torchrun may run
# under srun or mpiexec, and mpiexec under srun.
_LAUNCHERS = [
    ("torchrun", "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE"),
    ("mpiexec", "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("mpiexec", "PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS"),  # MPICH and Intel MPI
    # Not SLURM_NTASKS: a batch script has it too, in which nothing has been launched yet.
    ("srun", "SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID SLURM_STEP_TASKS_PER_NODE"),
]


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The Launch that the environment variables describe.

    Raises UserError if they describe several processes, but not the rank of this one.
    """
    alone, unclear = Launch(), None
    for launcher, names in _LAUNCHERS:
        values = [environment.get(name, "") for name in names.split()]
        if not (values[0] and values[1]):
            continue
        values[3] = re.sub(r"\(.*|,.*", "", values[3])  # srun's "8(x2),4": 8 on each of two nodes, 4 on the third
        if values[1] == "1":  # another launcher may tell of more: containers have variables of their own
            alone = Launch(launcher=alone.launcher or launcher)
        elif all(map(str.isdecimal, values)) and int(values[0]) < int(values[1]):
            rank, size, local_rank, local_size = map(int, values)
            return Launch(rank, size, local_rank, local_size, launcher)
        else:
            unclear = f"{names} are {values}"
    if unclear:
        raise UserError(f"{unclear}: they do not say which process this is; launch it with torchrun or mpiexec")
    return alone


@contextlib.contextmanager
def joined(what: str, gpu: int | None = None, dist: int | None = None) -> Iterator[Job]:
    """Inside this context, the Job of this process; only rank 0 prints, and first how the processes communicate.

    what: a word for the work. gpu: the --gpu flag, -1 for the CPU; by default the GPU of this process's local rank, if
    there are GPUs. dist: the --dist flag, 1 to require a launcher, 0 to refuse several processes, None for what was
    launched. Raises UserError if the flags do not agree with the launch.
    """
    place = launch()
    if dist and not place.launcher:
        raise UserError("--dist=1 requires a launcher: mpiexec -np N or torchrun --nproc-per-node N")
    if dist == 0 and place.size > 1:
        raise UserError(f"--dist=0 refuses several processes, and {place.launcher} launched {place.size} processes")
    if place.size == 1:
        print(f"{what} in one process")
        yield Job(device=cli.device(gpu))
        return
    device = device_of(gpu, place)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    reason = ""
    try:
        backend = _horovod(place, device) if place.launcher == "mpiexec" else _torch(place, device)
    except ImportError as error:
        reason, backend = f" ({error}; scripts/install_horovod.sh installs it)", _torch(place, device)
    job = Job(place.rank, place.size, device, backend)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if job.rank else sys.stdout):
        print(f"{what} in {place.size} processes, launched by {place.launcher}: {backend.name}{reason}")
        barrier(job)
        yield job
    barrier(job)
    backend.stop()


def device_of(gpu: int | None, place: Launch) -> torch.device:
    """The device of one of several processes. Raises UserError if --gpu names one GPU, or if there are too few."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu not in (None, -1):
        raise UserError(f"--gpu={gpu} is for one process; choose the GPUs of several with CUDA_VISIBLE_DEVICES")
    if gpu == -1 or count == 0:
        return torch.device("cpu")
    if 1 < count < place.local_size:
        raise UserError(f"{place.local_size} processes on this node and {count} GPUs; launch one process for each GPU")
    # A scheduler may show every process one GPU of its own. NCCL refuses if two processes share one.
    return cli.cuda(place.local_rank if count > 1 else 0)


def _horovod(place: Launch, device: torch.device) -> Backend:
    """Raises ImportError, saying why, if Horovod cannot be used."""
    try:
        import horovod
        import horovod.torch as hvd

        usable = hvd.mpi_built() and (device.type == "cpu" or hvd.nccl_built())
    except (ImportError, AttributeError, OSError) as error:  # it may have been built for another PyTorch
        raise ImportError(f"Horovod cannot be imported, {_first_line(error)}") from error
    if not usable:
        raise ImportError("Horovod was built without MPI or, for GPUs, without NCCL")
    hvd.init()
    if hvd.size() != place.size:
        raise UserError(f"Horovod sees {hvd.size()} of {place.size} processes: it needs its own MPI; use torchrun")

    def start_sum(tensor, name):
        handle = hvd.allreduce_async_(tensor, op=hvd.Sum, name=name)
        return lambda: hvd.synchronize(handle)

    def average_gradients(module, optimiser, fp16):
        compression = hvd.Compression.fp16 if fp16 else hvd.Compression.none
        ours = hvd.DistributedOptimizer(
            optimiser, list(module.named_parameters()), compression, gradient_predivide_factor=place.size
        )
        ours.load_state_dict(optimiser.state_dict())  # Horovod copies the settings only
        return module, ours

    return Backend(
        f"Horovod {horovod.__version__} over " + ("NCCL" if device.type == "cuda" else "MPI"),
        functools.partial(hvd.broadcast_, root_rank=0),
        # By default the name is the type of the value, which may differ between the processes.
        functools.partial(hvd.broadcast_object, root_rank=0, name="object"),
        start_sum,
        average_gradients,
        hvd.shutdown,
    )


def _torch(place: Launch, device: torch.device) -> Backend:
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    address, port = rendezvous(place)
    try:
        with _waiting(place, f"{address}:{port}"):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                "env://" if place.launcher == "torchrun" else f"tcp://{address}:{port}",
                rank=place.rank, world_size=place.size, timeout=TIMEOUT,
            )  # fmt: skip
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the {place.size} processes did not meet at {address}:{port} ({_first_line(error)}); "
            "set MASTER_ADDR to the first node and MASTER_PORT to a free port of it"
        ) from error

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
        functools.partial(dist.broadcast, src=0),
        broadcast_object,
        lambda tensor, name: dist.all_reduce(tensor, async_op=True).wait,
        average_gradients,
        stop,
    )


def rendezvous(place: Launch, environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port at which torch.distributed's processes meet: the environment's, or on one node a guess.

    Raises UserError if the processes are on several nodes and the environment names none.
    """
    address = environment.get("MASTER_ADDR")
    if not address and place.size > place.local_size:
        raise UserError("several nodes require MASTER_ADDR, the first one's name (mpiexec -x MASTER_ADDR=...)")
    # The same in all processes of a job, and hardly ever in two jobs on a node.
    jobs = [environment.get(name) for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID")]
    key = next(filter(None, jobs), str(os.getppid()) if place.size == place.local_size else "")
    port = 20000 + zlib.crc32(f"{key}.{environment.get('SLURM_STEP_ID')}".encode()) % 10000
    return address or "127.0.0.1", int(environment.get("MASTER_PORT") or port)


@contextlib.contextmanager
def _waiting(place: Launch, address: str) -> Iterator[None]:
    """Say for how many this process waits, if it waits for more than a moment. Meanwhile Ctrl-C ends it at once."""
    others = f"rank {place.rank} is waiting for {place.size - 1} more at {address}"
    timer = threading.Timer(10 if place.rank else 1, print, [others])
    timer.start()
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)  # PyTorch waits in C++, where Python does not see it
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        timer.cancel()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _contact() -> Iterator[None]:
    """Turn the error of a backend, when another process has ended, into one line."""
    try:
        yield
    except RuntimeError as error:  # HorovodInternalError is one
        if launch().size == 1:
            raise
        where = f"rank {launch().rank} on {socket.gethostname()}"
        raise UserError(f"{where} lost contact with the other processes ({_first_line(error)})") from error


@_contact()
def start_sum(job: Job, tensor: torch.Tensor, name: str) -> Callable[[], object]:
    """Start to replace a tensor by its sum over the processes; returns a function that waits for it.

    name: of this sum; no two that are under way may have the same.
    """
    return _contact()(job.backend.start_sum(tensor, name)) if job.backend else lambda: None


def total(job: Job, tensor: torch.Tensor, name: str = "total") -> torch.Tensor:
    """Replace a tensor by its sum over the processes; returns it."""
    start_sum(job, tensor, name)()
    return tensor


def barrier(job: Job) -> None:
    """Wait until all processes have called this."""
    total(job, torch.zeros(1), "barrier")


def in_turn(job: Job, function: Callable[[], _T]) -> _T:
    """Call a function on rank 0, then on the others, which find on the disk what rank 0 wrote; returns its result."""
    if job.rank == 0:
        result = function()
    barrier(job)
    if job.rank:
        result = function()
    return result


def share(job: Job, count: int) -> slice:
    """This process's part, a slice, of `count` images; parts are equal if `count` allows it, and may be empty."""
    return slice(count * job.rank // job.size, count * (job.rank + 1) // job.size)


@_contact()
def broadcast(job: Job, tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite every tensor with rank 0's."""
    if job.backend:
        for tensor in tensors:
            job.backend.broadcast(tensor)


@_contact()
def broadcast_object(job: Job, value: _T) -> _T:
    """Rank 0's value of a small object that can be pickled."""
    return job.backend.broadcast_object(value) if job.backend else value


def average_gradients(
    job: Job, module: nn.Module, optimiser: Optimizer, fp16: bool = False
) -> tuple[nn.Module, Optimizer]:
    """Average gradients over the processes, while backward() still computes others.

    module: its forward() returns what backward() starts from. fp16: send gradients as float16, half the traffic.
    Returns (module, optimiser) to be used instead, with backward() and step() below.
    """
    return job.backend.average_gradients(module, optimiser, fp16) if job.backend else (module, optimiser)


@_contact()
def backward(loss: torch.Tensor, optimiser: Optimizer) -> None:
    """loss.backward(); when this returns, every gradient is the mean over all processes."""
    optimiser.zero_grad()
    loss.backward()
    getattr(optimiser, "synchronize", lambda: None)()  # Horovod's


def step(optimiser: Optimizer) -> None:
    """optimiser.step(), with the gradients as they are now."""
    with getattr(optimiser, "skip_synchronize", contextlib.nullcontext)():  # else Horovod averages them again
        optimiser.step()
