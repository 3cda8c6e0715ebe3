"""Draw what x and each latent layer add to the ELBO over training (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

One panel per trained model: a row for each dataset. The areas add up to the ELBO on the test set, in bits/dim: at the
bottom x given z1, then each layer's share (its bits under the generative model less those under the inference model),
z1 first. The vertical axes do not start at 0: they show the latents, and of x what changes. MNIST is given per
dimension of the 28x28 images, not of the padded 32x32.

Reads   <dataset><nz>/x.csv, z1.csv ... z<nz>.csv, header "Wall time,Step,Value": Step is the epoch, Value in bits per
        dimension as the model sees it. They are read from the folder --results. By default from OUTPUT/plots, where the
        training scripts write them, and for models without curves there from docs/results: these are marked as shipped.
        The curves of a run in parts may be in parts too: x1.csv, z11.csv, z21.csv ... are the first part of x, z1, z2
        ..., and x2.csv, z12.csv, z22.csv ... the second. (So z12.csv is part 2 of z1 if there is an x1.csv, and latent
        layer 12 if there is none.) A part counts up to the epoch at which the next begins.
Writes  OUTPUT/plots/stackplot.pdf, vector, and OUTPUT/plots/stackplot.png, 300 dpi; the name says what --dataset and
        --nz chose: stackplot_mnist4.pdf, stackplot_mnist.pdf, stackplot_nz4.pdf. On stdout, each model's last ELBO.

Epochs and values are drawn as measured. The paper's figure is that of --log --smooth.
"""

import re
from pathlib import Path

import numpy as np

from utils import cli, figures, paths, results
from utils.errors import UserError

HEADER = "Wall time,Step,Value"
CURVE = re.compile(r"[xz]\d*\.csv")
SMOOTHED = {"mnist": 18, "cifar": 4}  # tests that the paper's figure averages over; elsewhere one


def command(dataset, nz):
    """The command that trains a model and so writes its curves."""
    return f"python model/{dataset}_train.py --nz={nz}"


def read(path):
    """The rows of one CSV of TensorBoard's form, [(step, value)], in the file's order."""
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [tuple(map(float, line.split(","))) for line in filter(None, lines)]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError:
        header, rows = "", []
    if header != HEADER or not rows or any(len(row) != 3 or not np.isfinite(row).all() for row in rows):
        raise UserError(f"{path} is damaged: expected a line {HEADER} and lines of three numbers")
    return [row[1:] for row in rows]


def splice(rows):
    """One curve from the rows of its parts in order, {step: value}, with increasing steps.

    If the steps go back, a new part begins, and the earlier part is cut at the step at which it does.
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
    folder = Path(folder)
    there = {path.name for path in folder.iterdir() if CURVE.fullmatch(path.name)}
    parts = [""]
    if "x1.csv" in there:
        parts = range(1, 1 + sum(name.startswith("x") and name != "x.csv" for name in there))
    names = [[f"{variable}{part}.csv" for part in parts] for variable in ("x", *(f"z{i + 1}" for i in range(nz)))]
    strangers = there.difference(*names)
    if strangers:
        expected = f"x.csv, z1.csv ... z{nz}.csv" if parts == [""] else f"x, z1 ... z{nz} in {len(parts)} part(s)"
        raise UserError(f"{folder / min(strangers)} does not belong here: expected {expected}")
    curves = [splice(row for name in files for row in read(folder / name)) for files in names]
    epochs = sorted(set(curves[0]).intersection(*curves[1:]))
    if not epochs:
        raise UserError(f"{folder}: the curves have no epoch in common")
    return np.array(epochs), np.array([[curve[epoch] for epoch in epochs] for curve in curves])


def colours(deepest):
    """A colour for each of x, z1, ..., z<deepest>, the same in every panel: pale grey, then along viridis.

    The first layers, which have most of the bits, lie furthest apart. Lightness increases, so that grey prints tell
    the layers apart as well.
    """
    import matplotlib

    viridis = matplotlib.colormaps["viridis"]
    return ["#E3E3E3", *(viridis((i / max(deepest - 1, 3)) ** 0.6) for i in range(deepest))]


def smooth(epochs, values, count):
    """The mean of every `count` tests, at the epoch of the last of them; unchanged if that leaves less than half.

    epochs [T], values [1 + nz, T] -> epochs [T - count + 1], values [1 + nz, T - count + 1].
    """
    if 2 * (count - 1) > len(epochs):
        return epochs, values
    return epochs[count - 1 :], np.lib.stride_tricks.sliding_window_view(values, count, axis=1).mean(axis=2)


def draw_panel(axes, epochs, values, palette, log):
    """Draw one model's areas: epochs [T], values [1 + nz, T] in bits/dim. A single test is drawn as a bar."""
    if log:
        epochs, values = epochs[epochs > 0], values[:, epochs > 0]
        axes.set_xscale("log", subs=[])
        few = epochs[-1] / epochs[0] < 100
        axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5) if few else (1,))
        axes.xaxis.set_major_formatter("{x:g}")
    left, right = epochs[[0, -1]]
    if left == right:
        epochs, values = epochs + np.array([-0.3, 0.3]), np.repeat(values, 2, axis=1)
        axes.set_xticks([left], [f"{left:g}"])
        left, right = left - 0.9, right + 0.9
    elif not log:
        axes.locator_params("x", nbins=5, integer=True)
    tops = np.cumsum(values, axis=0)  # [1 + nz, T]
    bottoms = np.vstack([np.zeros_like(epochs), tops[:-1]])
    axes.plot(epochs, tops[-1], color="black", lw=0.8, zorder=3, label="ELBO")
    for i, (bottom, top) in enumerate(zip(bottoms, tops, strict=True)):
        axes.fill_between(epochs, bottom, top, color=palette[i], lw=0, label=f"$z_{{{i}}}$" if i else "$x$")
        axes.plot(epochs, bottom, color="white", lw=0.4)
    axes.set_xlim(left, right)


def limits(models):
    """The y-axis of a row: from below x at its least to above the ELBOs, except those of the first epochs.

    models: (epochs, values) of each panel. There is room for a remark at the top.
    """
    low = min(values[0].min() for _, values in models)
    high = max(np.quantile(values.sum(axis=0), 0.95) for _, values in models)
    return low - 0.15 * (high - low), high + 0.2 * (high - low or 0.1)


def draw(models, notes, log=False, smoothed=lambda dataset: 1):
    """The figure, from {(dataset, nz): (epochs, values)}.

    notes: {(dataset, nz): a line of the panel's title}. log: a logarithmic axis of epochs, from the first after 0.
    smoothed(dataset): how many tests to average over.
    """
    figure, panels = figures.panels(notes)
    palette = colours(max(nz for _, nz in models))
    rows = {}
    for model, panel in panels.items():
        epochs, values = models[model]
        remark = f"ELBO {values[:, -1].sum():.2f} at epoch {epochs[-1]:g}"
        epochs, values = smooth(epochs, values, smoothed(model[0]))
        draw_panel(panel, epochs, values, palette, log)
        figures.remark(panel, 0.98, 0.98, remark, ha="right", va="top")
        rows.setdefault(model[0], []).append((panel, (epochs, values)))
    for row in rows.values():
        row[0][0].set_ylim(limits([curves for _, curves in row]))
    figure.supxlabel("epoch (the vertical axes do not start at 0)", fontsize=8)
    figures.legend(figure, handlelength=1.2, handletextpad=0.4, columnspacing=1)
    return figure


def stem(datasets, depths):
    """The files' name, without suffix, for a choice of --dataset and --nz (lists, or None where not given)."""
    names = "-".join(datasets or [])
    numbers = "-".join(map(str, depths or []))
    return f"stackplot_{names}{'nz' if depths and not datasets else ''}{numbers}".rstrip("_")


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    parser.add_argument("--log", action="store_true", help="epochs on a logarithmic axis")
    published = ", ".join(f"{count} for {results.DATASETS[dataset]}" for dataset, count in SMOOTHED.items())
    help = f"moving average over N tests; without N as in the paper's figure: {published}, elsewhere none"
    parser.add_argument(
        "--smooth", type=cli.whole_number(1, 1_000_000), nargs="?", const=0, default=1, metavar="N", help=help
    )
    return parser.parse_args(argv)


@cli.script
def main(argv=None):
    """Read the curves, write the figure."""
    args = arguments(argv)
    paths.check_folder_writable(args.output / "plots")
    sources = results.sources(args)
    found = results.found(sources, CURVE.fullmatch)
    found = {model: folder for model, (folder, _) in found.items() if results.chosen(args)(*model)}
    if not found:
        raise results.nothing("training curves (x.csv, z1.csv ...)", args, command, results.DATASETS)
    print(f"curves in {results.places(args)}")
    models, notes = {}, {}
    for (dataset, nz), folder in found.items():
        epochs, values = load(folder, nz)
        if args.log and epochs[-1] <= 0:
            raise UserError(f"{folder}: no epoch after 0; leave out --log")
        values *= results.PADDING.get(dataset, 1)
        models[dataset, nz] = epochs, values
        notes[dataset, nz] = "shipped" * results.is_shipped(folder, sources)
        mark = ", shipped" * bool(notes[dataset, nz])
        print(f"{dataset}, nz={nz}{mark}: ELBO {values[:, -1].sum():.4f} bits/dim at epoch {epochs[-1]:g}")
    figure = draw(models, notes, args.log, lambda dataset: args.smooth or SMOOTHED.get(dataset, 1))
    written = figures.save(figure, args.output / "plots" / stem(args.dataset, args.nz))
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
