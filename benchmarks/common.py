"""What the benchmarks share: the full-size models, clocks, flags, tables on paper and on disk."""

import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, paths
from utils.published import SETTINGS

MODELS = {f"{name}{nz}": (name, nz) for name in ("mnist", "cifar") for nz in SETTINGS[name].widths}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def full_size(settings, nz):
    """The paper's Model of a dataset, with random weights. settings: of utils.published."""
    import torch  # late, here and below, so that --help answers at once, and memory.py sees what PyTorch takes

    from model.vae import Model

    torch.manual_seed(0)
    return Model(
        settings.xs, nz, settings.zchannels, nprocessing=4, kernel_size=3, resdepth=8, reswidth=settings.widths[nz],
        dropout_p=settings.dropout, conditional_scale=settings.conditional_scale,
    )  # fmt: skip


def unfolded(name):
    """A full-size model with random weights, initialised from random images. name: one of MODELS."""
    import torch

    from model.vae import log_likelihoods
    from utils.torch.modules import init_mode

    dataset, nz = MODELS[name]
    network = full_size(SETTINGS[dataset], nz).eval()
    with torch.no_grad(), init_mode():
        log_likelihoods(network, torch.randint(0, 256, (4, *network.xs), dtype=torch.uint8))
    return network


def shipped(name):
    """The small trained model that ships, unfolded. name: one of MODELS."""
    from model import checkpoints

    return checkpoints.load(paths.pretrained(*MODELS[name]), MODELS[name][0]).model


def model(name):
    """What unfolded() gives, folded."""
    from utils.torch.modules import fold_weight_norm

    return fold_weight_norm(unfolded(name))


def form(network, name):
    """One form of an unfolded model: in a precision of utils.cli.PRECISIONS, or "exact"."""
    import torch

    from model.make_exact import make
    from model.vae import for_inference

    if name != "exact":
        return for_inference(network, name)
    return make(network, torch.randint(0, 256, (4, *network.xs), dtype=torch.uint8), two_passes="heads")


def conditionals(network):
    """The Conditionals of a form of a model, with 2^10 bins that any random weights can do with."""
    import numpy as np

    import discretization
    from codec.conditionals import Conditionals, FloatNetwork
    from model.exact import ExactModel

    shape = network.nz - 1, int(np.prod(network.zs))
    ranges = discretization.Ranges(np.full(shape, -12.0), np.full(shape, 12.0), 10, "", False)
    adapter = network if isinstance(network, ExactModel) else FloatNetwork(network)
    return Conditionals(adapter, discretization.bins(network, ranges))


def parser(description, csv_name):
    """A parser with the flags of all benchmarks; csv_name: the file that they write."""
    parser = cli.parser(f"{description}\n\nPrints a table and writes OUTPUT/benchmarks/{csv_name}.csv.")
    parser.add_argument("--quick", action="store_true", help="the least of everything: a test that it runs")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which benchmarks/ is written")
    return parser


def add_clock(parser):
    """Add --clock, for what is timed."""
    what = "cpu: processor time, for one thread (OMP_NUM_THREADS=1) on a machine that is shared"
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help=what)


def least(calls, seconds, clock):
    """{name: the least time of calls[name]() in seconds}: each in turn, for `seconds` each and three times at least."""
    now, times, began = CLOCKS[clock], {name: [] for name in calls}, time.perf_counter()
    while len(times[next(iter(calls))]) < 3 or time.perf_counter() - began < seconds * len(calls):
        for name, call in calls.items():
            start = now()
            call()
            times[name].append(now() - start)
    return {name: min(each) for name, each in times.items()}


def table_file(output, name):
    """The path of a table."""
    return Path(output) / "benchmarks" / f"{name}.csv"


def report(name, output, columns, rows, total):
    """Print rows as they come, with a progress bar, and write them. rows: an iterable of `total` rows."""
    from tqdm import tqdm

    widths = [max(10, len(column) + 2) for column in columns]

    def line(cells):
        shown = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return "".join(f"{cell:>{width}}" for cell, width in zip(shown, widths, strict=True))

    print(line(columns), flush=True)
    done = []
    with tqdm(total=total, unit="row", leave=False, disable=None, dynamic_ncols=True) as bar:
        for row in rows:
            done.append(row)
            bar.write(line(row))
            bar.update()
    path = table_file(output, name)
    with paths.replacing(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *done])
    print(f"written to {path}\n", flush=True)
