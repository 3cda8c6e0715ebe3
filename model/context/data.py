"""What the context network learns from: tiles of photographs, or small images.

Some tiles come from photographs made smaller, which removes the traces of JPEG's blocks. For those, and some others,
the position of a pixel in a block is hidden. In small images the network knows the position in the image.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from model.context import features
from model.context.features import AROUND, INPUTS, PAD, PERIOD, SMALL_GRID, block_position, make_planes
from model.context.least_squares import predict_image
from model.context.torch_network import FEATURES
from utils import datasets, photographs, threads
from utils.cli import counted
from utils.compiled import compiled

TILE = (8, 16)
VALIDATION = 40  # photographs
VALIDATION_IMAGES = 500
SMALLER = 0.3  # share of tiles that come from photographs made smaller
NO_BLOCKS = 0.15  # share of the other tiles whose position in a block is hidden

_AROUND = ((0, -1), (-1, 0), (-1, -1), (-1, 1))  # W, N, NW and NE
_FRACTION = 64  # predictions by least squares are kept as whole numbers of 1 / _FRACTION grey levels

Described = list[torch.Tensor]  # the arguments of TorchContextNetwork.bits()


class Picture(NamedTuple):
    """An image with what is computed once for all of its pixels."""

    planes: np.ndarray  # with the padding that the second and all later rows are coded with
    least: np.ndarray  # int16 [H, W, 3]: least_squares.predict_image(planes), in 1 / _FRACTION grey levels


class Source(NamedTuple):
    """Where training draws pixels from."""

    what: str
    channels: int  # that count: 3, or 1 for grey images
    draw: Callable[[np.random.Generator, int], Described]  # (generator, about how many pixels)
    validation: dict[str, Described]


def open_source(dataset: str, root: str | Path | None = None) -> Source:
    """The Source of a dataset. root: the folder of the datasets. Raises UserError."""
    return _open_photographs(root) if dataset == datasets.PHOTOGRAPHS else _open_images(dataset, root)


def prepare(pixels: np.ndarray) -> Picture:
    """Prepare an image, uint8 [H, W, C]."""
    height, width, _ = pixels.shape
    planes = make_planes(height, width, pixels)
    return Picture(planes, np.rint(predict_image(planes) * _FRACTION).astype(np.int16))


def describe(areas: Sequence[tuple[Picture, int, int, int]], height: int, width: int) -> Described:
    """Describe the pixels of areas of one size: (picture, row and column of the corner in its planes, grid) each.

    grid: see features.block_position(). An area that begins in the first row of planes changes the rows above it.
    """
    count = height * width
    arrays = [np.zeros((len(areas) * count, *shape), np.float32) for shape in ((FEATURES,), (3,), (), (3,), (3,))]
    for i, (picture, *area) in enumerate(areas):
        _describe(*picture, *area, height, width, *(array[i * count : (i + 1) * count] for array in arrays))
    return [torch.from_numpy(array) for array in arrays]


@compiled
def _describe(planes, known, top, left, grid, height, width, inputs, centre, spread, pixels, least):
    n, missed = 0, np.zeros((3, AROUND), np.float32)
    for row in range(top, top + height):
        for column in range(left, left + width):
            features.pad_above(planes, row, column)
            for c in range(3):
                least[n, c] = known[row - PAD, column - PAD, c] / np.float32(_FRACTION)
            errors_around(planes, known, row, column, missed)
            spread[n] = features.describe_pixel(planes, row, column, missed, inputs[n, :INPUTS], centre[n])
            inputs[n, INPUTS + block_position(row - PAD, grid)] = 1
            inputs[n, INPUTS + PERIOD + 1 + block_position(column - PAD, grid)] = 1
            for c in range(3):
                pixels[n, c] = planes[c, row, column]
            n += 1
        if row == PAD:
            features.pad_right(planes, row)


@compiled
def errors_around(planes: np.ndarray, least: np.ndarray, row: int, column: int, errors: np.ndarray) -> None:
    """What least_squares.begin_pixel() puts into `errors` for a pixel, from a Picture."""
    for i, (down, right) in enumerate(_AROUND):
        y, x = row + down, column + right
        if x < PAD:
            y, x = y - 1, PAD
        x = min(x, planes.shape[2] - PAD - 1)
        for c in range(3):
            errors[c, i] = 0
            if y >= PAD:
                known = least[y - PAD, x - PAD, c] / np.float32(_FRACTION)
                errors[c, i] = np.float32(planes[c, y, x]) - known


def describe_images(images: np.ndarray) -> Described:
    """Describe all pixels of small images, uint8 [N, H, W, C]."""
    return describe([(prepare(image), PAD, PAD, SMALL_GRID) for image in images], *images.shape[1:3])


def draw_tiles(pictures: Sequence[Picture], generator: np.random.Generator, count: int, hidden: float) -> Described:
    """Describe random tiles, each as likely as any other. hidden: share of them whose position in a block is unknown.

    No tile begins in the first row: the padding is that of later rows.
    """
    shapes = np.array([each.planes.shape[1:] for each in pictures])
    inner = (shapes - (PAD + 1, 2 * PAD) - TILE + 1).prod(1)
    which = generator.choice(len(inner), count, p=inner / inner.sum())
    last: np.ndarray = shapes[which] - (0, PAD) - TILE
    corners = generator.integers((PAD + 1, PAD), last, endpoint=True)
    grids = (generator.random(count) >= hidden).astype(int)
    return describe([(pictures[i], *at, grid) for i, at, grid in zip(which, corners, grids, strict=True)], *TILE)


def make_smaller(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A photograph at 0.4 to 0.8 of its size, with sides of at least 32 pixels."""
    factor = generator.uniform(0.4, 0.8)
    size = [max(2 * PERIOD, round(side * factor)) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _open_photographs(root: str | Path | None) -> Source:
    images, held = photographs.split(photographs.open_photographs(datasets.find_photographs("train", root)), VALIDATION)
    generator = np.random.default_rng(1)
    count = len(images)
    resized = [make_smaller(image, generator) for image in images]
    pictures = threads.each(prepare, [*images, *resized], "least squares", "image")
    as_they_are, smaller = pictures[:count], pictures[count:]

    def draw(generator, pixels):
        tiles = pixels // (TILE[0] * TILE[1])
        few = generator.binomial(tiles, SMALLER)
        parts = draw_tiles(as_they_are, generator, tiles - few, NO_BLOCKS), draw_tiles(smaller, generator, few, 1)
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def validation(pictures, hidden):
        return draw_tiles(pictures, np.random.default_rng(2), 512, hidden)

    sets = {
        "validation": validation([prepare(image) for image in held], 0),
        "made smaller": validation([prepare(make_smaller(image, generator)) for image in held], 1),
    }
    return Source(counted(len(images), "photograph"), 3, draw, sets)


def _open_images(dataset: str, root: str | Path | None) -> Source:
    images: Any = datasets.load(dataset, "train", root)  # an array, because these are no photographs
    order = np.random.default_rng(0).permutation(len(images))  # the same split in every run
    held, rest = np.split(order, [min(VALIDATION_IMAGES, len(order) // 2)])
    _, height, width, channels = images.shape

    def draw(generator, pixels):
        chosen = generator.choice(rest, max(1, pixels // (height * width)), replace=False)
        return describe_images(images[np.sort(chosen)])

    return Source(counted(len(rest), "image"), channels, draw, {"validation": describe_images(images[held])})
