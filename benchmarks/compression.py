"""Time coding beside the network alone: full-size models with random weights, random images, in one run.

For each model: the bare forward passes that an image needs (every infer and generate once, on one batch of all
lanes), encoding and decoding, interleaved, the least of --repeats each; and peak memory. Prints a table and writes
OUTPUT/benchmarks/compression.csv.
"""

import csv
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import discretization
from model.vae import Model, log_likelihoods
from utils import bitsback, cli, experiment, paths
from utils.rans import Rans
from utils.torch.modules import fold_weight_norm, init_mode

FULL_SIZE = {  # the paper's models: xs, zchannels, width by nz
    "mnist": ((1, 32, 32), 1, {1: 64, 2: 63, 4: 62, 8: 61}),
    "cifar": ((3, 32, 32), 8, {1: 256, 2: 255, 4: 254, 8: 252}),
}
COLUMNS = ["dataset", "nz", "scheme", "lanes"]
COLUMNS += ["forward ms", "encode ms", "decode ms", "encode x", "decode x", "peak MB"]


def build(dataset, nz):
    """A full-size model with random weights, initialised from random images, and its conditionals."""
    xs, zchannels, widths = FULL_SIZE[dataset]
    torch.manual_seed(0)
    model = Model(xs, nz, zchannels, nprocessing=4, kernel_size=3, resdepth=8, reswidth=widths[nz]).eval()
    with torch.no_grad(), init_mode():
        log_likelihoods(model, torch.randint(0, 256, (4, *xs), dtype=torch.uint8))
    model = fold_weight_norm(model)
    dims = int(np.prod(model.zs))
    ranges = discretization.Ranges(np.full((nz - 1, dims), -12.0), np.full((nz - 1, dims), 12.0), 10, "", False)
    return model, bitsback.Conditionals(model, discretization.bins(model, ranges))


@torch.inference_mode()
def forward(model, x, z):
    """Every conditional of the model once: what coding an image cannot do without."""
    for i in range(model.nz):
        model.infer(i, z if i else x)
        model.generate(i, z)


def seconds(function, *args):
    """(seconds it took, what it returned)."""
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def measure(dataset, nz, lanes, scheme, repeats, images):
    """One row of the table; times are per image."""
    model, conditional = build(dataset, nz)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, lanes, *model.xs), np.uint8)
    x, z = torch.from_numpy(pixels[0]).float(), torch.randn(lanes, *model.zs)
    coder = Rans.from_words(experiment.initial_words(lanes, conditional, 0))
    schedule = bitsback.SCHEDULES[scheme](nz)
    forward(model, x, z)
    times = {"forward": [], "encode": [], "decode": []}
    for _ in range(repeats):
        for t in range(images):
            times["forward"].append(seconds(forward, model, x, z)[0])
            times["encode"].append(seconds(bitsback.encode, schedule, coder, conditional, pixels[t])[0])
        for t in reversed(range(images)):
            took, decoded = seconds(bitsback.decode, schedule, coder, conditional, lanes)
            times["decode"].append(took)
            assert (decoded == pixels[t]).all()
    bare, encode, decode = (1e3 * min(times[what]) / lanes for what in ("forward", "encode", "decode"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return dataset, nz, scheme, lanes, bare, encode, decode, encode / bare, decode / bare, peak


@cli.script
def main():
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", choices=tuple(FULL_SIZE), default="mnist", help="whose full-size model")
    parser.add_argument("--nz", type=int, choices=(1, 2, 4, 8), default=2, help="latent layers")
    parser.add_argument("--lanes", type=cli.whole_number(1), nargs="+", default=[100], help="lanes, one row for each")
    parser.add_argument("--scheme", choices=tuple(bitsback.SCHEDULES), default="bitswap", help="how to code")
    parser.add_argument("--repeats", type=cli.whole_number(1), default=3, help="how often to time everything")
    parser.add_argument("--images", type=cli.whole_number(1), default=1, help="images in each lane")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which benchmarks/ is written")
    args = parser.parse_args()
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; times in ms per image")
    print("".join(f"{column:>12}" for column in COLUMNS))
    rows = []
    for lanes in args.lanes:
        rows.append(measure(args.dataset, args.nz, lanes, args.scheme, args.repeats, args.images))
        print("".join(f"{cell:12.3f}" if isinstance(cell, float) else f"{cell:>12}" for cell in rows[-1]))
    with paths.whole(args.output / "benchmarks" / "compression.csv", "w") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
