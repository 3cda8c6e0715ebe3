"""The look of the figures, a panel for each model, and saving them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import cli, paths, results

if TYPE_CHECKING:  # matplotlib is imported where it is needed, so that --help answers at once
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with any kind of colour vision; used by name.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
COLOURS = (BLUE, GREEN, VERMILLION)
LIGHT_GREY = "#BBBBBB"  # differs from BLUE in print without colours as well

STYLE: dict[Any, Any] = {  # matplotlib names every key that there is
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "pdf.fonttype": 42,  # TrueType, embedded: what publishers' checks ask for
    "axes.unicode_minus": False,
}


def sheet(width: float, height: float) -> "Figure":
    """An empty figure; sizes in inches, fonts in points as printed at that size.

    Looks the same whatever the user's matplotlibrc and environment say; needs no display.
    """
    os.environ["MPLBACKEND"] = "Agg"
    import matplotlib  # late, so that --help answers at once
    from matplotlib.figure import Figure  # not pyplot: there is no window to manage

    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def grid(rows: int, columns: int, panel_width: float, panel_height: float) -> tuple["Figure", np.ndarray]:
    """A sheet of rows x columns panels: (figure, axes [rows, columns]). The y-axis is shared along a row."""
    figure = sheet(columns * panel_width, rows * panel_height)
    return figure, figure.subplots(rows, columns, sharey="row", squeeze=False)


def panels(notes: Mapping[tuple[str, int], str]) -> tuple["Figure", dict[tuple[str, int], "Axes"]]:
    """A sheet with a panel for each model, datasets below one another: (figure, {(dataset, nz): axes}).

    notes: {(dataset, nz): what the panel's title says below the number of latent layers}, in the order of the panels.
    """
    rows: dict[str, list[int]] = {}
    for dataset, nz in notes:
        rows.setdefault(dataset, []).append(nz)
    columns = max(map(len, rows.values()))
    width, height = (6.75, 1.9) if len(notes) > 1 else (4.5, 2.7)  # a page's width, or most of it
    figure, axes = grid(len(rows), columns, max(width / columns, 1.7), height)
    for row, (dataset, depths) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(f"{results.DATASETS[dataset]}\nbits/dim")
        for panel, nz in zip(row, depths, strict=False):
            panel.set_title("\n".join(filter(None, [cli.counted(nz, "latent layer"), notes[dataset, nz]])))
        for panel in row[len(depths) :]:
            panel.remove()
    return figure, dict(zip(notes, figure.axes, strict=True))


def remark(axes: "Axes", text: str, colour: str = GREY) -> None:
    """Small text at the top right of a panel."""
    axes.text(0.98, 0.98, text, transform=axes.transAxes, ha="right", va="top", fontsize=6, color=colour)


def legend(figure: "Figure", **spacing: Any) -> None:
    """One legend above all panels, each label once, in as many columns as the figure has room for."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for columns in range(len(handles), 0, -1):
        drawn = figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, **spacing)
        if columns == 1 or drawn.get_window_extent().width < figure.bbox.width:
            break
        drawn.remove()


def save(figure: "Figure", stem: str | Path) -> list[Path]:
    """Write a figure as <stem>.pdf (vector, fonts embedded) and <stem>.png (300 dpi); returns the two paths."""
    files = [Path(f"{stem}.pdf"), Path(f"{stem}.png")]
    for path in files:
        with paths.replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=300)
    return files
