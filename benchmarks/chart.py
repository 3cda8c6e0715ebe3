"""Draw what the benchmarks have written."""

import csv

import common

from utils import cli, figures, paths
from utils.cli import UserError

PARTS = {"network": "#BBBBBB", "cdf": figures.BLUE, "rANS": figures.GREEN, "rest": figures.VERMILLION}


def read(output, name):
    """The rows of a table. Raises UserError where there is none."""
    path = common.table_file(output, name)
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; run benchmarks/{name}.py first") from None


def draw_compression(axes, rows):
    """Encode and decode time over the forward passes alone in float32, by part; of the other forms as a line."""
    labels, forms = [], {"bfloat16": "--", "exact": "-"}
    others = {(row["model"], row["lanes"], row["form"]): row for row in rows}
    rows = [row for row in rows if row["form"] == "float32"]
    for i, row in enumerate(rows):
        for offset, what in ((-0.2, "encode"), (0.2, "decode")):
            below = 0.0
            for part, colour in PARTS.items():
                height = float(row[f"{what} {part}"]) / float(row["forward ms"])
                axes.bar(i + offset, height, 0.36, bottom=below, color=colour, label=part)
                below += height
            for form, style in forms.items():
                if (row["model"], row["lanes"], form) in others:
                    height = float(others[row["model"], row["lanes"], form][f"{what} x"])
                    ends = i + offset - 0.18, i + offset + 0.18
                    axes.plot(ends, (height, height), style, color="black", linewidth=1, label=form)
        labels.append(f"{row['model']}\n{row['lanes']}")
    axes.axhline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(labels)), labels, fontsize=4.5)
    axes.set_title("Time to code over bare forward passes in float32\n(left encode, right decode; by model and lanes)")


def draw_coder(axes, rows):
    """Symbols per second by lanes, other coders as lines across."""
    ours = [row for row in rows if row["coder"] == "ours"]
    styles = {"encode": ("-", "o"), "decode": ("--", "s")}
    for what, (line, marker) in styles.items():
        column = f"{what} Msymbols/s"
        lanes, speeds = ([float(row[key]) for row in ours] for key in ("lanes", column))
        axes.plot(lanes, speeds, line, marker=marker, markersize=3, color=figures.BLUE, label=f"ours, {what}")
        others = {"Laplace": figures.VERMILLION, "Gaussian": figures.GREEN}
        for row in rows:
            if row["model"] in others:
                colour, label = others[row["model"]], f"{row['coder']}, {row['model']}, {what}"
                axes.axhline(float(row[column]), linestyle=line, color=colour, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lanes")
    axes.set_title("The coder alone, million symbols/s")


def draw_memory(axes, rows):
    """Peak memory, PyTorch's own share apart."""
    labels = []
    for i, row in enumerate(rows):
        own = float(row["PyTorch MiB"])
        axes.barh(i, own, color="#BBBBBB", label="PyTorch alone")
        axes.barh(i, float(row["peak MiB"]) - own, left=own, color=figures.BLUE, label="above it")
        size = f"{row['samples']} samples" if row["samples"] else f"{row['lanes']} x {row['images']} images"
        labels.append(f"{row['what']}, {row['model']}\n{size}")
    axes.set_yticks(range(len(labels)), labels, fontsize=5)
    axes.invert_yaxis()
    axes.set_title("Peak memory, MiB")


def legend_below(axes, columns):
    """A legend under a panel, each label once."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
    axes.legend(handles.values(), handles.keys(), fontsize=6, **place)


@cli.script
def main():
    parser = cli.parser("Draw what compression.py, coder.py and memory.py have written: OUTPUT/benchmarks/chart.png.")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which benchmarks/ lies")
    args = parser.parse_args()
    panels = {"compression": draw_compression, "coder": draw_coder, "memory": draw_memory}
    tables = {name: read(args.output, name) for name in panels}
    figure = figures.sheet(9, 3.2)
    for axes, (name, draw) in zip(figure.subplots(1, 3, width_ratios=[4, 3, 3]), panels.items(), strict=True):
        draw(axes, tables[name])
        legend_below(axes, 4 if name == "compression" else 2)
    path = common.table_file(args.output, "chart").with_suffix(".png")
    with paths.replacing(path) as file:
        figure.savefig(file, format="png", dpi=300)
    print(f"drawn to {path}")


if __name__ == "__main__":
    main()
