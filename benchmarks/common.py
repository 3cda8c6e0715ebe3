"""What the benchmarks share: full-size models, clocks, flags, and tables on the screen and on disk."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, paths, progress
from utils.published import SETTINGS
from utils.tables import write_csv

MODELS = {f"{name}{nz}": (name, nz) for name in ("mnist", "cifar") for nz in SETTINGS[name].widths}
FORMS = ("float32", "bfloat16", "exact")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
QUANTBITS, LIMIT = 10, 12.0  # bins of the latents: 2^QUANTBITS from -LIMIT to LIMIT


def full_size(settings, nz):
    """The paper's Model of a dataset, with random weights. settings: those of utils.published."""
    import torch  # late, so that --help answers at once

    from model.vae import Model

    torch.manual_seed(0)
    return Model(
        settings.xs, nz, settings.zchannels, nprocessing=4, kernel_size=3, resdepth=8, reswidth=settings.widths[nz],
        dropout_p=settings.dropout, conditional_scale=settings.conditional_scale,
    )  # fmt: skip


def random_model(name):
    """A full-size model with random weights, initialised from random images. name: one of MODELS."""
    import torch

    from model.vae import log_likelihoods
    from utils.torch.modules import init_mode

    dataset, nz = MODELS[name]
    model = full_size(SETTINGS[dataset], nz).eval()
    with torch.no_grad(), init_mode():
        log_likelihoods(model, torch.randint(0, 256, (4, *model.xs), dtype=torch.uint8))
    return model


def shipped_model(name):
    """The small trained model that ships. name: one of MODELS."""
    import torch

    from model.vae import Model

    return Model.from_state_dict(torch.load(paths.pretrained(*MODELS[name]), weights_only=True))


def form(model, name):
    """A model as it compresses. name: one of FORMS."""
    import torch

    from model.make_exact import make
    from model.vae import for_inference

    if name != "exact":
        return for_inference(model, name)
    return make(model, torch.randint(0, 256, (4, *model.xs), dtype=torch.uint8), two_passes="heads")


def bins(model):
    """Bins for any random weights."""
    import numpy as np

    import discretization

    shape = model.nz - 1, int(np.prod(model.zs))
    ranges = discretization.Ranges(np.full(shape, -LIMIT), np.full(shape, LIMIT), QUANTBITS, "")
    return discretization.bins(model, ranges)


def parser(description, csv_name):
    """A parser with the flags of all benchmarks. csv_name: the name of the table that they write."""
    parser = cli.parser(f"{description}\n\nPrints a table and writes OUTPUT/benchmarks/{csv_name}.csv.")
    parser.add_argument("--quick", action="store_true", help="run the smallest case only, as a test that it runs")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which benchmarks/ is written")
    return parser


def add_clock(parser):
    """Add the flag --clock."""
    what = "cpu: processor time; for one thread (OMP_NUM_THREADS=1) on a machine that others use too"
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help=what)


def add_models(parser, default):
    """Add the flag --models."""
    what = f"models, by dataset and number of latent layers: {', '.join(MODELS)}"
    parser.add_argument("--models", choices=tuple(MODELS), nargs="+", default=default, metavar="MODEL", help=what)


def table_file(output, name):
    """The path of a table."""
    return Path(output) / "benchmarks" / f"{name}.csv"


def save_figure(figure, output, name):
    """Write a figure next to the tables."""
    path = table_file(output, name).with_suffix(".png")
    with paths.replacing(path) as file:
        figure.savefig(file, format="png", dpi=200)
    print(f"wrote {path}")


def report(name, output, columns, rows, total):
    """Print rows as they come, with a progress bar, and write them. rows: an iterable of `total` rows."""
    widths = [max(10, len(column) + 2) for column in columns]

    def line(cells):
        shown = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return "".join(f"{cell:>{width}}" for cell, width in zip(shown, widths, strict=True))

    print(line(columns), flush=True)
    done = []
    with progress.bar(total=total, unit="row", leave=False, disable=None) as bar:
        for row in rows:
            done.append(row)
            bar.write(line(row))
            bar.update()
    print(f"wrote {write_csv(table_file(output, name), columns, done)}", flush=True)
