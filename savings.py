"""Draw what Bit-Swap saves over BB-ANS against the number of latent layers, beside what the paper reports.

One panel per dataset. What is saved is the difference of the rates that are sent, initial bits included, after 1, 10
and 100 images of a chain (as many of these as there are), the mean over the chains, in bits/dim; MNIST per dimension of
the 28x28 images. The paper's numbers are of its models of full size, from docs/results/published.json.

Reads   what cma.py reads
Writes  OUTPUT/plots/savings.{pdf,png}, and the numbers on stdout
"""

import functools

import numpy as np

from utils import cli, figures, paths, results

IMAGES = (1, 10, 100)  # of a chain
COLOURS = (figures.BLUE, figures.GREEN, figures.VERMILLION)


def measured(models):
    """{(dataset, images): {nz: bits/dim saved}}, from {(dataset, nz): {scheme: Result}}."""
    saved = {}
    for (dataset, nz), curves in models.items():
        if set(curves) == set(results.SCHEMES):
            for images in IMAGES:
                difference = results.after(curves["bbans"], images) - results.after(curves["bitswap"], images)
                if np.isfinite(difference):
                    saved.setdefault((dataset, images), {})[nz] = difference
    return saved


def published():
    """The same of the paper's numbers."""
    saved = {}
    for (dataset, nz), schemes in results.published().items():
        for images in IMAGES:
            difference = schemes["bbans"][f"cma_{images}"] - schemes["bitswap"][f"cma_{images}"]
            saved.setdefault((dataset, images), {})[nz] = difference
    return saved


def draw(ours, papers):
    """The figure, from what measured() and published() return."""
    datasets = [dataset for dataset in results.COMPRESSED if any(dataset == key[0] for key in ours)]
    figure, [panels] = figures.grid(1, len(datasets), 2.3, 2.4)
    for panel, dataset in zip(panels, datasets, strict=True):
        for images, colour in zip(IMAGES, COLOURS, strict=True):
            label = f"after {images} image{'s' if images > 1 else ''}"
            for saved, style, whose in ((ours, "o-", label), (papers, "s:", f"{label}, paper")):
                points = sorted(saved.get((dataset, images), {}).items())
                if points:
                    panel.plot(*zip(*points, strict=True), style, color=colour, markersize=3, linewidth=1, label=whose)
        panel.set_yscale("symlog", linthresh=0.01)
        panel.set_ylim(0, 100)
        panel.set_xticks(results.DEPTHS[dataset])
        panel.set_xlabel("latent layers")
        panel.set_title(results.DATASETS[dataset])
    panels[0].set_ylabel("bits/dim saved over BB-ANS")
    figures.legend(figure, ncols=2)
    return figure


def table(ours, papers):
    """The numbers as text."""
    lines = [f"{'dataset':16} images  nz  {'ours':>8} {'paper':>8}"]
    for dataset, images in ours:
        for nz, saved in sorted(ours[dataset, images].items()):
            paper = papers.get((dataset, images), {}).get(nz)
            cell = "-" if paper is None else f"{paper:.4f}"
            lines.append(f"{dataset:16} {images:6} {nz:3}  {saved:8.4f} {cell:>8}")
    return "\n".join(lines)


@cli.script
def main(argv=None):
    """Read the results, draw."""
    parser = cli.parser(__doc__)
    results.add_arguments(parser)
    args = parser.parse_args(argv)
    paths.check_folder_writable(args.output / "plots")
    folder = results.where(args.results, args.output, results.parse)
    ours, papers = measured(results.load(folder, wanted=results.chosen(args))), published()
    if not ours:
        command = functools.partial(results.command, scheme="both", variant=results.Variant())
        raise results.nothing("results of both schemes", folder, args, command, results.COMPRESSED)
    print(f"results in {folder}\n\n{table(ours, papers)}\n")
    written = figures.save(draw(ours, papers), args.output / "plots" / "savings")
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
