"""Draw and tabulate compression rates against the number of images (Kingma, Abbeel, Ho 2019, arXiv 1905.06845).

The figure has a panel for each model that has results: rows are datasets, columns numbers of latent layers.
A panel shows the cumulative moving average (CMA) of the bits sent, initial bits included, for Bit-Swap and for BB-ANS:
the mean and the standard deviation over the chains. It also shows the net rate, without initial bits: its mean and
standard deviation over all images (Bit-Swap's, if there is a Bit-Swap result). All rates are in bits/dim; MNIST's are
per dimension of the 28x28 images, not of the padded 32x32. The table has one row for each model and scheme.

Of each model, the figure shows the paper's protocol: 100 chains of 100 images, in floats. If a model has no such
results, it shows those of the most images, and the panel's title and the table say so.

With --savings, the figure shows instead what Bit-Swap saves over BB-ANS against the number of latent layers, next to
the paper's numbers (docs/results/published.json): the difference of the rates after 1, 10 and 100 images of a chain.

Reads   <dataset><nz>/{bitswap,bbans}_<q>bits[_exact][_bf16][_whitened][_<chains>x<images>]_{nets,elbos,cmas,total}.npy,
        which mnist_compress.py, cifar_compress.py and imagenet_compress.py save, in the folder --results. By default
        in OUTPUT/plots, and for models without results there in docs/results: these are marked as shipped
Writes  OUTPUT/plots/cma.pdf   the figure, vector
        OUTPUT/plots/cma.png   the figure, 300 dpi
        OUTPUT/plots/cma.md    the table, Markdown
        OUTPUT/plots/cma.tex   the table, LaTeX (requires the booktabs package)
        and the table on stdout; with --savings OUTPUT/plots/savings.{pdf,png} and the numbers on stdout
"""

import functools
import sys

import numpy as np

from utils import cli, figures, paths, results

AFTER = (1, 50, 100)  # images after which the table gives the cumulative moving average
SAVED_AFTER = (1, 10, 100)  # the same for what Bit-Swap saves
LOOKS = {"bitswap": (figures.BLUE, "-"), "bbans": (figures.VERMILLION, "--")}

HEADER = ["dataset", "nz", "scheme", "chains × images", "ELBO", "net ± std"]
HEADER += [f"CMA, n={n}" for n in AFTER] + ["bits, n=1"]


def table_row(dataset, nz, scheme, result):
    """The cells of one row of the table.

    std is over all images of all chains. A moving average over more images than there are is given as "-".
    """
    chains, images = result.nets.shape
    how = note(result._replace(variant=result.variant._replace(chains=results.FULL[0], images=results.FULL[1])))
    return [
        results.DATASETS[dataset],
        str(nz),
        ", ".join(filter(None, [results.SCHEMES[scheme], how])),
        f"{chains} × {images}",
        f"{result.elbos.mean():.4f}",
        f"{result.nets.mean():.4f} ± {result.nets.std():.4f}",
        *(f"{results.after(result, n):.4f}" if n <= images else "-" for n in AFTER),
        f"{result.total[:, 0].mean():.1f}",
    ]


def paper_row(dataset, nz, scheme, numbers):
    """The same for the paper's numbers."""
    net = f"{numbers['net']:.4f} ± {numbers['net_std']:.4f}"
    cells = [f"{numbers['elbo']:.4f}", net, *(f"{numbers[f'cma_{n}']:.4f}" for n in AFTER), f"{numbers['bits_1']:.1f}"]
    return [results.DATASETS[dataset], str(nz), f"{results.SCHEMES[scheme]}, paper", "100 × 100", *cells]


def note(result):
    """How a result departs from the paper's protocol, and whether it ships, in words."""
    return ", ".join(filter(None, [results.describe(result.variant), "shipped" * result.is_shipped]))


def table(models, paper):
    """The rows of the table, from {(dataset, nz): {scheme: Result}}; paper: with the paper's rows below a model's."""
    rows = []
    for model, curves in models.items():
        rows += [table_row(*model, scheme, result) for scheme, result in curves.items()]
        numbers = results.published().get(model, {}) if paper else {}
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
    mean, std = net_rate(curves)
    axes.axhline(mean, color=figures.GREEN, ls=":", lw=1.2, label="net rate")
    axes.axhspan(mean - std, mean + std, color=figures.GREEN, alpha=0.15, lw=0, label="± std over images")
    for scheme, result in curves.items():
        colour, style = LOOKS[scheme]
        cmas, spread = result.cmas.mean(axis=0), result.cmas.std(axis=0)  # [images]
        images, marker = np.arange(len(cmas)) + 1, "o" if len(cmas) == 1 else None
        axes.plot(images, cmas, style, color=colour, marker=marker, ms=3, lw=1.3, label=results.SCHEMES[scheme])
        band = {"color": colour, "alpha": 0.25, "lw": 0, "label": "± std over chains"}
        axes.fill_between(images, cmas - spread, cmas + spread, **band)
    axes.set_xlim(0, max(2, *(result.cmas.shape[1] for result in curves.values())))


def caption(nz, curves):
    """The notes on a panel of results {scheme: Result}: how they depart from the paper's, and what is missing."""
    notes = list(dict.fromkeys(filter(None, map(note, curves.values()))))
    return "; ".join(notes + [f"no {results.SCHEMES[scheme]} result" for scheme in missing(nz, curves)])


def missing(nz, curves):
    """The schemes that {scheme: Result} lacks: none with one latent layer, for which the two are the same."""
    return [scheme for scheme in results.SCHEMES if nz > 1 and scheme not in curves]


def net_rate(curves):
    """Mean and standard deviation over all images of a model's net rate: Bit-Swap's if there is one."""
    nets = next(iter(curves.values())).nets
    return nets.mean(), nets.std()


def limits(models):
    """The y-axis of a row of panels: from the net rates' bands up to where Bit-Swap starts.

    BB-ANS may start above that, and without Bit-Swap's result it may be cut off at three times the net rate.
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
    """If BB-ANS starts above the panel, say at which rate, next to the point where its curve enters."""
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
    figure, panels = figures.panels({model: caption(model[1], curves) for model, curves in models.items()})
    rows = {}
    for model, panel in panels.items():
        draw_panel(panel, models[model])
        rows.setdefault(model[0], []).append((panel, models[model]))
    for row in rows.values():
        row[0][0].set_ylim(limits([curves for _, curves in row]))
    for model, panel in panels.items():
        mark_start(panel, models[model])
    figure.supxlabel("images compressed", fontsize=8)
    figures.legend(figure)
    return figure


# What Bit-Swap saves


def measured_savings(models):
    """{(dataset, images): {nz: bits/dim saved}}, from {(dataset, nz): {scheme: Result}}."""
    saved = {}
    for (dataset, nz), curves in models.items():
        for images in SAVED_AFTER if set(curves) == set(results.SCHEMES) else ():
            difference = results.after(curves["bbans"], images) - results.after(curves["bitswap"], images)
            if np.isfinite(difference):
                saved.setdefault((dataset, images), {})[nz] = difference
    return saved


def published_savings():
    """The same for the paper's numbers."""
    saved = {}
    for (dataset, nz), schemes in results.published().items():
        for images in SAVED_AFTER:
            difference = schemes["bbans"][f"cma_{images}"] - schemes["bitswap"][f"cma_{images}"]
            saved.setdefault((dataset, images), {})[nz] = difference
    return saved


def draw_savings(ours, papers, shipped):
    """The figure of the savings, {(dataset, images): {nz: bits/dim}} each. shipped: (dataset, nz) to be marked.

    One latent layer is left out: the two schemes are the same there, and the axis is logarithmic.
    """
    datasets = [dataset for dataset in results.COMPRESSED if any(dataset == key[0] for key in ours)]
    figure, [panels] = figures.grid(1, len(datasets), 2.3 if len(datasets) > 1 else 3.4, 2.4)
    for panel, dataset in zip(panels, datasets, strict=True):
        for saved, style in ((ours, {"ms": 3}), (papers, {"ms": 6, "ls": ":", "mfc": "none"})):
            for images, colour, marker in zip(SAVED_AFTER, figures.COLOURS, "os^", strict=True):
                points = [(nz, bits) for nz, bits in sorted(saved.get((dataset, images), {}).items()) if nz > 1]
                label = f"after {images} image{'s' * (images > 1)}" if saved is ours else None
                looks = {"color": colour, "marker": marker, "lw": 1, "label": label, **style}
                panel.plot([nz for nz, _ in points], [bits for _, bits in points], **looks)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.set_xticks([nz for nz in results.DEPTHS[dataset] if nz > 1])
        panel.set_xlabel("latent layers")
        ships = ", ".join(str(nz) for each, nz in sorted(shipped) if each == dataset and nz > 1)
        panel.set_title(results.DATASETS[dataset] + (f"\nshipped: {ships} layers" if ships else ""))
    panels[0].plot([], [], ":o", color=figures.GREY, mfc="none", lw=1, label="paper")
    panels[0].set_ylabel("bits/dim saved over BB-ANS")
    figures.legend(figure)
    return figure


def savings_table(ours, papers, shipped):
    """The numbers as text."""
    lines = [f"{'dataset':16} images  nz  {'ours':>8} {'paper':>8}"]
    for dataset, images in ours:
        for nz, saved in sorted(ours[dataset, images].items()):
            paper = papers.get((dataset, images), {}).get(nz)
            cell = "-" if paper is None else f"{paper:.4f}"
            mark = "  shipped" * ((dataset, nz) in shipped)
            lines.append(f"{dataset:16} {images:6} {nz:3}  {saved:8.4f} {cell:>8}{mark}")
    return "\n".join(lines)


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    parser.add_argument("--quantbits", type=cli.QUANTBITS, default=10, help="bits of the latents' bins")
    parser.add_argument("--exact", action="store_true", help="only results of --exact, the networks in integers")
    parser.add_argument("--whiten", action="store_true", help="only results of --whiten")
    parser.add_argument("--paper", action="store_true", help="add the paper's numbers to the table")
    parser.add_argument("--savings", action="store_true", help="draw what Bit-Swap saves over BB-ANS, by latent layers")
    return parser.parse_args(argv)


@cli.script
def main(argv=None):
    """Read the results, write the figure and the table."""
    args = arguments(argv)
    paths.check_folder_writable(args.output / "plots")

    def counts(variant):
        flags = ("exact", "whiten")
        return variant.quantbits == args.quantbits and all(getattr(variant, f) for f in flags if getattr(args, f))

    models = results.load(results.sources(args), counts, results.chosen(args))
    savings = measured_savings(models) if args.savings else None
    if not (models if savings is None else savings):
        variant = results.Variant(args.quantbits, args.exact, args.whiten)
        what = "results" + " of both schemes" * args.savings
        what += f" ({results.describe(variant)})" if results.describe(variant) else ""
        command = functools.partial(results.command, scheme="both" if args.savings else "bitswap", variant=variant)
        raise results.nothing(what, args, command, results.COMPRESSED)
    print(f"results in {results.places(args)}\n")
    plots = args.output / "plots"
    if savings is not None:
        shipped = {model for model, curves in models.items() if next(iter(curves.values())).is_shipped}
        print(savings_table(savings, published_savings(), shipped) + "\n")
        written = figures.save(draw_savings(savings, published_savings(), shipped), plots / "savings")
    else:
        written = write(models, table(models, args.paper), plots / "cma")
    print("wrote " + ", ".join(map(str, written)))


def write(models, rows, stem):
    """Print the table and write it and the figure; returns the paths."""
    print(as_text(rows))
    for (dataset, nz), curves in models.items():
        for scheme in missing(nz, curves) if dataset in results.COMPRESSED else ():
            remedy = results.command(dataset, nz, scheme, next(iter(curves.values())).variant)
            print(f"note: no {results.SCHEMES[scheme]} results for {dataset}, nz={nz}; run {remedy}", file=sys.stderr)
    written = figures.save(draw(models), stem)
    for suffix, text in ((".md", as_markdown(rows)), (".tex", as_latex(rows))):
        written.append(stem.with_suffix(suffix))
        with paths.replacing(written[-1]) as file:
            file.write(text.encode())
    return written


if __name__ == "__main__":
    main()
