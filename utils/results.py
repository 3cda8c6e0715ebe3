"""Results of the experiments: what their files are called, where they lie, what is in them.

A folder of results has a folder <dataset><nz> for each model, and in that

    <name>_{nets,elbos,cmas,total}.npy   rates that a compression script measured, floats [chains, images]; see name()
    x.csv, z1.csv ...                    curves that a training script wrote; see stackplot.py

The scripts write to OUTPUT/plots. docs/results has the results that ship, the arrays as float32
(scripts/keep_results.py puts them there), and published.json, the paper's numbers.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import cli, paths
from utils.cli import PRECISIONS, UserError
from utils.published import CHAINS, SEED, SETTINGS

DATASETS = {
    "mnist": "MNIST",
    "cifar": "CIFAR-10",
    "imagenet": "ImageNet 32×32",
    "imagenetcrop": "ImageNet patches",
}
COMPRESSED = ("mnist", "cifar", "imagenet")  # whose scripts save arrays: photographs' chains differ in length
DEPTHS = {dataset: tuple(settings.widths) for dataset, settings in SETTINGS.items()}  # the paper's nz
SCHEMES = {"bitswap": "Bit-Swap", "bbans": "BB-ANS"}
BITSWAP = {"bitswap": "1", "bbans": "0"}  # what the flag --bitswap calls them
MEASURES = ("nets", "elbos", "cmas", "total")
FULL = (CHAINS, CHAINS)  # chains, images in each: the paper's protocol

# Results count the dimensions that the model sees; MNIST's 28x28 images are zero-padded to 32x32 for it.
REAL_DIMENSIONS = {"mnist": 28 * 28 / (32 * 32)}

SHIPPED = paths.ROOT / "docs" / "results"


class Variant(NamedTuple):
    """How a result was computed, apart from the scheme; what the flags of the same names say."""

    quantbits: int = 10
    exact: bool = False
    whiten: bool = False
    precision: str = PRECISIONS[0]
    chains: int = FULL[0]
    images: int = FULL[1]  # in a chain


class Result(NamedTuple):
    """The rates of one model with one scheme; the arrays are float64 [chains, images].

    nets, elbos and cmas in bits per real dimension, total in bits.
    """

    variant: Variant
    nets: np.ndarray  # that each image added to its chain
    elbos: np.ndarray  # negative ELBO of each image
    cmas: np.ndarray  # of the chain so far, the initial bits included
    total: np.ndarray  # bits of the chain so far, the initial bits included


def name(scheme: str, variant: Variant) -> str:
    """What the files of a result begin with: <scheme>_<q>bits[_exact][_bf16][_whitened][_<chains>x<images>].

    The name without any of these stands for the paper's protocol, 100 chains of 100 images in floats.
    """
    return f"{scheme}_{settings_name(variant)}{size_name(variant.chains, variant.images)}"


def settings_name(settings: Variant | argparse.Namespace) -> str:
    """What names say of a Variant, or a command line, but for its chains: <q>bits[_exact][_bf16][_whitened]."""
    parts = {"_exact": settings.exact, "_bf16": settings.precision != PRECISIONS[0], "_whitened": settings.whiten}
    return f"{settings.quantbits}bits" + "".join(part for part, is_set in parts.items() if is_set)


def seed_name(seed: int) -> str:
    """What names say of the choice of images: "" for the published one. Figures are drawn of that alone."""
    return "" if seed == SEED else f"_seed{seed}"


def size_name(chains: int, images: int) -> str:
    """What names say of chains, and images in each: "" for the paper's."""
    return "" if (chains, images) == FULL else f"_{chains}x{images}"


def parse(file: str) -> tuple[str, Variant] | None:
    """The (scheme, variant) that a file of rates is named after, or None if it is no such file."""
    settings = r"(\d+)bits(_exact)?(_bf16)?(_whitened)?(?:_(\d+)x(\d+))?"
    match = re.fullmatch(rf"({'|'.join(SCHEMES)})_{settings}_({'|'.join(MEASURES)})\.npy", file)
    if not match:
        return None
    scheme, quantbits, exact, bf16, whiten, chains, images, measure = match.groups()
    chains, images = map(int, (chains, images)) if chains else FULL
    variant = Variant(int(quantbits), bool(exact), bool(whiten), PRECISIONS[bool(bf16)], chains, images)
    return (scheme, variant) if file == f"{name(scheme, variant)}_{measure}.npy" else None


def describe(variant: Variant) -> str:
    """In words, how a variant departs from the paper's protocol; "" where it does not."""
    words = [f"{variant.quantbits} bits"] * (variant.quantbits != 10)
    words += ["exact"] * variant.exact + [variant.precision] * (variant.precision != PRECISIONS[0])
    words += ["whitened"] * variant.whiten
    words += [f"{variant.chains} × {variant.images}"] * ((variant.chains, variant.images) != FULL)
    return ", ".join(words)


def command(dataset: str, nz: int, scheme: str, variant: Variant) -> str:
    """The command that computes a result."""
    flags = [f"--nz={nz}", f"--bitswap={BITSWAP.get(scheme, scheme)}"]
    flags += [f"--quantbits={variant.quantbits}"] * (variant.quantbits != 10)
    flags += ["--exact"] * variant.exact + [f"--precision={variant.precision}"] * (variant.precision != PRECISIONS[0])
    flags += ["--whiten"] * variant.whiten
    if (variant.chains, variant.images) != FULL:
        flags += [f"--experiments={variant.chains}", f"--ndatapoints={variant.images}"]
    return " ".join(["python", f"{dataset}_compress.py", *flags])


def per_real_dimension(dataset: str) -> float:
    """The factor from bits per dimension as the model sees it to bits per dimension of the images themselves."""
    return 1 / REAL_DIMENSIONS.get(dataset, 1)


def folder(dataset: str, nz: int, results: str | Path) -> Path:
    """The folder of one model in a folder of results."""
    return Path(results) / f"{dataset}{nz}"


def found(results: str | Path, holds: Callable[[str], object]) -> dict[tuple[str, int], list[str]]:
    """The models that have a file that `holds(its name)` accepts, {(dataset, nz): [file names]}, in the figures' order.

    Empty where there is no such folder; UserError where it cannot be read.
    """
    models = {}
    try:
        for path in Path(results).iterdir():
            match = re.fullmatch(rf"({'|'.join(DATASETS)})([1-9]\d*)", path.name)
            if match and path.is_dir():
                models[match[1], int(match[2])] = sorted(file.name for file in path.iterdir() if holds(file.name))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    order = sorted(models, key=lambda model: (list(DATASETS).index(model[0]), model[1]))
    return {model: models[model] for model in order if models[model]}


def where(given: str | Path | None, output: str | Path, holds: Callable[[str], object]) -> str | Path:
    """The folder to draw from: the one given, or OUTPUT/plots if it has a file that `holds(name)`, or SHIPPED."""
    ours = Path(output) / "plots"
    return given or (ours if found(ours, holds) else SHIPPED)


def load(
    results: str | Path,
    quantbits: int = 10,
    exact: bool | None = None,
    whiten: bool | None = None,
    wanted: Callable[[str, int], bool] = lambda dataset, nz: True,
) -> dict[tuple[str, int], dict[str, Result]]:
    """Read the results to draw, {(dataset, nz): {scheme: Result}}: of each model one variant, see preference().

    quantbits, exact, whiten: of the variants that count; None stands for either. wanted: the models that count.
    Raises UserError where a file is damaged or missing.
    """
    loaded = {}
    for (dataset, nz), files in found(results, parse).items():
        variants: dict[Variant, dict[str, None]] = {}
        for scheme, variant in filter(None, map(parse, files)):
            if variant.quantbits == quantbits and exact in (None, variant.exact) and whiten in (None, variant.whiten):
                variants.setdefault(variant, {})[scheme] = None
        if variants and wanted(dataset, nz):
            best = max(variants, key=lambda variant: (*preference(variant), len(variants[variant])))
            schemes = [scheme for scheme in SCHEMES if scheme in variants[best]]
            loaded[dataset, nz] = {scheme: load_one(results, dataset, nz, scheme, best) for scheme in schemes}
    return loaded


def preference(variant: Variant) -> tuple[bool, bool, int, int]:
    """What makes one variant preferable to another: to be the paper's; in float32, not whitened; the more images."""
    plain = not (variant.exact or variant.whiten) and variant.precision == PRECISIONS[0]
    full = (variant.chains, variant.images) == FULL
    return plain and full, plain, variant.chains * variant.images, variant.images


def load_one(results: str | Path, dataset: str, nz: int, scheme: str, variant: Variant) -> Result:
    """Read one Result; UserError where one of its files is missing, is damaged or differs from the others in shape.

    A plain name may belong to fewer images, from before they were told apart: the Result's variant has what there is.
    """
    path = folder(dataset, nz, results) / name(scheme, variant)
    files = {measure: path.with_name(f"{path.name}_{measure}.npy") for measure in MEASURES}
    for file in files.values():
        if not file.exists():
            remedy = command(dataset, nz, scheme, variant)
            raise UserError(f"{file} is missing, while others of its result are there; run {remedy}")
    arrays = {measure: load_array(file) for measure, file in files.items()}
    shape = arrays["nets"].shape
    if shape != (variant.chains, variant.images) and (variant.chains, variant.images) != FULL:
        raise UserError(f"{files['nets']}: has shape {list(shape)}, which is not what its name says")
    for measure, array in arrays.items():
        if array.shape != shape:
            shapes = f"shape {list(array.shape)}, but {files['nets'].name} has {list(shape)}"
            raise UserError(f"{files[measure]}: has {shapes}")
        if measure != "total":
            array *= per_real_dimension(dataset)
    return Result(variant._replace(chains=shape[0], images=shape[1]), **arrays)


def load_array(path: str | Path) -> np.ndarray:
    """Read one array of rates as float64 [chains, images]; UserError if it is anything but floats of 32 or 64 bits."""
    try:
        # Mapped first: a header that promises more than the file holds is refused before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises some ten different types on damaged files
        reason = getattr(error, "strerror", None) or "not a NumPy array file, or damaged, or cut short"
        raise UserError(f"{path}: {reason}") from None
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        raise UserError(f"{path}: holds {getattr(array, 'dtype', 'an archive')}, not a float32 or float64 array")
    if array.ndim != 2 or not array.size:
        raise UserError(f"{path}: has shape {list(array.shape)}, not [chains, images]")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: has values that are not finite")
    return np.array(array, np.float64)


def published() -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """The paper's numbers, {(dataset, nz): {scheme: {what: number}}}, in bits per real dimension.

    What: elbo, net, net_std, cma_1, cma_10, cma_50, cma_100; and bits_1, the bits of a chain after its first image.
    """
    numbers = json.loads((SHIPPED / "published.json").read_text(encoding="utf-8"))["results"]
    models = {(dataset, nz): numbers.get(f"{dataset}{nz}") for dataset, depths in DEPTHS.items() for nz in depths}
    return {model: schemes for model, schemes in models.items() if schemes}


def after(result: Result, images: int) -> float:
    """The cumulative moving average after so many images, the mean over the chains; NaN where there are fewer."""
    return result.cmas[:, images - 1].mean() if images <= result.cmas.shape[1] else math.nan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all figures: which models, read from where, written where."""
    help = "draw only these, divided by commas (default: all that are found)"
    parser.add_argument("--dataset", type=cli.several(tuple(DATASETS)), action="extend", metavar="NAME", help=help)
    help = "draw only so many latent layers, divided by commas (default: all that are found)"
    parser.add_argument("--nz", type=cli.several(), action="extend", metavar="N", help=help)
    help = "holds <dataset><nz>/ (default: OUTPUT/plots if it has something to draw, else docs/results)"
    parser.add_argument("--results", type=Path, metavar="DIR", help=help)
    help = "folder under which plots/ is written"
    parser.add_argument("--output", type=Path, default=paths.ROOT, metavar="DIR", help=help)


def chosen(args: argparse.Namespace) -> Callable[[str, int], bool]:
    """What --dataset and --nz choose, as a function of (dataset, nz)."""
    return lambda dataset, nz: dataset in (args.dataset or DATASETS) and (not args.nz or nz in args.nz)


def nothing(
    what: str, folder: str | Path, args: argparse.Namespace, command: Callable[[str, int], str], datasets: Iterable[str]
) -> UserError:
    """The UserError where there is nothing to draw; it names a command that makes some, of a model of the paper's.

    what: in words. command(dataset, nz): the command. datasets: those that it is for.
    """
    flags = [f"--dataset={','.join(args.dataset)}"] if args.dataset else []
    flags += [f"--nz={','.join(map(str, args.nz))}"] if args.nz else []
    text = " ".join([f"no {what} in {folder}", *(["with", *flags] if flags else [])])
    models = [(dataset, nz) for dataset in datasets for nz in DEPTHS[dataset] if chosen(args)(dataset, nz)]
    if not models:
        depths = "; ".join(f"{dataset} {', '.join(map(str, DEPTHS[dataset]))}" for dataset in datasets)
        return UserError(f"{text}; the paper's models are {depths}")
    several_layers = [model for model in models if model[1] > 1]  # with one, the schemes do not differ
    return UserError(f"{text}; make some: {command(*(several_layers or models)[0])}")
