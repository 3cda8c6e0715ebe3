"""Make the checkpoints that ship under model/pretrained: train them, and store them with their bins and exact forms.

One recipe per dataset, in which only the number of latent layers differs. Training continues from where it stopped, so
this script can be stopped and started again at any time; a model that is trained already is only stored. Weights are
stored as float16 if that changes the test ELBO by at most TOLERANCE.

Reads   the datasets under --data
Writes  runs/pretrained/                             everything that training writes
        model/pretrained/<dataset>_nz<k>.{pt,bins.npz,exact.npz}
        docs/results/checkpoints.csv                 the size and the test ELBO in bits/dim of each checkpoint
"""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, datasets, paths
from utils.tables import write_csv

SHARED = "--blocks=4 --dropout=0 --schedule=cosine --precision=bfloat16"
SMALL = "--width=32 --nprocessing=2"
RECIPES = {  # dataset: (numbers of latent layers, flags)
    "mnist": ((1, 2, 4, 8), f"{SMALL} --batch=32 --epochs=5 --test-every=1"),
    "cifar": (
        (1, 2, 4, 8),
        "--width=48 --nprocessing=1 --colour-transform --batch=16 --lr=1e-2 --epochs=16 --test-every=1",
    ),
    "imagenet": ((1, 2, 4), f"{SMALL} --batch=16 --lr=3e-3 --epochs=24 --test-every=6"),
    "imagenetcrop": (
        (4,),
        "--zchannels=4 --width=48 --nprocessing=1 --colour-transform --batch=16 --lr=1e-2 --crops=16 --epochs=50 "
        "--test-every=5",
    ),
}
JOBS = [f"{dataset}:{nz}" for dataset, (depths, _) in RECIPES.items() for nz in depths]
TOLERANCE = 0.0005  # bits/dim
QUANTBITS = 10
OUTPUT = paths.ROOT / "runs" / "pretrained"
TABLE = paths.ROOT / "docs" / "results" / "checkpoints.csv"
COLUMNS = ("dataset", "nz", "parameters", "bytes", "test ELBO", "with float16 weights", "in integers")


def train(dataset, nz, data):
    """Train one checkpoint to the end of its recipe."""
    flags = shlex.split(f"--nz={nz} {SHARED} {RECIPES[dataset][1]}")
    script = paths.ROOT / "model" / f"{dataset}_train.py"
    subprocess.run([sys.executable, script, *flags, "--resume", "--data", data, "--output", OUTPUT], check=True)


def store(dataset, path, data):
    """Store a trained checkpoint with its bins and its exact form; returns its row of the table."""
    import torch

    import discretization
    from model import checkpoints, exact, make_exact
    from utils.torch.modules import fold_weight_norm

    test = make_exact.sample_images(dataset, "test", data, 10_000)

    def elbo(form, images=test):
        rates = [make_exact.bits_per_dim(form, pixels, i) for i, pixels in enumerate(images.split(250))]
        return torch.cat(rates).double().mean().item()

    model = checkpoints.load(path, dataset).model
    state = model.state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    rates = [elbo(fold_weight_norm(form)) for form in (model, type(model).from_state_dict(half))]
    target = paths.pretrained(dataset, model.nz)
    checkpoints.save(half if abs(rates[1] - rates[0]) <= TOLERANCE else state, target)

    stored = checkpoints.load(target, dataset)
    files = [target, stored.bins_files(QUANTBITS)[0], stored.exact_files()[0]]
    images = datasets.load(dataset, "train", data)
    discretization.save(discretization.sample_ranges(stored.model, images, QUANTBITS, stored.identity), files[1])
    calibration = make_exact.sample_images(dataset, "train", data, make_exact.CALIBRATION)
    integers = make_exact.make(stored.model, calibration, stored.identity)
    exact.save(files[2], integers)
    few = test[:500]  # integers are slower
    rates.append(rates[1] + elbo(make_exact.in_floats(integers), few) - elbo(fold_weight_norm(stored.model), few))
    real = datasets.padding(dataset)
    size = sum(file.stat().st_size for file in files)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (dataset, model.nz, parameters, size, *(f"{rate * real:.5f}" for rate in rates))


def record(row):
    """Put a row into the table, in place of an earlier row of the same checkpoint."""
    with open(TABLE, newline="") as file:
        rows = {f"{old[0]}:{old[1]}": old for old in csv.reader(file)} | {f"{row[0]}:{row[1]}": row}
    write_csv(TABLE, COLUMNS, (rows[job] for job in JOBS if job in rows))


@cli.script
def main():
    """Train and store every checkpoint that the flags name."""
    parser = cli.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=JOBS, metavar="DATASET:NZ", default=JOBS, help="some of them")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    args = parser.parse_args()
    for dataset, nz in (job.split(":") for job in args.only):
        train(dataset, nz, args.data)
        row = store(dataset, paths.params(dataset, OUTPUT) / f"nz{nz}", args.data)
        record(row)
        print(dict(zip(COLUMNS, row, strict=True)))


if __name__ == "__main__":
    main()
