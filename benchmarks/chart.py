"""Draw the tables that compression.py and coder.py have written."""

import csv

import common

from utils import cli, figures, paths
from utils.errors import UserError

PARTS = {"network": "#BBBBBB", "all else": figures.BLUE}
FORMS = {"bfloat16": "--", "exact": "-"}  # drawn as lines
OTHERS = {"Laplace": figures.VERMILLION, "Gaussian": figures.GREEN}  # coders of constriction


def read(output, name):
    """The rows of a table. Raises UserError if there is none."""
    path = common.table_file(output, name)
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; run benchmarks/{name}.py first") from None


def draw_compression(axes, rows):
    """Time to encode and to decode, divided by that of the bare network in float32."""
    cases = list(dict.fromkeys((row["model"], row["lanes"]) for row in rows))
    for row in rows:
        for offset, what in ((-0.2, "encode"), (0.2, "decode")):
            middle = cases.index((row["model"], row["lanes"])) + offset
            total = float(row[f"{what} x"])
            if row["form"] in FORMS:
                ends, style = (middle - 0.18, middle + 0.18), FORMS[row["form"]]
                axes.plot(ends, (total, total), style, color="black", linewidth=1, label=row["form"])
                continue
            network = float(row[f"{what} network"]) / float(row["forward ms"])
            for part, height, below in zip(PARTS, (network, total - network), (0, network), strict=True):
                axes.bar(middle, height, 0.36, bottom=below, color=PARTS[part], label=f"float32: {part}")
    axes.axhline(1, color="black", linewidth=0.6, linestyle=":")
    axes.set_xticks(range(len(cases)), ["\n".join(case) for case in cases], fontsize=5)
    axes.set_title("Time next to the bare network in float32\n(left: encode, right: decode; below: model, lanes)")


def draw_coder(axes, rows):
    """Symbols per second by number of lanes. The other coders are lines across."""
    ours = [row for row in rows if row["coder"] == "ours"]
    for what, line, marker in (("encode", "-", "o"), ("decode", "--", "s")):
        column = f"{what} Msymbols/s"
        lanes, speeds = ([float(row[key]) for row in ours] for key in ("lanes", column))
        axes.plot(lanes, speeds, line, marker=marker, markersize=3, color=figures.BLUE, label=f"ours, {what}")
        for row in rows:
            if row["model"] in OTHERS:
                colour, label = OTHERS[row["model"]], f"{row['coder']}, {row['model']}, {what}"
                axes.axhline(float(row[column]), linestyle=line, color=colour, linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lanes")
    axes.set_title("The coder alone, million symbols/s")


@cli.script
def main():
    parser = cli.parser("Draw the tables of compression.py and coder.py. Writes OUTPUT/benchmarks/chart.png.")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which benchmarks/ lies")
    args = parser.parse_args()
    figure = figures.sheet(6.75, 3.2)
    panels = {"compression": draw_compression, "coder": draw_coder}
    for axes, (name, draw) in zip(figure.subplots(1, 2, width_ratios=[4, 3]), panels.items(), strict=True):
        draw(axes, read(args.output, name))
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # each label once
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
        axes.legend(handles.values(), handles.keys(), fontsize=6, **place)
    common.save_figure(figure, args.output, "chart")


if __name__ == "__main__":
    main()
