"""Time training: full-size models, random images, with the functions that train.

Each row is a number of processes (several are started with torchrun, on one thread each) and a precision: steps and
images a second; seconds of all processors together that a step takes, which says what more processes cost where the
machine has other work as well; and in per cent of a step, where the time goes. "backward" includes averaging the
gradients over the processes. "overhead" is what Python does around forward and backward: gradient norm, weight
average, logging, and all that is in none of the columns. A GPU is waited for between the parts, but not for steps/s.
Prints a table and writes OUTPUT/benchmarks/training.csv.
"""

import contextlib
import copy
import csv
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from common import SETTINGS, full_size

from model import training
from model.logs import Log
from utils import cli, distributed, paths
from utils.cli import UserError
from utils.torch.modules import update_ema

PARTS = ["data", "forward", "backward", "optimiser", "gnorm", "EMA", "logging"]
COLUMNS = ["dataset", "nz", "batch", "precision", "processes", "threads", "steps/s", "images/s", "CPU-s/step"]
COLUMNS += [f"{part} %" for part in (*PARTS, "overhead")]


def build(settings, nz, job):
    """A full-size model, initialised from random images, and its optimiser and average, as training has them."""
    model = full_size(settings, nz).to(job.device)
    training.warm_up(model, np.random.default_rng(0).integers(0, 256, (4, 32, 32, settings.xs[0]), np.uint8))
    distributed.broadcast(job, model.state_dict().values())
    return model, training.adam(model, 2e-3), copy.deepcopy(model).requires_grad_(False)


class Stopwatch:
    """Seconds spent in each of PARTS. With timed=False it does nothing, so that a GPU need not be waited for."""

    def __init__(self, device, timed):
        self.device, self.timed = device, timed
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def now(self):
        if self.timed and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def part(self, name):
        began = self.now()
        yield
        self.seconds[name] += self.now() - began


def run_steps(job, model, ema, likelihoods, optimiser, loader, lengths, watch, log, dtype):
    """Take as many steps as there are batches, each as training does; returns the seconds they all took."""
    batches, sums, began = iter(loader), 0.0, watch.now()
    for step, length in enumerate(lengths, start=1):
        with watch.part("data"):
            x = next(batches).to(job.device, non_blocking=True)
        training.set_lr(optimiser, 2e-3)
        sample = training.seed_step(0, step, job, length)
        with watch.part("forward"):
            objective, loss, terms = training.forward(likelihoods, model.xs, job, x, length, sample, dtype)
        with watch.part("backward"):
            distributed.backward(objective, optimiser)
        with watch.part("gnorm"):
            gnorm = training.clip(model)
        with watch.part("optimiser"):
            distributed.step(optimiser)
        with watch.part("EMA"):
            update_ema(ema, model, step)
        with watch.part("logging"):
            sums += torch.cat((torch.stack((loss, gnorm)), terms))
            if log and step == len(lengths):
                loss, gnorm, *terms = (sums / len(lengths)).tolist()
                log.train(loss, training.by_tag(terms, model.nz), step, gnorm=gnorm)
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)
    return time.perf_counter() - began


def measure(job, dataset, nz, batch, steps, precision, workers, fp16, folder):
    """One row of the table, over all processes of the job."""
    settings = SETTINGS[dataset]
    model, optimiser, ema = build(settings, nz, job)
    model.train()
    likelihoods, optimiser = distributed.average_gradients(job, training.Likelihoods(model), optimiser, fp16)
    images = np.random.default_rng(1).integers(0, 256, (batch * steps, 32, 32, settings.xs[0]), np.uint8)
    batches = np.split(np.random.default_rng(2).permutation(len(images)), steps)
    shares = [indices[distributed.share(job, batch)] for indices in batches]
    log = Log(Path(folder) / "run", Path(folder) / "curves") if job.rank == 0 else None

    def run(count, timed):
        loader = training.batch_loader(images, shares[:count], workers, job.device)
        watch = Stopwatch(job.device, timed)
        distributed.barrier(job)
        parts = model, ema, likelihoods, optimiser, loader, [batch] * count
        took = run_steps(job, *parts, watch, log, training.DTYPES[precision])
        return took, watch.seconds

    run(1, False)  # allocates, and lets cuDNN choose
    cpu_began = time.process_time()
    took, seconds = run(steps, True)
    cpu = distributed.total(job, torch.tensor([time.process_time() - cpu_began]), "cpu").item()
    shares_of_step = {part: 100 * seconds[part] / took for part in PARTS}
    computing = sum(shares_of_step[part] for part in ("data", "forward", "backward", "optimiser"))
    if job.device.type == "cuda":
        took, _ = run(steps, False)
    if log:
        log.close()
    rates = steps / took, batch * steps / took, cpu / steps
    return (
        dataset, nz, batch, precision, job.size, torch.get_num_threads(), *rates,
        *(shares_of_step[part] for part in PARTS), 100 - computing,
    )  # fmt: skip


def measure_in_processes(count, argv, folder):
    """The rows that this benchmark gives in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [str(Path(__file__).resolve()), *argv, "--processes=1", f"--output={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise UserError(f"--processes={count}: {done.stderr.strip().splitlines()[-1]}")
    return read_rows(folder)


def read_rows(folder):
    with open(common.table_file(folder, "training"), newline="") as file:
        return [[number(cell) for cell in row] for row in list(csv.reader(file))[1:]]


def number(text):
    """What a cell of the CSV stands for: an int, a float or a word."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def show(row):
    print(
        "".join(
            f"{cell:{width(i)}.2f}" if isinstance(cell, float) else f"{cell:>{width(i)}}" for i, cell in enumerate(row)
        )
    )


def width(i):
    return len(COLUMNS[i]) + 2


@cli.script
def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.parser(__doc__)
    whole = cli.whole_number
    parser.add_argument("--dataset", choices=tuple(SETTINGS), default="mnist", help="whose full-size model")
    parser.add_argument("--nz", type=int, help="latent layers (default: the dataset's)")
    parser.add_argument("--batch", type=whole(1), help="images a step, all processes together (default: the dataset's)")
    parser.add_argument("--steps", type=whole(1), default=5, help="steps to time, after one that is not")
    parser.add_argument(
        "--precision", choices=tuple(training.DTYPES), nargs="+", default=["float32"], help="one row for each"
    )
    parser.add_argument("--processes", type=whole(1), nargs="+", default=[1], help="one row for each")
    parser.add_argument("--repeats", type=whole(1), default=1, help="rows of each kind, taken in turn")
    parser.add_argument("--workers", type=whole(0), default=0, help="processes that load data")
    parser.add_argument("--gpu", type=whole(-1, 1023), help="index of the GPU, -1 for the CPU (default: a GPU if any)")
    parser.add_argument("--no-fp16-allreduce", action="store_true", help="send gradients as float32")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which benchmarks/ is written")
    args = parser.parse_args(argv)
    settings = SETTINGS[args.dataset]
    nz, batch = args.nz or settings.nz, args.batch or settings.batch
    if nz not in settings.widths:
        depths = ", ".join(map(str, settings.widths))
        parser.error(f"--nz={nz} has no published width for {args.dataset}; the published depths are {depths}")
    job = distributed.start(gpu=args.gpu)
    if batch % job.size:
        raise UserError(f"--batch={batch} cannot be split evenly over {job.size} processes; take a multiple")
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stdout if job.rank == 0 else io.StringIO()),
    ):
        print(f"PyTorch {torch.__version__}, {job.device}, {os.cpu_count()} processors")
        show(COLUMNS)
        for _ in range(args.repeats):
            for processes in args.processes:
                for precision in args.precision:
                    if processes > 1:
                        flags = [*argv, "--repeats=1", f"--precision={precision}"]
                        rows += measure_in_processes(processes, flags, folder)
                    else:
                        rows.append(
                            measure(
                                job,
                                args.dataset,
                                nz,
                                batch,
                                args.steps,
                                precision,
                                args.workers,
                                not args.no_fp16_allreduce,
                                folder,
                            )
                        )
                    show(rows[-1])
    if job.rank == 0:
        with paths.replacing(common.table_file(args.output, "training"), "w") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    distributed.stop(job)


if __name__ == "__main__":
    main()
