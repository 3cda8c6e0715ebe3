"""Draw and tabulate compression rates against the number of images (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

The figure has a panel for each model that has results: rows are datasets, columns numbers of latent layers.
A panel shows the cumulative moving average (CMA) of the bits sent, initial bits included, for Bit-Swap and for BB-ANS:
the mean and the standard deviation over the chains. It also shows the net rate, without initial bits: its mean and
standard deviation over all images (Bit-Swap's, if there is a Bit-Swap result). All rates are in bits/dim; MNIST's are
per dimension of the 28x28 images, not of the padded 32x32. The table has one row for each model and scheme.

Of each model, the figure shows the paper's protocol: 100 chains of 100 images, in floats, with bins of 10 bits. If a
model has no such results, it shows those of the most images, and the panel's title and the table say so.

With --savings, the figure shows instead what Bit-Swap saves over BB-ANS against the number of latent layers, next to
the paper's numbers (docs/results/published.json): the difference of the rates after 1, 10 and 100 images of a chain.

Reads   <dataset><nz>/{bitswap,bbans}_10bits[_<chains>x<images>]_{nets,elbos,cmas,total}.npy, which mnist_compress.py,
        cifar_compress.py and imagenet_compress.py save, in the folder --results. By default in OUTPUT/plots, and for
        models without results there in docs/results: these are marked as shipped
Writes  OUTPUT/plots/cma.{pdf,png}   the figure, vector and 300 dpi; with --savings savings.{pdf,png}
        OUTPUT/plots/cma.md          the table, Markdown, and the same on stdout: ELBO, net rate, CMA after n images
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils import cli, figures, paths, results
from utils.published import CHAINS

SAVED_AFTER = (1, 10, 100)  # images after which the schemes are compared
LOOKS = {"bitswap": (figures.BLUE, "-"), "bbans": (figures.VERMILLION, "--")}
HEADER = ["dataset", "nz", "scheme", "chains × images", "ELBO", "net ± std"]
HEADER += [f"CMA, n={n}" for n in results.AFTER] + ["bits, n=1"]


def table(models, paper):
    """The table in Markdown, columns of equal width.

    models: {(dataset, nz): {scheme: Rates}}. paper: add the paper's rows below a model's.
    """
    rows = [HEADER]
    for model, curves in models.items():
        for scheme, result in curves.items():
            origin = results.origin(result.folder)
            rows.append(row(model, scheme, origin, result.nets.shape, results.numbers(result)))
        for scheme, numbers in results.published().get(model, {}).items() if paper else ():
            rows.append(row(model, scheme, "paper", (CHAINS, CHAINS), numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, cells, widths))} |\n" for cells in rows)


def row(model, scheme, origin, size, numbers):
    """The cells of one row. size: chains and images in each. A missing average is "-"."""
    name = ", ".join(filter(None, (results.SCHEMES[scheme], origin)))
    net = f"{numbers['net']:.4f} ± {numbers['net_std']:.4f}"
    averages = [f"{numbers[f'cma_{n}']:.4f}".replace("nan", "-") for n in results.AFTER]
    cells = [results.DATASETS[model[0]], str(model[1]), name, "{} × {}".format(*size), f"{numbers['elbo']:.4f}", net]
    return [*cells, *averages, f"{numbers['bits_1']:.1f}"]


def draw_panel(axes, curves):
    """Draw one model's results, {scheme: Rates}, Bit-Swap's first."""
    nets = next(iter(curves.values())).nets
    mean, std = nets.mean(), nets.std()
    axes.axhline(mean, color=figures.GREEN, ls=":", lw=1.2, label="net rate")
    axes.axhspan(mean - std, mean + std, color=figures.GREEN, alpha=0.15, lw=0, label="± std over images")
    for scheme, result in curves.items():
        colour, style = LOOKS[scheme]
        cmas, spread = result.cmas.mean(axis=0), result.cmas.std(axis=0)  # [images]
        images = np.arange(len(cmas)) + 1
        axes.plot(images, cmas, style, color=colour, lw=1.3, label=results.SCHEMES[scheme])
        band = {"color": colour, "alpha": 0.25, "lw": 0, "label": "± std over chains"}
        axes.fill_between(images, cmas - spread, cmas + spread, **band)
    axes.set_xlim(0, max(2, len(images)))


def limits(models):
    """The y-axis of a row of panels, {scheme: Rates} each: from the net rates' bands up to where Bit-Swap starts."""
    shown = [next(iter(curves.values())) for curves in models]
    low = min(result.nets.mean() - result.nets.std() for result in shown)
    high = max(max(result.nets.mean() + result.nets.std(), result.cmas[:, 0].mean()) for result in shown)
    margin = 0.1 * (high - low or 1)
    return low - margin / 2, high + margin


def draw(models):
    """The figure, from {(dataset, nz): {scheme: Rates}}."""
    origins = {model: results.origin(next(iter(curves.values())).folder) for model, curves in models.items()}
    notes = {}
    for model, curves in models.items():
        chains, images = next(iter(curves.values())).nets.shape
        size = "" if chains == images == CHAINS else f"{cli.counted(chains, 'chain')} of {images}"
        notes[model] = ", ".join(filter(None, (size, origins[model])))
    figure, panels = figures.panels(notes)
    for model, panel in panels.items():
        draw_panel(panel, models[model])
        panel.set_ylim(limits([curves for other, curves in models.items() if other[0] == model[0]]))
        start = models[model]["bbans"].cmas[:, 0].mean() if "bbans" in models[model] else 0
        if start > panel.get_ylim()[1]:
            figures.remark(panel, f"BB-ANS starts at {start:.1f}", figures.VERMILLION)
    figure.supxlabel("images compressed", fontsize=8)
    figures.legend(figure)
    return figure


# What Bit-Swap saves


def savings(models):
    """{(dataset, nz): [bits/dim saved after so many images]}, from {(dataset, nz): {scheme: results.numbers()}}."""
    return {
        model: [schemes["bbans"][f"cma_{n}"] - schemes["bitswap"][f"cma_{n}"] for n in SAVED_AFTER]
        for model, schemes in models.items()
        if len(schemes) == len(results.SCHEMES)
    }


def draw_savings(ours, papers):
    """The figure of savings().

    One latent layer is left out: the two schemes are the same there, and the axis is logarithmic.
    """
    datasets = list(dict.fromkeys(dataset for dataset, _ in ours))
    figure, [panels] = figures.grid(1, len(datasets), 2.3 if len(datasets) > 1 else 3.4, 2.4)
    for panel, dataset in zip(panels, datasets, strict=True):
        for saved, looks in ((ours, {"ms": 3}), (papers, {"ms": 6, "ls": ":", "mfc": "none"})):
            deep = {nz: bits for (other, nz), bits in saved.items() if other == dataset and nz > 1}
            for i, (images, colour, marker) in enumerate(zip(SAVED_AFTER, figures.COLOURS, "os^", strict=True)):
                label = f"after {cli.counted(images, 'image')}" if saved is ours else None
                line = [bits[i] for bits in deep.values()]
                panel.plot(deep.keys(), line, color=colour, marker=marker, lw=1, label=label, **looks)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xticks([nz for nz in results.DEPTHS[dataset] if nz > 1])
        panel.set_xlabel("latent layers")
        panel.set_title(results.DATASETS[dataset])
    panels[0].plot([], [], ":o", color=figures.GREY, mfc="none", lw=1, label="paper")
    panels[0].set_ylabel("bits/dim saved over BB-ANS")
    figures.legend(figure)
    return figure


@cli.script
def main(argv=None):
    """Read the results, write the figure and the table."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    parser.add_argument("--paper", action="store_true", help="add the paper's numbers to the table")
    parser.add_argument("--savings", action="store_true", help="draw what Bit-Swap saves over BB-ANS, by latent layers")
    args = parser.parse_args(argv)
    plots = args.output / "plots"
    paths.check_folder_writable(plots)
    models = results.chosen(args, results.load(results.sources(args)), "results")
    if args.savings:
        numbers = {model: {s: results.numbers(each) for s, each in curves.items()} for model, curves in models.items()}
        saved = results.chosen(args, savings(numbers), "results of both schemes")
        written = figures.save(draw_savings(saved, savings(results.published())), plots / "savings")
    else:
        written = figures.save(draw(models), plots / "cma")
    text = table(models, args.paper)
    written.append(plots / "cma.md")
    with paths.replacing(written[-1]) as file:
        file.write(text.encode())
    print(f"{text}\nwrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
