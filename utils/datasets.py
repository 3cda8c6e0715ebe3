"""The datasets behind one function: uint8 arrays kept under model/data/<dataset>/<split>.npy."""

from pathlib import Path

import numpy as np

from utils import cli, paths
from utils.cli import UserError

SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "imagenet": (32, 32, 3)}
CHAINS = 100  # the paper's experiment: so many chains, of so many images each
_TORCHVISION = {"mnist": "MNIST", "cifar": "CIFAR10"}


def load(dataset, split, root=None):
    """Load the images of one split.

    dataset: "mnist", "cifar" or "imagenet" (ImageNet 32x32). split: "train" or "test".
    root: the folder that holds <dataset>/<split>.npy; model/data by default. Where the array is absent,
    MNIST and CIFAR-10 are downloaded with torchvision and the array is kept.
    Returns a read-only uint8 array [N, H, W, C], mapped from disk.
    Raises UserError, naming the file and the remedy, where the images are absent or not what they should be.
    """
    path = Path(root or paths.DATA) / dataset / f"{split}.npy"
    if not path.exists():
        _fetch(dataset, split, path)
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a NumPy array ({error}); delete it and fetch it again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != SHAPES[dataset] or not len(images):
        height, width, channels = SHAPES[dataset]
        raise UserError(
            f"{path} holds {images.dtype} {list(images.shape)}; {dataset} is uint8 [N, {height}, {width}, {channels}]"
        )
    return images


def _fetch(dataset, split, path):
    if dataset not in _TORCHVISION:
        raise UserError(f"{path} is absent; python model/create_imagenet.py prepares it")
    import torchvision

    print(f"{path} is absent: downloading {dataset} with torchvision")
    source = getattr(torchvision.datasets, _TORCHVISION[dataset])
    try:
        data = source(path.parent / "download", train=split == "train", download=True).data
    except (OSError, RuntimeError) as error:
        height, width, channels = SHAPES[dataset]
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{dataset} could not be downloaded ({reason}); put its {split} images at {path}, "
            f"a uint8 array [N, {height}, {width}, {channels}] written with numpy.save"
        ) from None
    with paths.whole(path) as file:
        np.save(file, np.asarray(data).reshape(-1, *SHAPES[dataset]))


def sample_chains(count, experiments, ndatapoints, seed):
    """Choose the test images of the compression experiment, none twice.

    count: how many test images there are. experiments, ndatapoints: chains and images in each; None stands for
    CHAINS, or as many as there are images for, with a note where that is fewer.
    Returns their indices, int [experiments, ndatapoints]: a row per chain.
    Raises UserError where there are not enough images.
    """
    wanted = experiments or CHAINS, ndatapoints or CHAINS
    ndatapoints = ndatapoints or max(1, min(CHAINS, count // (experiments or 1)))
    experiments = experiments or max(1, min(CHAINS, count // ndatapoints))
    if experiments * ndatapoints > count:
        raise UserError(
            f"--experiments={experiments} --ndatapoints={ndatapoints}: that takes {experiments * ndatapoints} "
            f"different images, and the test set has {count}"
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed={seed}: a seed is at least 0 and less than 2^32")
    if (experiments, ndatapoints) != wanted:
        print(f"Note: there are {count} test images: using {experiments} x {ndatapoints} of them")
    return np.random.RandomState(seed).choice(count, (experiments, ndatapoints), replace=False)


def add_arguments(parser):
    """The arguments that choose test images, as sample_chains() takes them."""
    fewer = f"(default: {CHAINS}, or as many as the test set allows)"
    parser.add_argument("--experiments", type=cli.whole_number(1), help=f"chains, each coded on its own {fewer}")
    parser.add_argument("--ndatapoints", type=cli.whole_number(1), help=f"images in a chain {fewer}")
    parser.add_argument("--seed", type=cli.whole_number(0), default=100, help="seed of the choice of images")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")


def model_shape(dataset):
    """The shape (C, H, W) of a dataset's images as the models take them: see to_channels_first()."""
    return (SHAPES[dataset][-1], 32, 32)


def to_channels_first(images):
    """Turn uint8 images [..., H, W, C] into what the models take: uint8 [..., C, 32, 32].

    Smaller images (MNIST's 28x28) are zero-padded evenly on every side, as in the paper.
    """
    height, width = images.shape[-3:-1]
    pads = [(0, 0)] * (images.ndim - 3) + [((32 - size) // 2, 32 - size - (32 - size) // 2) for size in (height, width)]
    padded = np.pad(images, [*pads, (0, 0)])
    return np.ascontiguousarray(np.moveaxis(padded, -1, -3))
