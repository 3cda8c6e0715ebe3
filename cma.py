"""Draw and tabulate compression rates against the number of images (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

The figure is a grid: rows MNIST, CIFAR-10, ImageNet 32x32; columns 2, 4, 8 latent layers. A panel shows the
cumulative moving average (CMA) of the bits sent, initial bits included, for Bit-Swap and for BB-ANS, each averaged
over the chains, and the net rate, without initial bits: its mean and standard deviation over all images (Bit-Swap's,
where there is a Bit-Swap result). All in bits/dim; MNIST per dimension of the 28x28 images, not of the padded 32x32.

The table has one row for each dataset, number of latent layers and scheme that has results.

Reads   RESULTS/<dataset><nz>/{bitswap,bbans}_<quantbits>bits_{nets,elbos,cmas,total}.npy,
        which mnist_compress.py, cifar_compress.py and imagenet_compress.py save
Writes  OUTPUT/cma.pdf   the figure, vector
        OUTPUT/cma.png   the figure, 300 dpi
        OUTPUT/cma.md    the table, Markdown
        OUTPUT/cma.tex   the table, LaTeX (needs the booktabs package)
        and the table on stdout
"""

import sys
from pathlib import Path

import numpy as np

from utils import cli, figures

SCHEMES = {"bitswap": "Bit-Swap", "bbans": "BB-ANS"}
ARRAYS = ("nets", "elbos", "cmas", "total")
ROWS, COLUMNS = ("mnist", "cifar", "imagenet"), (2, 4, 8)
AFTER = (1, 50, 100)  # the table gives the cumulative moving average after so many images

HEADER = ["dataset", "nz", "scheme", "chains × images", "ELBO", "net ± std"]
HEADER += [f"CMA, n={n}" for n in AFTER] + ["bits, n=1"]


def command(dataset, nz, scheme, quantbits):
    """The command that computes a result."""
    flags = f"--nz={nz} --bitswap={int(scheme == 'bitswap')}" + (f" --quantbits={quantbits}" if quantbits != 10 else "")
    return f"python {dataset}_compress.py {flags}"


def load_array(path):
    """Read one array of results, float64 [experiments, ndatapoints]; UserError if it is anything else."""
    try:
        # Mapped first: a header that promises more than the file holds is refused before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises some ten different types on damaged files
        reason = getattr(error, "strerror", None) or "not a NumPy array file, or damaged, or cut short"
        raise cli.UserError(f"{path}: {reason}") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.float64:
        raise cli.UserError(f"{path}: holds {getattr(array, 'dtype', 'an archive')}, not a float64 array")
    if array.ndim != 2 or not array.size:
        raise cli.UserError(f"{path}: has shape {list(array.shape)}, not [experiments, ndatapoints]")
    if not np.isfinite(array).all():
        raise cli.UserError(f"{path}: has values that are not finite")
    return np.array(array)


def load(dataset, nz, scheme, quantbits, results):
    """The arrays of one result, {name: float64 [experiments, ndatapoints]}, or None where there is no such result.

    nets, elbos and cmas in bits per real dimension, total in bits.
    """
    paths = {name: figures.folder(dataset, nz, results) / f"{scheme}_{quantbits}bits_{name}.npy" for name in ARRAYS}
    if not any(path.exists() for path in paths.values()):
        return None
    for path in paths.values():
        if not path.exists():
            remedy = command(dataset, nz, scheme, quantbits)
            raise cli.UserError(f"{path} is missing, while others of its result are there; run {remedy}")
    arrays = {name: load_array(path) for name, path in paths.items()}
    for name, array in arrays.items():
        if array.shape != arrays["nets"].shape:
            shapes = f"shape {list(array.shape)}, but {paths['nets'].name} has {list(arrays['nets'].shape)}"
            raise cli.UserError(f"{paths[name]}: has {shapes}")
    factor = figures.per_real_dimension(dataset)
    return {name: array if name == "total" else array * factor for name, array in arrays.items()}


def load_all(quantbits, results):
    """Every result there is, {(dataset, nz, scheme): arrays}, in the table's order."""
    names = {f"{scheme}_{quantbits}bits_{name}.npy" for scheme in SCHEMES for name in ARRAYS}
    loaded = {
        (dataset, nz, scheme): load(dataset, nz, scheme, quantbits, results)
        for dataset, nz in figures.found(results, names.__contains__)
        for scheme in SCHEMES
    }
    return {key: arrays for key, arrays in loaded.items() if arrays}


def table_row(dataset, nz, scheme, arrays):
    """The cells of one row of the table.

    std is over all images of all chains. A moving average over more images than there are is given as "-".
    """
    chains, images = arrays["nets"].shape
    cmas = arrays["cmas"].mean(axis=0)  # [ndatapoints]
    return [
        figures.DATASETS[dataset],
        str(nz),
        SCHEMES[scheme],
        f"{chains} × {images}",
        f"{arrays['elbos'].mean():.4f}",
        f"{arrays['nets'].mean():.4f} ± {arrays['nets'].std():.4f}",
        *(f"{cmas[n - 1]:.4f}" if n <= images else "-" for n in AFTER),
        f"{arrays['total'][:, 0].mean():.1f}",
    ]


def as_text(rows):
    """The table for a terminal, in ASCII: columns of equal width, numbers flush right."""
    rows = [[cell.replace("±", "+-").replace("×", "x") for cell in row] for row in [HEADER, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if i in (0, 2) else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def as_markdown(rows):
    """The table in Markdown."""
    rule = [":--" if i in (0, 2) else "--:" for i in range(len(HEADER))]
    return "".join("| " + " | ".join(row) + " |\n" for row in [HEADER, rule, *rows])


def as_latex(rows):
    """The table as a LaTeX tabular, a rule between datasets."""
    lines = ["% \\usepackage{booktabs}", "\\begin{tabular}{lrlrrrrrrr}", "\\toprule", None, "\\midrule"]
    lines[3] = latex_line(HEADER)
    for i, row in enumerate(rows):
        if i and row[0] != rows[i - 1][0]:
            lines.append("\\midrule")
        lines.append(latex_line(row))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def latex_line(cells):
    """One row of a LaTeX tabular."""
    line = " & ".join(cells) + " \\\\"
    return line.replace("±", "$\\pm$").replace("×", "$\\times$").replace("n=", "$n$=")


def draw_panel(axes, curves):
    """Draw one model's results, {scheme: arrays}, Bit-Swap's first."""
    looks = {"bitswap": (figures.BLUE, "-"), "bbans": (figures.VERMILLION, "--")}
    mean, std = net_rate(curves)
    axes.axhline(mean, color=figures.GREEN, ls=":", lw=1.2, label="net rate, mean")
    axes.axhspan(mean - std, mean + std, color=figures.GREEN, alpha=0.15, lw=0, label="net rate, ± std over images")
    for scheme, arrays in curves.items():
        colour, style = looks[scheme]
        cmas = arrays["cmas"].mean(axis=0)  # [ndatapoints]
        marker = "o" if len(cmas) == 1 else None
        label = SCHEMES[scheme]
        axes.plot(np.arange(len(cmas)) + 1, cmas, style, color=colour, marker=marker, ms=3, lw=1.3, label=label)
    axes.set_xlim(0, max(2, *(arrays["cmas"].shape[1] for arrays in curves.values())))


def net_rate(curves):
    """Mean and standard deviation over all images of a model's net rate: Bit-Swap's if it is there."""
    nets = next(iter(curves.values()))["nets"]
    return nets.mean(), nets.std()


def limits(models):
    """The y-axis of a row of panels: from the net rates' bands up to where Bit-Swap starts.

    BB-ANS may start above that, and without Bit-Swap's it may be cut off at three times the net rate.
    """
    lows, highs = [], []
    for curves in models:
        mean, std = net_rate(curves)
        starts = {scheme: arrays["cmas"][:, 0].mean() for scheme, arrays in curves.items()}
        lows.append(mean - std)
        highs += [mean + std, starts["bitswap"] if "bitswap" in starts else min(starts["bbans"], 3 * mean)]
    margin = 0.1 * (max(highs) - min(lows)) or 0.1
    return min(lows) - margin / 2, max(highs) + margin


def mark_start(axes, curves):
    """Where BB-ANS starts above the panel, say at which rate, beside the point where its curve enters."""
    top = axes.get_ylim()[1]
    cmas = curves["bbans"]["cmas"].mean(axis=0) if "bbans" in curves else np.zeros(1)
    if cmas[0] > top:
        enters = 1 + np.count_nonzero(np.logical_and.accumulate(cmas > top))
        spot = enters + 0.02 * axes.get_xlim()[1], 0.99
        text, axis = f"BB-ANS starts at {cmas[0]:.1f}", axes.get_xaxis_transform()
        axes.text(*spot, text, transform=axis, va="top", fontsize=6, color=figures.VERMILLION)


def draw(results, quantbits):
    """The figure, from {(dataset, nz, scheme): arrays}; returns it and what it lacks, [(dataset, nz, scheme)]."""
    figure, axes = figures.grid(len(ROWS), len(COLUMNS), 2.25, 1.75)
    missing = []
    for row, dataset in zip(axes, ROWS, strict=True):
        models = []
        for panel, nz in zip(row, COLUMNS, strict=True):
            curves = {scheme: results[dataset, nz, scheme] for scheme in SCHEMES if (dataset, nz, scheme) in results}
            lacks = [(dataset, nz, scheme) for scheme in SCHEMES if scheme not in curves]
            missing += lacks
            if not curves:
                commands = "\n".join(figures.folded(command(*key, quantbits)) for key in lacks)
                figures.empty(panel, f"no results yet; fill in with\n\n{commands}")
                continue
            draw_panel(panel, curves)
            models.append((panel, curves))
            for key in lacks:
                text = f"no {SCHEMES[key[2]]} results yet; add with\n{figures.folded(command(*key, quantbits))}"
                figures.remark(panel, 0.97, 0.86, text, ha="right", va="top")
        row[0].set_ylabel(f"{figures.DATASETS[dataset]}\nbits/dim")
        if models:
            models[0][0].tick_params(labelleft=True)
            models[0][0].set_ylim(limits([curves for _, curves in models]))
        for panel, curves in models:
            mark_start(panel, curves)
    for panel, nz in zip(axes[0], COLUMNS, strict=True):
        panel.set_title(f"{nz} latent layers")
    figure.supxlabel("images compressed", fontsize=8)
    figures.legend(figure)
    return figure, missing


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--results", type=Path, default=figures.RESULTS, metavar="DIR", help="holds <dataset><nz>/")
    parser.add_argument("--output", type=Path, default=figures.RESULTS, metavar="DIR", help="receives the files")
    parser.add_argument("--quantbits", type=cli.whole_number(1), default=10, help="bits of the latents' bins")
    return parser.parse_args(argv)


@cli.script
def main():
    """Read the results, write the figure and the table."""
    args = arguments()
    results = load_all(args.quantbits, args.results)
    if not results:
        remedy = command("mnist", 4, "bitswap", args.quantbits)
        raise cli.UserError(f"no results with --quantbits={args.quantbits} in {args.results}; compute some: {remedy}")
    rows = [table_row(*key, arrays) for key, arrays in results.items()]
    figure, missing = draw(results, args.quantbits)
    print(as_text(rows))
    for dataset, nz, scheme in missing:
        remedy = command(dataset, nz, scheme, args.quantbits)
        print(f"note: no {SCHEMES[scheme]} results for {dataset}, nz={nz}; run {remedy}", file=sys.stderr)
    written = figures.save(figure, args.output / "cma")
    for name, text in (("cma.md", as_markdown(rows)), ("cma.tex", as_latex(rows))):
        written.append(args.output / name)
        with figures.output(written[-1]) as file:
            file.write(text.encode())
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
