"""The datasets behind one function: uint8 arrays in model/data/<dataset>/<split>.npy, and for imagenetcrop patches of
the photographs in model/data/imagenetcrop/<split>.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils import cli, originals, paths
from utils.errors import UserError
from utils.photographs import PATCH, Patches, open_photographs, random_patches
from utils.published import CHAINS, SEED

SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "imagenet": (32, 32, 3)}  # of the arrays
PHOTOGRAPHS = "imagenetcrop"
NAMES = (*SHAPES, PHOTOGRAPHS)
TEST_PATCHES = 2000  # at least, over all test photographs
_TORCHVISION = {"mnist": "MNIST", "cifar": "CIFAR10"}


def find_folder(dataset: str, split: str, root: str | Path | None = None) -> Path:
    """The folder of a dataset: <dataset> in a folder of datasets, or that folder itself if it has the split."""
    folder = Path(root or paths.DATA)
    return folder if folder.absolute().name == dataset and has_split(folder, split) else folder / dataset


def find_photographs(split: str, root: str | Path | None = None) -> Path:
    """The folder of the photographs of a split."""
    return find_folder(PHOTOGRAPHS, split, root) / split


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder of a dataset has the array or the photographs of a split."""
    return any((folder / f"{split}{suffix}").exists() for suffix in ("", ".npy"))


def load(dataset: str, split: str, root: str | Path | None = None) -> np.ndarray | Patches:
    """Load the images of one split.

    dataset: "mnist", "cifar", "imagenet" (ImageNet 32x32) or "imagenetcrop". split: "train" or "test".
    root: the folder that holds <dataset>/<split>.npy, or <dataset> itself; default: model/data. If the array does not
    exist, MNIST and CIFAR-10 are read from the published files (see originals.py), or else downloaded with torchvision,
    and the array is kept there.
    Returns a read-only uint8 array [N, H, W, C], if it exists mapped from disk; for imagenetcrop Patches, which are
    indexed like it: one crop of every training photograph (photographs.recrop() makes others and more), and of every
    test photograph as many as give TEST_PATCHES, at random positions that are the same in every run.
    Raises UserError, with the file and the remedy, if the images are absent or not as expected.
    """
    if dataset == PHOTOGRAPHS:
        photographs = open_photographs(find_photographs(split, root))
        crops = math.ceil(TEST_PATCHES / len(photographs)) if split == "test" else 1
        return random_patches(photographs, 0, crops)
    path = find_folder(dataset, split, root) / f"{split}.npy"
    if path.exists():
        try:
            paths.require_regular(path)
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read as a NumPy array ({error}); delete it and fetch it again") from None
    else:
        images = _fetch(dataset, split, path)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != SHAPES[dataset] or not len(images):
        raise UserError(f"{path} holds {images.dtype} {list(images.shape)}; {dataset} is {_describe_array(dataset)}")
    return images


def _describe_array(dataset: str) -> str:
    return "uint8 [N, {}, {}, {}]".format(*SHAPES[dataset])


def _fetch(dataset: str, split: str, path: Path) -> np.ndarray:
    """The images of published files or of a download, which are kept at path."""
    if dataset not in _TORCHVISION:
        remedy = "python model/create_imagenet.py prepares it"
        if dataset != "imagenet":
            remedy = f"save the images there, {_describe_array(dataset)}"
        raise UserError(f"{path} does not exist; {remedy}")
    found = originals.find(dataset, split, (path.parent, path.parents[1]))
    if found:
        images, source = found
        print(f"{path} does not exist: made from {source}")
    else:
        images = _download(dataset, split, path)
    images = np.ascontiguousarray(images)
    try:
        with paths.replacing(path) as file:
            np.save(file, images)
    except UserError as error:
        print(f"Note: {error}; the images are not kept there")
    images.flags.writeable = False
    return images


def _download(dataset: str, split: str, path: Path) -> np.ndarray:
    """The images as torchvision downloads them: uint8 [N, H, W, C]."""
    import torchvision

    print(f"{path} does not exist: downloading {dataset} with torchvision")
    source = getattr(torchvision.datasets, _TORCHVISION[dataset])
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = source(folder, train=split == "train", download=True).data
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{dataset} could not be downloaded ({reason}); put torchvision's files into {path.parent}, or its {split} "
            f"images at {path}"
        ) from None
    return np.array(data).reshape(-1, *SHAPES[dataset])


def sample_chains(count: int, experiments: int | None, ndatapoints: int | None, seed: int) -> np.ndarray:
    """Choose the test images of the compression experiment, none twice.

    count: the number of test images. experiments, ndatapoints: chains and images in each; None means CHAINS, or as many
    as there are images for, with a note if that is fewer.
    Returns their indices, int [experiments, ndatapoints]: a row per chain.
    Raises UserError if there are not enough images.
    """
    wanted = experiments or CHAINS, ndatapoints or CHAINS
    ndatapoints = ndatapoints or max(1, min(CHAINS, count // (experiments or 1)))
    experiments = experiments or max(1, min(CHAINS, count // ndatapoints))
    if experiments * ndatapoints > count:
        raise UserError(
            f"--experiments={experiments} --ndatapoints={ndatapoints} requires {experiments * ndatapoints} "
            f"different images, and the test set has {count}"
        )
    if (experiments, ndatapoints) != wanted:
        print(f"Note: the test set has {cli.counted(count, 'image')}: using {experiments} x {ndatapoints}")
    return np.random.RandomState(seed).choice(count, (experiments, ndatapoints), replace=False)


def choose(dataset: str, args: argparse.Namespace) -> np.ndarray:
    """The test images that the flags of add_arguments() choose: uint8 [chains, images, H, W, C]."""
    images = load(dataset, "test", args.data)
    return images[sample_chains(len(images), args.experiments, args.ndatapoints, args.seed)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose test images, see sample_chains()."""
    fewer = f"(default: {CHAINS}, or as many as the test set allows)"
    parser.add_argument("--experiments", type=cli.whole_number(1), help=f"chains, each coded on its own {fewer}")
    parser.add_argument("--ndatapoints", type=cli.whole_number(1), help=f"images in a chain {fewer}")
    parser.add_argument("--seed", type=cli.SEED, default=SEED, help="seed of the choice of images")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")


def model_shape(dataset: str) -> tuple[int, int, int]:
    """The shape (C, H, W) of a dataset's images as the models take them: see to_channels_first()."""
    return (3, PATCH, PATCH) if dataset == PHOTOGRAPHS else (SHAPES[dataset][-1], 32, 32)


def padding(dataset: str) -> float:
    """Dimensions that a model sees, per dimension of the images themselves: the factor from its bits/dim to theirs."""
    seen = math.prod(model_shape(dataset))
    return seen / math.prod(SHAPES.get(dataset, (seen,)))


def to_channels_first(images: np.ndarray, size: Sequence[int] = (32, 32)) -> np.ndarray:
    """Turn uint8 images [..., H, W, C] into what the models take: uint8 [..., C, *size].

    Smaller images (MNIST's 28x28) are zero-padded evenly on every side, as in the paper.
    """
    missing = [wanted - side for wanted, side in zip(size, images.shape[-3:-1], strict=True)]
    pads = [(0, 0)] * (images.ndim - 3) + [(each // 2, each - each // 2) for each in missing]
    padded = np.pad(images, [*pads, (0, 0)])
    return np.ascontiguousarray(np.moveaxis(padded, -1, -3))
