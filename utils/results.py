"""Results of the experiments: the names of their files, where they lie, what is in them.

A folder of results has a folder <dataset><nz> for each model, with

    <name>_{nets,elbos,cmas,total}.npy   rates that a compression script measured, floats [chains, images]; see name()
    x.csv, z1.csv ...                    curves that a training script wrote; see stackplot.py

The scripts write to OUTPUT/plots. docs/results has the results that ship, with the arrays as float32
(scripts/keep_results.py puts them there), and published.json, the paper's numbers.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils import cli, paths
from utils.cli import PRECISIONS
from utils.errors import UserError
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
BITSWAP = {"bitswap": "1", "bbans": "0"}  # their values of the flag --bitswap
MEASURES = ("nets", "elbos", "cmas", "total")
FULL = (CHAINS, CHAINS)  # chains, images in each: the paper's protocol
PADDING = {"mnist": 32 * 32 / (28 * 28)}  # dimensions that the model sees, per dimension of the images themselves
SHIPPED = paths.ROOT / "docs" / "results"

Model = tuple[str, int]  # dataset, nz


class Variant(NamedTuple):
    """How a result was computed, apart from the scheme; the fields are the flags of the same names."""

    quantbits: int = 10
    exact: bool = False
    whiten: bool = False
    precision: str = PRECISIONS[0]
    chains: int = FULL[0]
    images: int = FULL[1]  # in a chain


# Fields that may depart from the paper's protocol: the value that does, its part of names, its words, its flag.
_DEPARTURES = {
    "exact": (True, "_exact", "exact", "--exact"),
    "precision": (PRECISIONS[1], "_bf16", PRECISIONS[1], f"--precision={PRECISIONS[1]}"),
    "whiten": (True, "_whitened", "whitened", "--whiten"),
}


class Result(NamedTuple):
    """The rates of one model with one scheme; the arrays are float64 [chains, images].

    nets, elbos and cmas in bits per dimension of the images themselves, total in bits.
    """

    variant: Variant
    nets: np.ndarray  # that each image added to its chain
    elbos: np.ndarray  # negative ELBO of each image
    cmas: np.ndarray  # of the chain so far, initial bits included
    total: np.ndarray  # bits of the chain so far, initial bits included
    is_shipped: bool = False  # and was found for want of the user's own


# Names


def name(scheme: str, variant: Variant) -> str:
    """The start of the names of a result's files: <scheme>_<q>bits[_exact][_bf16][_whitened][_<chains>x<images>].

    Without the optional parts it means the paper's protocol, 100 chains of 100 images in floats.
    """
    return f"{scheme}_{settings_name(variant)}{size_name(variant.chains, variant.images)}"


def settings_name(settings: Variant | argparse.Namespace) -> str:
    """The part of a name for a Variant, or a command line, without its chains: <q>bits[_exact][_bf16][_whitened]."""
    return "".join([f"{settings.quantbits}bits", *_departures(settings, 1)])


def seed_name(seed: int) -> str:
    """The part of a name for the choice of images, "" for the published one. Figures show only that."""
    return "" if seed == SEED else f"_seed{seed}"


def size_name(chains: int, images: int) -> str:
    """The part of a name for chains and images in each, "" for the paper's."""
    return "" if (chains, images) == FULL else f"_{chains}x{images}"


def _departures(settings: Variant | argparse.Namespace, column: int) -> list[Any]:
    return [row[column] for field, row in _DEPARTURES.items() if getattr(settings, field) == row[0]]


def parse(file: str) -> tuple[str, Variant] | None:
    """The (scheme, variant) that the name of a file of rates says, or None if it is another file."""
    pattern = r"([a-z]+)_(\d+)bits((?:_[a-z][a-z0-9]*)*?)(?:_(\d+)x(\d+))?_([a-z]+)\.npy"
    match = re.fullmatch(pattern, file)
    if not match or match[1] not in SCHEMES or match[6] not in MEASURES:
        return None
    scheme, quantbits, parts, chains, images, measure = match.groups()
    departures: dict[str, Any] = {field: row[0] for field, row in _DEPARTURES.items() if row[1] in parts}
    variant = Variant(int(quantbits), **departures)
    if chains:
        variant = variant._replace(chains=int(chains), images=int(images))
    return (scheme, variant) if file == f"{name(scheme, variant)}_{measure}.npy" else None


def describe(variant: Variant) -> str:
    """How a variant departs from the paper's protocol, in words; "" if it does not."""
    words = [f"{variant.quantbits} bits"] * (variant.quantbits != 10) + _departures(variant, 2)
    if (variant.chains, variant.images) != FULL:
        words.append(f"{variant.chains} chain{'s' * (variant.chains > 1)} of {variant.images}")
    return ", ".join(words)


def command(dataset: str, nz: int, scheme: str, variant: Variant) -> str:
    """The command that computes a result."""
    flags = [f"--nz={nz}", f"--bitswap={BITSWAP.get(scheme, scheme)}"]
    flags += [f"--quantbits={variant.quantbits}"] * (variant.quantbits != 10) + _departures(variant, 3)
    if (variant.chains, variant.images) != FULL:
        flags += [f"--experiments={variant.chains}", f"--ndatapoints={variant.images}"]
    return " ".join(["python", f"{dataset}_compress.py", *flags])


# Files


def folder(dataset: str, nz: int, results: str | Path) -> Path:
    """The folder of one model in a folder of results."""
    return Path(results) / f"{dataset}{nz}"


def found(folders: Sequence[Path], holds: Callable[[str], object]) -> dict[Model, tuple[Path, list[str]]]:
    """The models with files that `holds(name)` accepts, {(dataset, nz): (folder, file names)}, in the figures' order.

    folders: folders of results, which need not exist. Of each model, the first that has such a file counts.
    Raises UserError if one cannot be read.
    """
    models: dict[Model, tuple[Path, list[str]]] = {}
    for each in folders:
        try:
            for path in each.iterdir() if each.exists() else ():
                match = re.fullmatch(rf"({'|'.join(DATASETS)})([1-9]\d*)", path.name)
                if match and path.is_dir():
                    names = sorted(file.name for file in path.iterdir() if holds(file.name))
                    if names:
                        models.setdefault((match[1], int(match[2])), (path, names))
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    order = list(DATASETS)
    return dict(sorted(models.items(), key=lambda model: (order.index(model[0][0]), model[0][1])))


def load(
    folders: Sequence[Path],
    counts: Callable[[Variant], bool] = lambda variant: variant.quantbits == 10,
    wanted: Callable[[str, int], bool] = lambda dataset, nz: True,
) -> dict[Model, dict[str, Result]]:
    """Read the results to draw, {(dataset, nz): {scheme: Result}}: of each model one variant.

    That is the paper's, or else one in float32 that is not whitened, or else the one of the most images.
    folders: see found(). counts: the variants that count. wanted: the models that count.
    Raises UserError if a file is damaged or missing.
    """

    def preference(variant):
        plain = not _departures(variant, 0)
        is_full = (variant.chains, variant.images) == FULL
        return plain and is_full, plain, variant.chains * variant.images, variant.images, len(variants[variant])

    loaded: dict[Model, dict[str, Result]] = {}
    for model, (path, files) in found(folders, lambda file: (parsed := parse(file)) and counts(parsed[1])).items():
        if wanted(*model):
            variants: dict[Variant, set[str]] = {}
            for scheme, variant in filter(None, map(parse, files)):
                variants.setdefault(variant, set()).add(scheme)
            best = max(variants, key=preference)
            mark = is_shipped(path, folders)
            loaded[model] = {
                scheme: _load_one(path, scheme, best, PADDING.get(model[0], 1), mark)
                for scheme in SCHEMES
                if scheme in variants[best]
            }
    return loaded


def is_shipped(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a model's folder is to be marked as shipped: not if only one folder of results was asked for."""
    return path.parent == SHIPPED and len(folders) > 1


def _load_one(folder: Path, scheme: str, variant: Variant, factor: float, is_shipped: bool) -> Result:
    """Read one Result from a model's folder. factor: from the files' bits/dim to the images' own.

    A name without chains and images may belong to fewer than the paper's; the Result's variant says how many.
    """
    files = {measure: folder / f"{name(scheme, variant)}_{measure}.npy" for measure in MEASURES}
    nets, elbos, cmas, total = (load_array(file) for file in files.values())
    size = nets.shape if (variant.chains, variant.images) == FULL else (variant.chains, variant.images)
    for file, array in zip(files.values(), (nets, elbos, cmas, total), strict=True):
        if array.shape != size:
            raise UserError(f"{file}: has shape {list(array.shape)}, unlike its name or {files['nets'].name}")
    variant = variant._replace(chains=size[0], images=size[1])
    return Result(variant, nets * factor, elbos * factor, cmas * factor, total, is_shipped)


def load_array(path: str | Path) -> np.ndarray:
    """Read one array of rates as float64 [chains, images]. Raises UserError if it is not of finite floats."""
    try:
        # Mapped first: a header that promises more than the file holds is refused before memory is allocated.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises some ten different types on damaged files
        reason = getattr(error, "strerror", None) or "not a NumPy array file, or damaged, or cut short"
        raise UserError(f"{path}: {reason}") from None
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        raise UserError(f"{path}: holds {getattr(array, 'dtype', 'an archive')}, not a float32 or float64 array")
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise UserError(f"{path}: is not an array [chains, images] of finite numbers, but of shape {list(array.shape)}")
    return np.array(array, np.float64)


def published() -> dict[Model, dict[str, dict[str, float]]]:
    """The paper's numbers, {(dataset, nz): {scheme: {name: number}}}, in bits per dimension of the images themselves.

    Names: elbo, net, net_std, cma_1, cma_10, cma_50, cma_100; and bits_1, the bits of a chain after its first image.
    """
    numbers = json.loads((SHIPPED / "published.json").read_text(encoding="utf-8"))["results"]
    models = {(dataset, nz): numbers.get(f"{dataset}{nz}") for dataset, depths in DEPTHS.items() for nz in depths}
    return {model: schemes for model, schemes in models.items() if schemes}


def after(result: Result, images: int) -> float:
    """The cumulative moving average after so many images, the mean over the chains; NaN if there are fewer."""
    return result.cmas[:, images - 1].mean() if images <= result.cmas.shape[1] else math.nan


# The command line of the figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all figures: which models, read from where, written where."""
    help = "draw only these, separated by commas (default: all)"
    parser.add_argument("--dataset", type=cli.several(tuple(DATASETS)), action="extend", metavar="NAME", help=help)
    help = "draw only these numbers of latent layers, separated by commas (default: all)"
    parser.add_argument("--nz", type=cli.several(), action="extend", metavar="N", help=help)
    help = "holds <dataset><nz>/ (default: of each model OUTPUT/plots if it has something to draw, else docs/results)"
    parser.add_argument("--results", type=Path, metavar="DIR", help=help)
    help = "folder under which plots/ is written"
    parser.add_argument("--output", type=Path, default=paths.ROOT, metavar="DIR", help=help)


def sources(args: argparse.Namespace) -> list[Path]:
    """The folders of results to draw from, see found()."""
    return [args.results] if args.results else [args.output / "plots", SHIPPED]


def places(args: argparse.Namespace) -> str:
    """The same in words."""
    return " or else ".join(map(str, sources(args)))


def chosen(args: argparse.Namespace) -> Callable[[str, int], bool]:
    """The choice of --dataset and --nz as a function of (dataset, nz)."""
    return lambda dataset, nz: dataset in (args.dataset or DATASETS) and (not args.nz or nz in args.nz)


def nothing(
    what: str, args: argparse.Namespace, command: Callable[[str, int], str], datasets: Iterable[str]
) -> UserError:
    """The UserError if there is nothing to draw: what, in words, and command(dataset, nz) of a model that fits."""
    flags = [f"--{name}={','.join(map(str, value))}" for name in ("dataset", "nz") if (value := getattr(args, name))]
    text = " ".join([f"no {what} in {places(args)}", *(["with", *flags] if flags else [])])
    models = [(dataset, nz) for dataset in datasets for nz in DEPTHS[dataset] if chosen(args)(dataset, nz)]
    if not models:
        return UserError(f"{text}; the paper has no such model")
    several_layers = [model for model in models if model[1] > 1]  # with one, the schemes do not differ
    return UserError(f"{text}; make some: {command(*(several_layers or models)[0])}")
