"""Folders of photographs for the tests: noise, so that every patch is found in one place only."""

import numpy as np
from PIL import Image

from utils import datasets

SIZES = [(32, 32), (32, 33), (33, 32), (33, 33), (32, 200), (150, 32), (47, 61), (64, 64), (120, 95)]  # (H, W)


def photograph(height, width, seed=0):
    """Noise, so that every patch is found in one place only: uint8 [H, W, 3]."""
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3), np.uint8)


def fill(folder, sizes=SIZES, seed=0):
    """Write photographs into sub-folders, PNG and JPEG in turn; returns what they decode to, in the order of names."""
    for i, size in enumerate(sizes):
        path = folder / f"class{i % 3}" / f"{i:03}{('.png', '.JPEG')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(*size, seed)).save(path)
    return [np.array(Image.open(path)) for path in sorted(folder.rglob("*.*"))]


def load_train(data):
    return datasets.load("imagenetcrop", "train", data)


def fill_data(folder):
    """Make a folder for --data with nine training and four test photographs; returns it."""
    fill(folder / "imagenetcrop" / "train")
    fill(folder / "imagenetcrop" / "test", SIZES[-4:], seed=1)
    return folder
