"""What the figures share: names and units of the datasets, where results lie, the look of a figure, saving it."""

import contextlib
import os
import re
from pathlib import Path

from utils import paths
from utils.cli import UserError

DATASETS = {
    "mnist": "MNIST",
    "cifar": "CIFAR-10",
    "imagenet": "ImageNet 32×32",
    "imagenetcrop": "ImageNet patches",
}

# Results count the dimensions that the model sees; MNIST's 28x28 images are zero-padded to 32x32 for it.
REAL_DIMENSIONS = {"mnist": 28 * 28 / (32 * 32)}

RESULTS = paths.results("mnist", 2).parent  # the folder that holds every <dataset><nz>/

# Okabe and Ito's palette, distinguishable with any kind of colour vision; used by name.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

STYLE = {
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


def per_real_dimension(dataset):
    """The factor from bits per dimension as the model sees it to bits per dimension of the images themselves."""
    return 1 / REAL_DIMENSIONS.get(dataset, 1)


def folder(dataset, nz, results=RESULTS):
    """Folder of the results of one model under `results`."""
    return Path(results) / paths.results(dataset, nz).name


def found(results, holds):
    """The (dataset, nz) under `results` whose folder has a file that `holds(name)` accepts, in the figures' order."""
    try:
        folders = [path for path in Path(results).iterdir() if path.is_dir()]
        matches = {path: re.fullmatch(rf"({'|'.join(DATASETS)})([1-9]\d*)", path.name) for path in folders}
        models = [
            (match[1], int(match[2]))
            for path, match in matches.items()
            if match and any(holds(file.name) for file in path.iterdir())
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    return sorted(models, key=lambda model: (list(DATASETS).index(model[0]), model[1]))


def sheet(width, height):
    """An empty figure; sizes in inches, fonts in points as printed at that size.

    Looks the same whatever the user's matplotlibrc and environment say; needs no display.
    """
    os.environ["MPLBACKEND"] = "Agg"
    import matplotlib  # late, so that --help answers at once
    from matplotlib.figure import Figure  # not pyplot: there is no window to manage

    matplotlib.rcdefaults()
    matplotlib.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def grid(rows, columns, panel_width, panel_height):
    """A sheet of rows x columns panels: (figure, axes [rows, columns]). The y-axis is shared along a row."""
    figure = sheet(columns * panel_width, rows * panel_height)
    return figure, figure.subplots(rows, columns, sharey="row", squeeze=False)


def empty(axes, text):
    """Turn a panel into a note that says why it is empty."""
    axes.set_xticks([])
    axes.tick_params(left=False, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    remark(axes, 0.5, 0.5, text, ha="center", va="center")


def remark(axes, x, y, text, **alignment):
    """Small grey text in a panel; x and y in fractions of it."""
    axes.text(x, y, text, transform=axes.transAxes, fontsize=6, color=GREY, **alignment)


def folded(command):
    """A command on two lines, the second its flags: narrow enough for a panel."""
    return command.replace(" --", "\n--", 1)


def legend(figure, **spacing):
    """One legend above for all panels, each label once."""
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=10, **spacing)


@contextlib.contextmanager
def output(path):
    """Open `path` for writing bytes, whole or not at all; a failure becomes a UserError that names it."""
    try:
        with paths.whole(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def save(figure, stem):
    """Write a figure as <stem>.pdf (vector, fonts embedded) and <stem>.png (300 dpi); returns the two paths."""
    files = {Path(f"{stem}.pdf"): {"metadata": {"CreationDate": None}}, Path(f"{stem}.png"): {"dpi": 300}}
    for path, options in files.items():
        with output(path) as file:
            figure.savefig(file, format=path.suffix[1:], **options)
    return list(files)
