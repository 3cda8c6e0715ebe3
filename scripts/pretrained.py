"""Make the checkpoints that ship under model/pretrained: train them, and store them with their bins and exact forms.

One recipe a dataset, in which only the number of latent layers differs. Training goes on where it was broken off, so
this can be stopped and started again at any time; what is trained already is only stored. Weights are stored as float16
where that moves the test ELBO by no more than TOLERANCE.

Reads   the datasets under --data
Writes  runs/pretrained/                             everything that training writes
        model/pretrained/<dataset>_nz<k>.{pt,bins.npz,exact.npz}
        docs/results/checkpoints.csv                 of each checkpoint its size and its test ELBO in bits/dim
"""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, datasets, paths

SHARED = "--width=32 --blocks=4 --nprocessing=2 --dropout=0 --schedule=cosine --precision=bfloat16"
RECIPES = {  # dataset: (numbers of latent layers, flags)
    "mnist": ((1, 2, 4, 8), "--batch=32 --epochs=5 --test-every=1"),
    "cifar": ((1, 2, 4, 8), "--batch=32 --epochs=4 --test-every=1"),
    "imagenet": ((1, 2, 4), "--batch=16 --lr=3e-3 --epochs=24 --test-every=6"),
    "imagenetcrop": ((4,), "--zchannels=4 --batch=32 --colour-transform --crops=16 --epochs=27"),
}
TOLERANCE = 0.0005  # bits/dim
QUANTBITS = 10
COLUMNS = ("dataset", "nz", "parameters", "bytes", "test ELBO", "with float16 weights", "in integers")


def arguments():
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("jobs", nargs="*", metavar="DATASET:NZ", help="which ones (default: all)")
    parser.add_argument("--no-train", action="store_true", help="only store what is trained")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    args = parser.parse_args()
    every = [f"{dataset}:{nz}" for dataset, (depths, _) in RECIPES.items() for nz in depths]
    for job in args.jobs:
        if job not in every:
            parser.error(f"{job} is none of {' '.join(every)}")
    args.jobs = [job.split(":") for job in args.jobs or every]
    return args


def train(dataset, nz, data):
    """Train one checkpoint to the end of its recipe; returns its path."""
    output = paths.ROOT / "runs" / "pretrained"
    flags = shlex.split(f"--nz={nz} {SHARED} {RECIPES[dataset][1]}")
    script = paths.ROOT / "model" / f"{dataset}_train.py"
    subprocess.run([sys.executable, script, *flags, "--resume", "--data", data, "--output", output], check=True)
    return trained(dataset, nz)


def trained(dataset, nz):
    """Where training leaves a checkpoint."""
    return paths.params(dataset, paths.ROOT / "runs" / "pretrained") / f"nz{nz}"


def store(dataset, path, data):
    """Store a trained checkpoint with its bins and its exact form; returns its row of the table."""
    import torch

    import discretization
    from model import checkpoints, exact, make_exact
    from utils.torch.modules import fold_weight_norm

    def elbo(form):
        rates = [make_exact.bits_per_dim(form, pixels, i) for i, pixels in enumerate(test.split(250))]
        return torch.cat(rates).double().mean().item()

    test = make_exact.sample_images(dataset, "test", data, 10_000)
    model, _ = checkpoints.load(path)
    state = model.state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    rounded = type(model).from_state_dict(half)
    rates = [elbo(fold_weight_norm(form)) for form in (model, rounded)]
    if abs(rates[1] - rates[0]) <= TOLERANCE:
        state = half
    target = paths.pretrained(dataset, model.nz)
    with paths.replacing(target) as file:
        torch.save(state, file)

    model, identity = checkpoints.load(target)
    ranges = discretization.sample_ranges(model, datasets.load(dataset, "train", data), QUANTBITS, identity)
    discretization.save(ranges, target.with_suffix(".bins.npz"))
    calibration = make_exact.sample_images(dataset, "train", data, make_exact.CALIBRATION)
    integers = make_exact.from_checkpoint(target, model, identity, calibration)
    exact.save(target.with_suffix(".exact.npz"), integers)
    few = test[:500]  # integers take longer
    change = (make_exact.bits_per_dim(make_exact.in_floats(integers, model), few)
              - make_exact.bits_per_dim(fold_weight_norm(model), few)).mean().item()  # fmt: skip
    height, width, channels = datasets.SHAPES.get(dataset, (32, 32, 3))
    per_real_dimension = test[0].numel() / (height * width * channels)
    figures = [rate * per_real_dimension for rate in (*rates, rates[1] + change)]
    parameters = sum(p.numel() for p in model.parameters())
    size = sum(target.with_suffix(suffix).stat().st_size for suffix in (".pt", ".bins.npz", ".exact.npz"))
    return (dataset, model.nz, parameters, size, *(f"{figure:.5f}" for figure in figures))


def record(row):
    """Put a row into the table, in place of an earlier one of the same checkpoint."""
    path = paths.ROOT / "docs" / "results" / "checkpoints.csv"
    rows = {}
    if path.exists():
        with open(path, newline="") as file:
            rows = {(old[0], int(old[1])): old for old in list(csv.reader(file))[1:]}
    rows[row[0], row[1]] = row
    order = list(RECIPES)
    with paths.replacing(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), key[1])))


@cli.script
def main():
    """Train and store every checkpoint that the flags name."""
    args = arguments()
    for dataset, nz in args.jobs:
        if not args.no_train:
            train(dataset, nz, args.data)
        path = trained(dataset, nz)
        if not path.exists():
            raise cli.UserError(f"{path} does not exist; leave out --no-train")
        row = store(dataset, path, args.data)
        record(row)
        print(dict(zip(COLUMNS, row, strict=True)))


if __name__ == "__main__":
    main()
