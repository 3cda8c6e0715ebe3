"""Draw what x and each latent layer add to the ELBO over training (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

One panel per trained model: rows are datasets, columns numbers of latent layers. The areas add up to the ELBO on the
test set, in bits/dim: at the bottom x given z1, then each layer's share (bits under the generative model less bits got
back from the inference model), z1 first. MNIST per dimension of the 28x28 images, not of the padded 32x32.

Reads   RESULTS/<dataset><nz>/x.csv, z1.csv ... z<nz>.csv, header "Wall time,Step,Value": Step is the epoch, Value in
        bits per dimension as the model sees it. Where a run was trained in parts, its curves may be in parts too:
        x1.csv, z11.csv, z21.csv ... are the first part of x, z1, z2 ..., and x2.csv, z12.csv, z22.csv ... the second
        (so z12.csv is part 2 of z1 if there is an x1.csv, and latent layer 12 if there is not). A part counts up to
        the epoch at which the next begins. The training scripts write the curves.
Writes  OUTPUT/stackplot.pdf, vector, and OUTPUT/stackplot.png, 300 dpi; the name says what --dataset and --nz chose:
        stackplot_mnist4.pdf, stackplot_mnist.pdf, stackplot_nz4.pdf. On stdout, each model's last ELBO.
"""

import csv
import math
import re
import sys
from pathlib import Path

import numpy as np

from utils import cli, figures

HEADER = ["Wall time", "Step", "Value"]
CURVE = re.compile(r"[xz]\d*\.csv")


def command(dataset, nz):
    """The command that trains a model and so writes its curves."""
    return f"python model/{dataset}_train.py --nz={nz}"


def read(path):
    """The rows of one CSV of TensorBoard's form, [(step, value)], in the file's order."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            if next(lines, None) != HEADER:
                raise cli.UserError(f"{path}: does not begin with the line {','.join(HEADER)}")
            rows = []
            for line in filter(None, lines):
                try:
                    _, step, value = map(float, line)
                except ValueError:
                    raise cli.UserError(f"{path}, line {lines.line_num}: not three numbers") from None
                if not (math.isfinite(step) and math.isfinite(value)):
                    raise cli.UserError(f"{path}, line {lines.line_num}: not finite")
                rows.append((step, value))
    except FileNotFoundError:
        raise cli.UserError(f"{path} is missing, while others of its curves are there") from None
    except OSError as error:
        raise cli.UserError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise cli.UserError(f"{path}: not a CSV file ({error})") from None
    if not rows:
        raise cli.UserError(f"{path}: no values")
    return rows


def splice(rows):
    """One curve from the rows of its parts in order, {step: value}, steps increasing.

    Where the steps go back, a new part begins, and what came before is cut at the step where it does.
    """
    curve = []
    for step, value in rows:
        while curve and curve[-1][0] >= step:
            curve.pop()
        curve.append((step, value))
    return dict(curve)


def load(folder, nz):
    """Read a model's curves, whole or in parts.

    Returns (epochs [T], values [1 + nz, T]): x, z1, ..., z<nz>, in the files' units, at the epochs that all have.
    """
    there = {path.name for path in Path(folder).iterdir() if CURVE.fullmatch(path.name)}
    parts = [""]
    if "x1.csv" in there:
        parts = range(1, 1 + sum(name.startswith("x") and name != "x.csv" for name in there))
    names = {variable: [f"{variable}{part}.csv" for part in parts] for variable in variables(nz)}
    strangers = there.difference(*names.values())
    if strangers:
        expected = f"x.csv, z1.csv ... z{nz}.csv" if parts == [""] else f"x, z1 ... z{nz} in {len(parts)} part(s)"
        raise cli.UserError(f"{Path(folder) / min(strangers)} does not belong here: expected {expected}")
    curves = [splice(row for name in files for row in read(Path(folder) / name)) for files in names.values()]
    epochs = sorted(set(curves[0]).intersection(*curves[1:]))
    if not epochs:
        raise cli.UserError(f"{folder}: the curves have no epoch in common")
    return np.array(epochs), np.array([[curve[epoch] for epoch in epochs] for curve in curves])


def variables(nz):
    """x, z1, ..., z<nz>."""
    return ["x", *(f"z{i}" for i in range(1, nz + 1))]


def colours(deepest):
    """A colour for each of x, z1, ..., z<deepest>, the same in every panel: pale grey, then along viridis.

    The first layers, which have most of the bits, lie furthest apart.
    """
    import matplotlib

    viridis = matplotlib.colormaps["viridis"]
    return ["#E3E3E3", *(viridis((i / max(deepest - 1, 3)) ** 0.7) for i in range(deepest))]


def draw_panel(axes, epochs, values, palette):
    """Draw one model's areas: epochs [T], values [1 + nz, T] in bits/dim."""
    tops = np.cumsum(values, axis=0)  # [1 + nz, T]
    bottoms = np.vstack([np.zeros_like(epochs), tops[:-1]])
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, tops[-1], color="black", lw=0.8, marker=marker, ms=3, zorder=3, label="ELBO")
    for i, (bottom, top) in enumerate(zip(bottoms, tops, strict=True)):
        axes.fill_between(epochs, bottom, top, color=palette[i], lw=0, label=f"$z_{{{i}}}$" if i else "$x$")
        axes.plot(epochs, bottom, color="white", lw=0.2)
    axes.set_xlim(epochs[0] if len(epochs) > 1 else 0, max(1, epochs[-1]))
    axes.locator_params("x", nbins=6)
    figures.remark(axes, 0.98, 0.98, f"ELBO {tops[-1, -1]:.2f} at epoch {epochs[-1]:g}", ha="right", va="top")


def upper_limit(models):
    """The top of a row's y-axis: above the ELBOs, with room for a remark, but for those of the first epochs."""
    return 1.15 * max(np.quantile(values.sum(axis=0), 0.95) for _, values in models)


def draw(models):
    """The figure, from {(dataset, nz): (epochs, values)}; returns it and the (dataset, nz) its grid lacks."""
    datasets = [dataset for dataset in figures.DATASETS if any(key[0] == dataset for key in models)]
    depths = sorted({nz for _, nz in models})
    width, height = (6.75, 1.75) if len(models) > 1 else (5, 3)  # a page's width, or most of it
    figure, axes = figures.grid(len(datasets), len(depths), max(width / len(depths), 1.7), height)
    palette = colours(max(depths))
    missing = [(dataset, nz) for dataset in datasets for nz in depths if (dataset, nz) not in models]
    for row, dataset in zip(axes, datasets, strict=True):
        drawn = []
        for panel, nz in zip(row, depths, strict=True):
            if (dataset, nz) in models:
                draw_panel(panel, *models[dataset, nz], palette)
                drawn.append(panel)
            else:
                figures.empty(panel, f"no curves yet; fill in with\n\n{figures.folded(command(dataset, nz))}")
        row[0].set_ylabel(f"{figures.DATASETS[dataset]}\nbits/dim")
        drawn[0].tick_params(labelleft=True)
        drawn[0].set_ylim(0, upper_limit([models[key] for key in models if key[0] == dataset]))
    for panel, nz in zip(axes[0], depths, strict=True):
        panel.set_title(f"{nz} latent layer{'s' if nz > 1 else ''}")
    figure.supxlabel("epoch", fontsize=8)
    figures.legend(figure, handlelength=1.2, handletextpad=0.4, columnspacing=1)
    return figure, missing


def stem(dataset, nz):
    """The files' name, without suffix, for a choice of --dataset and --nz (None: not given)."""
    depth = "" if nz is None else f"{nz}" if dataset else f"nz{nz}"
    return f"stackplot_{dataset or ''}{depth}".rstrip("_")


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", choices=figures.DATASETS, help="draw only this dataset; otherwise all found")
    parser.add_argument("--nz", type=cli.whole_number(1), help="draw only so many latent layers; otherwise all found")
    parser.add_argument("--results", type=Path, default=figures.RESULTS, metavar="DIR", help="holds <dataset><nz>/")
    parser.add_argument("--output", type=Path, default=figures.RESULTS, metavar="DIR", help="receives the files")
    return parser.parse_args(argv)


@cli.script
def main():
    """Read the curves, write the figure."""
    args = arguments()
    chosen = [
        (dataset, nz)
        for dataset, nz in figures.found(args.results, CURVE.fullmatch)
        if args.dataset in (None, dataset) and args.nz in (None, nz)
    ]
    if not chosen:
        folder = figures.folder(args.dataset or "<dataset>", args.nz or "<nz>", args.results)
        remedy = command(args.dataset or "mnist", args.nz or 4)
        raise cli.UserError(f"no training curves (x.csv, z1.csv ...) in {folder}; train a model: {remedy}")
    models = {}
    for dataset, nz in chosen:
        epochs, values = load(figures.folder(dataset, nz, args.results), nz)
        values *= figures.per_real_dimension(dataset)
        models[dataset, nz] = epochs, values
        print(f"{dataset}, nz={nz}: ELBO {values[:, -1].sum():.4f} bits/dim at epoch {epochs[-1]:g}")
    figure, missing = draw(models)
    for dataset, nz in missing:
        print(f"note: no curves for {dataset}, nz={nz}; run {command(dataset, nz)}", file=sys.stderr)
    print("wrote " + ", ".join(map(str, figures.save(figure, args.output / stem(args.dataset, args.nz)))))


if __name__ == "__main__":
    main()
