"""Time the training of full-size models."""

import copy
import time

import common
import numpy as np
import torch
from common import SETTINGS

from model import training
from utils import cli, distributed
from utils.errors import UserError
from utils.torch.modules import update_ema

LR = 2e-3
COLUMNS = ["dataset", "nz", "batch", "precision", "processes", "threads", "steps/s", "images/s", "CPU-s/step"]
COLUMNS += ["network %"]

DESCRIPTION = """Time the training of a full-size model on random images, with the functions that train.

"CPU-s/step": seconds of a step on all processors together. "network %": the share of a step that its forward and
backward passes need, including the average of the gradients over the processes. The rest is loading, the limit on the
gradient, the optimiser and the average of the weights.

To time several processes, launch them as for training, for instance two processes of one thread each:
OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/training.py"""


def measure(job, args, nz, batch, precision):
    """A row of the table."""
    settings, dtype = SETTINGS[args.dataset], training.DTYPES[precision]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * args.steps, 32, 32, settings.xs[0]), np.uint8)
    batches = np.split(rng.permutation(len(images)), args.steps)
    shares = [indices[distributed.share(job, batch)] for indices in batches]
    model = common.full_size(settings, nz).to(job.device)
    training.warm_up(model, images[:4])
    distributed.broadcast(job, model.state_dict().values())
    ema, optimiser = copy.deepcopy(model), training.adam(model.train(), LR)
    objective = training.Objective(model, job, dtype)
    objective, optimiser = distributed.average_gradients(job, objective, optimiser, not args.no_fp16_allreduce)

    def train(step, x):
        sample = training.seed_step(0, step, job, batch)
        training.train_step(objective, optimiser, x, batch, sample)
        update_ema(ema, model, step)

    def network(step, x):
        sample = training.seed_step(0, step, job, batch)
        distributed.backward(objective(x, batch, sample)[0], optimiser)

    def seconds(function, shares):
        distributed.barrier(job)
        began = time.perf_counter()
        for step, x in enumerate(training.batch_loader(images, shares, args.workers, job.device), start=1):
            function(step, x)
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)
        return time.perf_counter() - began

    seconds(train, shares[:1])  # allocates memory, and lets cuDNN choose
    cpu_began = time.process_time()
    whole = seconds(train, shares)
    cpu = distributed.total(job, torch.tensor([time.process_time() - cpu_began]), "cpu").item()
    part = seconds(network, shares)
    rates = args.steps / whole, batch * args.steps / whole, cpu / args.steps
    return [args.dataset, nz, batch, precision, job.size, torch.get_num_threads(), *rates, 100 * part / whole]


@cli.script
def main():
    whole, parser = cli.whole_number, common.parser(DESCRIPTION, "training")
    parser.add_argument("--dataset", choices=tuple(SETTINGS), default="mnist", help="the dataset of the model")
    parser.add_argument("--nz", type=int, help="latent layers (default: the dataset's)")
    parser.add_argument("--batch", type=whole(1), help="images a step, of all processes (default: the dataset's)")
    parser.add_argument("--steps", type=whole(1), default=5, help="steps to time, after a first one")
    precisions = tuple(training.DTYPES)
    parser.add_argument("--precision", choices=precisions, nargs="+", default=precisions, help="a row for each")
    parser.add_argument("--repeats", type=whole(1), default=1, help="rows of each kind, in turn")
    parser.add_argument("--workers", type=whole(0), default=0, help="threads that load data")
    parser.add_argument("--gpu", type=whole(-1, 1023), help="index of the GPU, -1 for the CPU (default: any GPU)")
    parser.add_argument("--no-fp16-allreduce", action="store_true", help="send gradients as float32")
    args = parser.parse_args()
    settings = SETTINGS[args.dataset]
    nz, batch = args.nz or settings.nz, args.batch or settings.batch
    if nz not in settings.widths:
        depths = ", ".join(map(str, settings.widths))
        parser.error(f"--nz={nz} has no published width for {args.dataset}; the published depths are {depths}")
    if args.quick:
        batch, args.steps, args.precision = 4, 1, ["float32"]
    with distributed.joined("training", args.gpu) as job:
        if batch % job.size:
            raise UserError(f"--batch={batch} cannot be split evenly over {job.size} processes; choose a multiple")
        rows = (measure(job, args, nz, batch, each) for _ in range(args.repeats) for each in args.precision)
        if job.rank == 0:
            common.report("training", args.output, COLUMNS, rows, args.repeats * len(args.precision))
        else:
            list(rows)


if __name__ == "__main__":
    main()
