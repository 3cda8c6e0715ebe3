"""Draw what x and each latent layer add to the ELBO over training (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

One panel per trained model: a row for each dataset. The areas add up to the ELBO on the test set, in bits/dim: at the
bottom x given z1, then each layer's share (its bits under the generative model less those under the inference model),
z1 first. The vertical axes do not start at 0: they show the latents, and of x what changes. MNIST is given per
dimension of the 28x28 images, not of the padded 32x32.

Reads   <dataset><nz>/x.csv, z1.csv ... z<nz>.csv, header "Wall time,Step,Value": Step is the epoch, Value in bits per
        dimension as the model sees it. They are read from the folder --results. By default from OUTPUT/plots, where the
        training scripts write them, and for models without curves there from docs/results: these are marked as shipped.
        The published curves of ImageNet 32x32 with 2 layers are in parts: x1.csv, z11.csv and z21.csv are the first
        part of x, z1 and z2; x2.csv, z12.csv and z22.csv the second.
Writes  OUTPUT/plots/stackplot.pdf, vector, and OUTPUT/plots/stackplot.png, 300 dpi; each model's last ELBO on stdout

Epochs and values are drawn as measured. The paper's figure is that of --log --smooth.
"""

import csv
import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils import cli, datasets, figures, paths, results
from utils.errors import UserError

SMOOTHED = {"mnist": 18, "cifar": 4}  # tests that the paper's figure averages over; elsewhere one


def read(path):
    """One CSV of TensorBoard's form, {epoch: value}."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            curve = {float(row["Step"]): float(row["Value"]) for row in csv.DictReader(file)}
    except (ValueError, KeyError, TypeError, csv.Error):
        curve = {}
    if not curve or not np.isfinite(list(curve.items())).all():
        raise UserError(f"{path} is damaged: expected a line Wall time,Step,Value and lines of three numbers")
    return curve


def load(folder, nz):
    """Read a model's curves, whole or in parts, of which the later ones replace epochs of the earlier ones.

    Returns (epochs [T], values [1 + nz, T]): x, z1, ..., z<nz>, in the files' units, at the epochs that all have.
    """
    parts = sorted(path.stem[1:] for path in folder.glob("x*.csv")) or [""]  # of a whole curve
    curves = []
    for variable in ("x", *(f"z{i + 1}" for i in range(nz))):
        rows = (read(folder / f"{variable}{part}.csv").items() for part in parts)
        curves.append(dict(itertools.chain.from_iterable(rows)))
    epochs = sorted(set(curves[0]).intersection(*curves))
    if not epochs:
        raise UserError(f"{folder}: the curves have no epoch in common")
    return np.array(epochs), np.array([[curve[epoch] for epoch in epochs] for curve in curves])


def smooth(epochs, values, count):
    """The mean of every `count` tests, at the epoch of the last of them; unchanged if that leaves less than half.

    epochs [T], values [1 + nz, T] -> epochs [T - count + 1], values [1 + nz, T - count + 1].
    """
    if 2 * (count - 1) > len(epochs):
        return epochs, values
    return epochs[count - 1 :], np.lib.stride_tricks.sliding_window_view(values, count, axis=1).mean(axis=2)


def draw_panel(axes, epochs, values, palette):
    """Draw one model's areas: epochs [T], values [1 + nz, T] in bits/dim."""
    tops = np.cumsum(values, axis=0)  # [1 + nz, T]
    bottoms = np.vstack([np.zeros_like(epochs), tops[:-1]])
    axes.plot(epochs, tops[-1], color="black", lw=0.8, zorder=3, label="ELBO")
    for i, (bottom, top) in enumerate(zip(bottoms, tops, strict=True)):
        axes.fill_between(epochs, bottom, top, color=palette[i], lw=0, label=f"$z_{{{i}}}$" if i else "$x$")
        axes.plot(epochs, bottom, color="white", lw=0.4)
    axes.margins(x=0)


def limits(models):
    """The y-axis of a row: from below x at its least to above the ELBOs, except those of the first epochs.

    models: (epochs, values) of each panel. There is room for a remark at the top.
    """
    low = min(values[0].min() for _, values in models)
    high = max(np.quantile(values.sum(axis=0), 0.95) for _, values in models)
    return low - 0.15 * (high - low), high + 0.2 * (high - low or 0.1)


def draw(models, notes, log=False, smoothed=False):
    """The figure, from {(dataset, nz): (epochs, values)}.

    notes: {(dataset, nz): a line of the panel's title}. log: a logarithmic axis of epochs, from the first after 0.
    smoothed: average over as many tests as the paper's figure.
    """
    import matplotlib

    figure, panels = figures.panels(notes)
    # Pale grey for x, then along viridis. The first layers, which have most of the bits, lie furthest apart.
    shades = np.linspace(0, 1, max(4, *(nz for _, nz in models))) ** 0.6
    palette = ["#E3E3E3", *matplotlib.colormaps["viridis"](shades)]
    drawn = {}
    for (dataset, nz), (epochs, values) in models.items():
        panel = panels[dataset, nz]
        figures.remark(panel, f"ELBO {values[:, -1].sum():.2f} at epoch {epochs[-1]:g}")
        drawn[dataset, nz] = epochs, values = smooth(epochs, values, SMOOTHED.get(dataset, 1) if smoothed else 1)
        if log:
            epochs, values = epochs[epochs > 0], values[:, epochs > 0]
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
        draw_panel(panel, epochs, values, palette)
    for model, panel in panels.items():
        panel.set_ylim(limits([curves for other, curves in drawn.items() if other[0] == model[0]]))
    figure.supxlabel("epoch (the vertical axes do not start at 0)", fontsize=8)
    figures.legend(figure, handlelength=1.2, handletextpad=0.4, columnspacing=1)
    return figure


@cli.script
def main(argv=None):
    """Read the curves, write the figure."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    parser.add_argument("--log", action="store_true", help="epochs on a logarithmic axis")
    tests = ", ".join(f"{count} for {results.DATASETS[dataset]}" for dataset, count in SMOOTHED.items())
    help = f"moving average over as many tests as in the paper's figure: {tests}, elsewhere none"
    parser.add_argument("--smooth", action="store_true", help=help)
    args = parser.parse_args(argv)
    paths.check_folder_writable(args.output / "plots")
    found = results.chosen(args, results.found(results.sources(args), r"x\d*\.csv"), "training curves")
    models, notes = {}, {}
    for (dataset, nz), [file, *_] in found.items():
        epochs, values = load(file.parent, nz)
        values *= datasets.padding(dataset)
        models[dataset, nz] = epochs, values
        notes[dataset, nz] = note = results.origin(file.parent)
        name = ", ".join(filter(None, (dataset, f"nz={nz}", note)))
        print(f"{name}: ELBO {values[:, -1].sum():.4f} bits/dim at epoch {epochs[-1]:g}")
    written = figures.save(draw(models, notes, args.log, args.smooth), args.output / "plots" / "stackplot")
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
