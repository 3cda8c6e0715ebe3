"""Results of the experiments: the names of their files, where they are, what is in them.

A folder of results has a folder <dataset><nz> for each model, with

    <scheme>_<settings>_{nets,elbos,cmas,total}.npy   rates that a compression script measured, floats [chains, images]
    <scheme>_<settings>_made.csv                      what made them; see write_made()
    x.csv, z1.csv ...                                 curves that a training script wrote; see stackplot.py
    made.csv                                          what made these

The settings are <q>bits[_exact][_bf16][_whitened][_seed<seed>][_<chains>x<images>]; the paper's are 10bits. The scripts
write to OUTPUT/plots. docs/results has the results that ship, with the arrays as float32 (scripts/keep_results.py puts
them there), and published.json, the paper's numbers.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL

from utils import cli, datasets, paths, tables
from utils.errors import UserError
from utils.published import CHAINS, SEED, SETTINGS

if TYPE_CHECKING:
    import torch

DATASETS = {
    "mnist": "MNIST",
    "cifar": "CIFAR-10",
    "imagenet": "ImageNet 32×32",
    "imagenetcrop": "ImageNet patches",
}
DEPTHS = {dataset: tuple(settings.widths) for dataset, settings in SETTINGS.items()}  # the paper's nz
SCHEMES = {"bitswap": "Bit-Swap", "bbans": "BB-ANS"}
MEASURES = ("nets", "elbos", "cmas", "total")
SHIPPED = paths.ROOT / "docs" / "results"

ModelName = tuple[str, int]  # dataset, nz


class Rates(NamedTuple):
    """The rates of one model with one scheme; the arrays are float64 [chains, images].

    nets, elbos and cmas in bits per dimension of the images themselves, total in bits.
    """

    folder: Path  # that they were read from
    nets: np.ndarray  # that each image added to its chain
    elbos: np.ndarray  # negative ELBO of each image
    cmas: np.ndarray  # of the chain so far, initial bits included
    total: np.ndarray  # bits of the chain so far, initial bits included


# Names


def seed_name(seed: int) -> str:
    """The part of a name for the choice of images, "" for the published one."""
    return "" if seed == SEED else f"_seed{seed}"


def size_name(chains: int, images: int) -> str:
    """The part of a name for chains and images in each, "" for the paper's."""
    return "" if (chains, images) == (CHAINS, CHAINS) else f"_{chains}x{images}"


# Files


def found(folders: Sequence[Path], pattern: str) -> dict[ModelName, list[Path]]:
    """The files whose names match a pattern, {(dataset, nz): files}, in the order of the figures.

    folders: folders of results, which need not exist. The first that has such a file of a model counts.
    """
    models: dict[ModelName, list[Path]] = {}
    for folder in (path for each in folders for path in each.glob("*")):
        model = re.fullmatch(rf"({'|'.join(DATASETS)})([1-9]\d*)", folder.name)
        files = sorted(path for path in folder.glob("*") if re.fullmatch(pattern, path.name))
        if model and files:
            models.setdefault((model[1], int(model[2])), files)
    order = list(DATASETS)
    return dict(sorted(models.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def load(folders: Sequence[Path]) -> dict[ModelName, dict[str, Rates]]:
    """The results with the paper's settings, {(dataset, nz): {scheme: Rates}}, Bit-Swap's first.

    If a model has none of the paper's 100 chains of 100 images, those of the most images.
    Raises UserError if a file is damaged, and OSError if one is missing.
    """
    name = rf"({'|'.join(SCHEMES)})_10bits((?:_\d+x\d+)?)_nets\.npy"

    def images(size):
        return np.prod([int(count) for count in re.findall(r"\d+", size)]) if size else np.inf

    models: dict[ModelName, dict[str, Rates]] = {}
    for model, files in found(folders, name).items():
        matches = [match for file in files if (match := re.fullmatch(name, file.name))]
        size = max((match[2] for match in matches), key=images)
        schemes = {match[1] for match in matches if match[2] == size}
        stems = {scheme: files[0].with_name(f"{scheme}_10bits{size}") for scheme in SCHEMES if scheme in schemes}
        models[model] = {scheme: _load_one(stem, datasets.padding(model[0])) for scheme, stem in stems.items()}
    return models


def _load_one(stem: Path, factor: float) -> Rates:
    """Read Rates from <stem>_<measure>.npy. factor: from the files' bits/dim to the images' own."""
    files = [stem.with_name(f"{stem.name}_{measure}.npy") for measure in MEASURES]
    nets, elbos, cmas, total = arrays = [load_array(file) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape != nets.shape:
            raise UserError(f"{file} has shape {list(array.shape)}, and {files[0].name} {list(nets.shape)}")
    return Rates(stem.parent, nets * factor, elbos * factor, cmas * factor, total)


def load_array(path: str | Path) -> np.ndarray:
    """Read one array of rates as float64 [chains, images]. Raises UserError if it is not of finite floats."""
    try:
        # Mapped first: a header that promises more than the file holds is refused before memory is allocated.
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is not an array, or damaged ({error})") from error
    if array.dtype not in (np.float32, np.float64) or array.ndim != 2 or not array.size:
        raise UserError(f"{path} is not an array of floats [chains, images]")
    if not np.isfinite(array).all():
        raise UserError(f"{path} has numbers that are not finite")
    return np.array(array, np.float64)


def describe_maker(device: "torch.device") -> tuple[str, ...]:
    """What makes a result at present: the commit of this program, the processor and the versions, see write_made().

    device: that of the networks. A commit that git does not tell is "unknown"; "-dirty" marks uncommitted changes.
    """
    import torch  # late, so that --help answers at once

    describe = ["git", "describe", "--always", "--dirty"]
    within = os.environ | {"GIT_CEILING_DIRECTORIES": str(paths.ROOT.parent)}  # not of a repository around this one
    commit = ""
    with contextlib.suppress(OSError):  # there is no git
        commit = subprocess.run(describe, cwd=paths.ROOT, env=within, capture_output=True, text=True).stdout.strip()
    versions = platform.python_version(), torch.__version__, np.__version__, PIL.__version__
    return commit or "unknown", processor(device), *versions


def write_made(path: Path, maker: Sequence[str]) -> None:
    """Write a table of one row: what describe_maker() returned before the work."""
    tables.write_csv(path, ("commit", "processor", "Python", "PyTorch", "NumPy", "Pillow"), [maker])


def processor(device: "torch.device") -> str:
    """The name of the GPU, or of the CPU, that a device is."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):  # it is Linux's
        if name := re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return name[1]
    return platform.processor() or platform.machine()


# Numbers

AFTER = (1, 10, 50, 100)  # images after which tables give the cumulative moving average


def numbers(result: Rates) -> dict[str, float]:
    """What tables show of Rates, in bits/dim.

    elbo, net, net_std (over all images), cma_<n> for n in AFTER (the mean over the chains; NaN if they are shorter);
    and bits_1, the bits of a chain after its first image.
    """
    cmas = result.cmas.mean(axis=0)
    means = {f"cma_{n}": cmas[n - 1] if n <= len(cmas) else np.nan for n in AFTER}
    net = {"elbo": result.elbos.mean(), "net": result.nets.mean(), "net_std": result.nets.std()}
    return net | means | {"bits_1": result.total[:, 0].mean()}


def published() -> dict[ModelName, dict[str, dict[str, float]]]:
    """The paper's numbers(), {(dataset, nz): {scheme: numbers}}."""
    found = json.loads((SHIPPED / "published.json").read_text(encoding="utf-8"))["results"]
    models = [(dataset, nz) for dataset, depths in DEPTHS.items() for nz in depths]
    return {(dataset, nz): found[f"{dataset}{nz}"] for dataset, nz in models if f"{dataset}{nz}" in found}


# The command line of the figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all figures: which models, read from where, written where."""
    parser.add_argument("--dataset", choices=tuple(DATASETS), help="draw only this one (default: all)")
    parser.add_argument("--nz", type=cli.whole_number(1), help="draw only so many latent layers (default: all)")
    help = "holds <dataset><nz>/ (default: of each model OUTPUT/plots if it has something to draw, else docs/results)"
    parser.add_argument("--results", type=Path, metavar="DIR", help=help)
    help = "folder under which plots/ is written"
    parser.add_argument("--output", type=Path, default=paths.ROOT, metavar="DIR", help=help)


def sources(args: argparse.Namespace) -> list[Path]:
    """The folders of results to draw from, see found()."""
    return [args.results] if args.results else [args.output / "plots", SHIPPED]


def chosen(args: argparse.Namespace, models: dict[ModelName, Any], what: str) -> dict[ModelName, Any]:
    """Those of {(dataset, nz): ...} that the flags choose. Raises UserError if there are none. what: in words."""
    kept = {(name, nz): models[name, nz] for name, nz in models if (args.dataset or name, args.nz or nz) == (name, nz)}
    if not kept:
        flags = " ".join(f"--{flag}={getattr(args, flag)}" for flag in ("dataset", "nz") if getattr(args, flag))
        raise UserError(f"no {what} in {' or '.join(map(str, sources(args)))}{flags and f' with {flags}'}")
    return kept


def origin(folder: Path) -> str:
    """The mark of a model's folder: "shipped" for those that ship, else ""."""
    return "shipped" if folder.parent == SHIPPED else ""
