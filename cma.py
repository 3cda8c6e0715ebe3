"""Draw and tabulate compression rates against the number of images (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

The figure has a panel for each model that there are results of: rows are datasets, columns numbers of latent layers.
A panel shows the cumulative moving average (CMA) of the bits sent, initial bits included, for Bit-Swap and for BB-ANS,
each averaged over the chains, and the net rate, without initial bits: its mean and standard deviation over all images
(Bit-Swap's, where there is a Bit-Swap result). All in bits/dim; MNIST per dimension of the 28x28 images, not of the
padded 32x32. The table has one row for each dataset, number of latent layers and scheme.

Of each model the paper's protocol is drawn, 100 chains of 100 images in floats; where it has no such results, those of
its results that have the most images, and the panel's title and the table say which.

Reads   <dataset><nz>/{bitswap,bbans}_<q>bits[_exact][_bf16][_whitened][_<chains>x<images>]_{nets,elbos,cmas,total}.npy,
        which mnist_compress.py, cifar_compress.py and imagenet_compress.py save, in the folder --results, or else in
        OUTPUT/plots, or else, where that has none, in docs/results, the results that ship; stdout says which
Writes  OUTPUT/plots/cma.pdf   the figure, vector
        OUTPUT/plots/cma.png   the figure, 300 dpi
        OUTPUT/plots/cma.md    the table, Markdown
        OUTPUT/plots/cma.tex   the table, LaTeX (needs the booktabs package)
        and the table on stdout
"""

import functools
import sys

import numpy as np

from utils import cli, figures, paths, results

AFTER = (1, 50, 100)  # the table gives the cumulative moving average after so many images

HEADER = ["dataset", "nz", "scheme", "chains × images", "ELBO", "net ± std"]
HEADER += [f"CMA, n={n}" for n in AFTER] + ["bits, n=1"]


def table_row(dataset, nz, scheme, result):
    """The cells of one row of the table.

    std is over all images of all chains. A moving average over more images than there are is given as "-".
    """
    chains, images = result.nets.shape
    how = results.describe(result.variant._replace(chains=results.FULL[0], images=results.FULL[1]))
    return [
        results.DATASETS[dataset],
        str(nz),
        results.SCHEMES[scheme] + (f", {how}" if how else ""),
        f"{chains} × {images}",
        f"{result.elbos.mean():.4f}",
        f"{result.nets.mean():.4f} ± {result.nets.std():.4f}",
        *(f"{results.after(result, n):.4f}" if n <= images else "-" for n in AFTER),
        f"{result.total[:, 0].mean():.1f}",
    ]


def paper_row(dataset, nz, scheme, numbers):
    """The same of the paper's numbers."""
    net = f"{numbers['net']:.4f} ± {numbers['net_std']:.4f}"
    cells = [f"{numbers['elbo']:.4f}", net, *(f"{numbers[f'cma_{n}']:.4f}" for n in AFTER), f"{numbers['bits_1']:.1f}"]
    return [results.DATASETS[dataset], str(nz), f"{results.SCHEMES[scheme]}, paper", "100 × 100", *cells]


def table(models, paper):
    """The rows of the table, from {(dataset, nz): {scheme: Result}}; paper: with the paper's rows below a model's."""
    rows = []
    for model, curves in models.items():
        rows += [table_row(*model, scheme, result) for scheme, result in curves.items()]
        if paper:
            numbers = results.published().get(model, {})
            rows += [paper_row(*model, scheme, numbers[scheme]) for scheme in results.SCHEMES if scheme in numbers]
    return rows


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
    lines = ["% \\usepackage{booktabs}", "\\begin{tabular}{lrlrrrrrrr}", "\\toprule", latex_line(HEADER), "\\midrule"]
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
    """Draw one model's results, {scheme: Result}, Bit-Swap's first."""
    looks = {"bitswap": (figures.BLUE, "-"), "bbans": (figures.VERMILLION, "--")}
    mean, std = net_rate(curves)
    axes.axhline(mean, color=figures.GREEN, ls=":", lw=1.2, label="net rate, mean")
    axes.axhspan(mean - std, mean + std, color=figures.GREEN, alpha=0.15, lw=0, label="net rate, ± std over images")
    for scheme, result in curves.items():
        colour, style = looks[scheme]
        cmas = result.cmas.mean(axis=0)  # [images]
        marker = "o" if len(cmas) == 1 else None
        label = results.SCHEMES[scheme]
        axes.plot(np.arange(len(cmas)) + 1, cmas, style, color=colour, marker=marker, ms=3, lw=1.3, label=label)
    axes.set_xlim(0, max(2, *(result.cmas.shape[1] for result in curves.values())))


def caption(nz, curves):
    """What a panel's title says of results {scheme: Result}: how they depart from the paper's, and what is missing."""
    notes = [results.describe(result.variant) for result in curves.values()]
    notes = list(dict.fromkeys(filter(None, notes)))
    return "; ".join(notes + [f"no {results.SCHEMES[scheme]} result" for scheme in missing(nz, curves)])


def missing(nz, curves):
    """The schemes that {scheme: Result} lacks: none with one latent layer, where the two are the same."""
    return [scheme for scheme in results.SCHEMES if nz > 1 and scheme not in curves]


def net_rate(curves):
    """Mean and standard deviation over all images of a model's net rate: Bit-Swap's if it is there."""
    nets = next(iter(curves.values())).nets
    return nets.mean(), nets.std()


def limits(models):
    """The y-axis of a row of panels: from the net rates' bands up to where Bit-Swap starts.

    BB-ANS may start above that, and without Bit-Swap's it may be cut off at three times the net rate.
    """
    lows, highs = [], []
    for curves in models:
        mean, std = net_rate(curves)
        starts = {scheme: results.after(result, 1) for scheme, result in curves.items()}
        lows.append(mean - std)
        highs += [mean + std, starts["bitswap"] if "bitswap" in starts else min(starts["bbans"], 3 * mean)]
    margin = 0.1 * (max(highs) - min(lows)) or 0.1
    return min(lows) - margin / 2, max(highs) + margin


def mark_start(axes, curves):
    """Where BB-ANS starts above the panel, say at which rate, beside the point where its curve enters."""
    top, width = axes.get_ylim()[1], axes.get_xlim()[1]
    cmas = curves["bbans"].cmas.mean(axis=0) if "bbans" in curves else np.zeros(1)
    if cmas[0] > top:
        enters = 1 + np.count_nonzero(np.logical_and.accumulate(cmas > top))
        left = enters > width / 2  # of the curve, where there is more room
        spot = min(enters, width) + (-0.05 if left else 0.02) * width, 0.99
        looks = {"va": "top", "ha": "right" if left else "left", "fontsize": 6, "color": figures.VERMILLION}
        axes.text(*spot, f"BB-ANS starts at {cmas[0]:.1f}", transform=axes.get_xaxis_transform(), **looks)


def draw(models):
    """The figure, from {(dataset, nz): {scheme: Result}}."""
    figure, panels = figures.panels(models)
    rows = {}
    for (dataset, nz), panel in panels.items():
        curves = models[dataset, nz]
        draw_panel(panel, curves)
        panel.set_title("\n".join(filter(None, [panel.get_title(), caption(nz, curves)])))
        rows.setdefault(dataset, []).append((panel, curves))
    for row in rows.values():
        row[0][0].set_ylim(limits([curves for _, curves in row]))
    for model, panel in panels.items():
        mark_start(panel, models[model])
    figure.supxlabel("images compressed", fontsize=8)
    figures.legend(figure)
    return figure


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    parser.add_argument("--quantbits", type=cli.QUANTBITS, default=10, help="bits of the latents' bins")
    parser.add_argument("--exact", action="store_true", help="only results of --exact, the networks in integers")
    parser.add_argument("--whiten", action="store_true", help="only results of --whiten")
    parser.add_argument("--paper", action="store_true", help="the paper's numbers in the table, too")
    return parser.parse_args(argv)


@cli.script
def main(argv=None):
    """Read the results, write the figure and the table."""
    args = arguments(argv)
    paths.check_folder_writable(args.output / "plots")
    folder = results.where(args.results, args.output, results.parse)
    models = results.load(folder, args.quantbits, args.exact or None, args.whiten or None, wanted=results.chosen(args))
    if not models:
        variant = results.Variant(args.quantbits, args.exact, args.whiten)
        what = "results" + (f" ({results.describe(variant)})" if results.describe(variant) else "")
        command = functools.partial(results.command, scheme="bitswap", variant=variant)
        raise results.nothing(what, folder, args, command, results.COMPRESSED)
    rows = table(models, args.paper)
    print(f"results in {folder}\n\n{as_text(rows)}")
    for (dataset, nz), curves in models.items():
        for scheme in missing(nz, curves) if dataset in results.COMPRESSED else ():
            remedy = results.command(dataset, nz, scheme, next(iter(curves.values())).variant)
            print(f"note: no {results.SCHEMES[scheme]} results for {dataset}, nz={nz}; run {remedy}", file=sys.stderr)
    stem = args.output / "plots" / "cma"
    written = figures.save(draw(models), stem)
    for suffix, text in ((".md", as_markdown(rows)), (".tex", as_latex(rows))):
        written.append(stem.with_suffix(suffix))
        with paths.replacing(written[-1]) as file:
            file.write(text.encode())
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
