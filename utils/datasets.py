"""The datasets behind one function: uint8 arrays kept under model/data/<dataset>/<split>.npy."""

from pathlib import Path

import numpy as np

from utils import paths
from utils.cli import UserError

SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "imagenet": (32, 32, 3)}
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


def to_channels_first(images):
    """Turn uint8 images [..., H, W, C] into what the models take: uint8 [..., C, 32, 32].

    Smaller images (MNIST's 28x28) are zero-padded evenly on every side, as in the paper.
    """
    height, width = images.shape[-3:-1]
    pads = [(0, 0)] * (images.ndim - 3) + [((32 - size) // 2, 32 - size - (32 - size) // 2) for size in (height, width)]
    padded = np.pad(images, [*pads, (0, 0)])
    return np.ascontiguousarray(np.moveaxis(padded, -1, -3))
