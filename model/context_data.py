"""What the context network learns from: tiles anywhere in photographs, or whole small images.

A part of the tiles comes from photographs that were made smaller, which rids them of the traces of JPEG's blocks; for
these, and for some of the others, the network is not told where in a block a pixel is. In small images it is told
where in the image.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from model import context
from model.context import FEATURES, INPUTS, ORDER, PAD, PERIOD, SMALL_GRID
from utils import datasets, paths
from utils.compiled import compiled
from utils.errors import UserError
from utils.photographs import decode, open_photographs

TILE = (8, 16)
VALIDATION = 40  # photographs
VALIDATION_IMAGES = 500
SMALLER = 0.3  # of the tiles come from photographs made smaller
NO_BLOCKS = 0.15  # of the others do not know the blocks


class Source(NamedTuple):
    """Where pixels to learn from come from."""

    what: str
    channels: int  # that count: 3, or 1 for grey images
    # (generator, pixels) -> what ContextNetwork.bits() takes, of about so many pixels
    batch: Callable[[np.random.Generator, int], list[torch.Tensor]]
    sets: dict[str, list[torch.Tensor]]  # {name: what bits() takes}, for validation


def open_source(dataset: str, root: str | Path | None = None) -> Source:
    """The Source of a dataset. Raises UserError."""
    return _photographs(root) if dataset == datasets.PHOTOGRAPHS else _images(dataset, root)


# Photographs


class Photographs:
    """Planes of photographs, one after the other: flat uint8, with where each begins and its shape, int64 [N, 2]."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        planes = [context.from_pixels(image) for image in images]
        self.shapes = np.array([each.shape[1:] for each in planes])
        self.starts = np.cumsum([0] + [each.size for each in planes])[:-1]
        self.flat = np.concatenate([each.ravel() for each in planes])

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Corners of tiles, each as likely as any other: int64 [count, 3], photograph, row and column in the planes."""
        inner = (self.shapes - (PAD + 1, 2 * PAD) - TILE + 1).prod(1)
        which = generator.choice(len(inner), count, p=inner / inner.sum())
        # Not the first row, which sees others above itself than from_pixels() puts there.
        last: np.ndarray = self.shapes[which] - (0, PAD) - TILE
        return np.column_stack((which, generator.integers((PAD + 1, PAD), last, endpoint=True)))


@compiled
def _describe(flat, starts, shapes, tiles, blocks, inputs, centre, spread, pixels):
    s = np.empty(INPUTS, np.float32)
    inputs[:] = 0
    n = 0
    for t in range(len(tiles)):
        which, top, left = tiles[t]
        height, width = shapes[which]
        planes = flat[starts[which] : starts[which] + 3 * height * width].reshape(3, height, width)
        for y in range(top, top + TILE[0]):
            for x in range(left, left + TILE[1]):
                spread[n] = context.features(planes, y, x, s, centre[n])
                inputs[n, :INPUTS] = s
                inputs[n, INPUTS + ((y - PAD) % PERIOD if blocks[t] else PERIOD)] = 1
                inputs[n, INPUTS + PERIOD + 1 + ((x - PAD) % PERIOD if blocks[t] else PERIOD)] = 1
                for c in range(3):
                    pixels[n, c] = planes[c, y, x]
                n += 1


def describe(photographs: Photographs, tiles: np.ndarray, blocks: np.ndarray) -> list[torch.Tensor]:
    """What bits() takes of the pixels of tiles, as draw() gives them. blocks: bool per tile, whether it has blocks."""
    count = len(tiles) * TILE[0] * TILE[1]
    arrays = [np.empty((count, *shape), np.float32) for shape in ((FEATURES,), (3,), (), (3,))]
    _describe(photographs.flat, photographs.starts, photographs.shapes, tiles, blocks, *arrays)
    return [torch.from_numpy(array) for array in arrays]


def load_photographs(root: str | Path | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The training photographs and those for validation: two lists of uint8 [H, W, 3]. Raises UserError."""
    opened = open_photographs(Path(root or paths.DATA) / datasets.PHOTOGRAPHS / "train")
    images = []
    for i, (height, width) in enumerate(opened.sizes):
        if opened.decoded is not None:
            images.append(opened.pixels[opened.ends[i] - 3 * height * width : opened.ends[i]].reshape(height, width, 3))
        else:
            path = opened.folder / os.fsdecode(opened.names[i])
            image = decode(path)
            if isinstance(image, str):
                raise UserError(f"{path} has changed since it was checked ({image}); start again")
            images.append(image)
    order = np.random.default_rng(0).permutation(len(images))  # the same split in every run
    held = min(VALIDATION, len(images) // 2)
    if not held:
        raise UserError(f"{opened.folder} holds {len(images)} photographs; training takes two or more")
    return [images[i] for i in order[held:]], [images[i] for i in order[:held]]


def make_smaller(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A photograph at 0.4 to 0.8 of its size, but of no side under 32 pixels."""
    factor = generator.uniform(0.4, 0.8)
    size = [max(2 * PERIOD, round(side * factor)) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _photographs(root: str | Path | None) -> Source:
    images, held = load_photographs(root)
    generator = np.random.default_rng(1)
    photographs = Photographs(images)
    smaller = Photographs([make_smaller(image, generator) for image in images])

    def batch(generator, pixels):
        tiles = pixels // (TILE[0] * TILE[1])
        few = generator.binomial(tiles, SMALLER)
        parts = [
            describe(photographs, photographs.draw(generator, tiles - few), generator.random(tiles - few) >= NO_BLOCKS),
            describe(smaller, smaller.draw(generator, few), np.zeros(few, bool)),
        ]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def validation(held, blocks):
        tiles = held.draw(np.random.default_rng(2), 512)
        return describe(held, tiles, np.full(len(tiles), blocks))

    sets = {
        "validation": validation(Photographs(held), True),
        "made smaller": validation(Photographs([make_smaller(image, generator) for image in held]), False),
    }
    return Source(f"{len(images)} photographs", 3, batch, sets)


# Small images


@compiled
def _describe_images(images, order, planes, inputs, centre, spread, pixels):
    s = np.empty(INPUTS, np.float32)
    inputs[:] = 0
    n = 0
    for image in images:
        planes[:] = context.GREY
        for y in range(image.shape[0]):
            row = PAD + y
            context.begin_row(planes, row)
            for x in range(image.shape[1]):
                column = PAD + x
                context.begin_pixel(planes, row, column)
                spread[n] = context.features(planes, row, column, s, centre[n])
                inputs[n, :INPUTS] = s
                inputs[n, INPUTS + y // SMALL_GRID % PERIOD] = 1
                inputs[n, INPUTS + PERIOD + 1 + x // SMALL_GRID % PERIOD] = 1
                for c in range(3):
                    planes[c, row, column] = image[y, x, order[c]]
                    pixels[n, c] = planes[c, row, column]
                n += 1
            context.end_row(planes, row)


def describe_images(images: np.ndarray) -> list[torch.Tensor]:
    """What bits() takes of all pixels of images, uint8 [N, H, W, C]."""
    _, height, width, channels = images.shape
    count = images.size // channels
    arrays = [np.empty((count, *shape), np.float32) for shape in ((FEATURES,), (3,), (), (3,))]
    order = np.array(ORDER if channels == 3 else (0, 0, 0))
    _describe_images(np.ascontiguousarray(images), order, context.planes_of(height, width), *arrays)
    return [torch.from_numpy(array) for array in arrays]


def _images(dataset: str, root: str | Path | None) -> Source:
    images: Any = datasets.load(dataset, "train", root)  # an array, as these are no photographs
    order = np.random.default_rng(0).permutation(len(images))  # the same split in every run
    held, rest = np.split(order, [min(VALIDATION_IMAGES, len(images) // 2)])
    _, height, width, channels = images.shape

    def batch(generator, pixels):
        chosen = generator.choice(rest, max(1, pixels // (height * width)), replace=False)
        return describe_images(images[np.sort(chosen)])

    return Source(f"{len(rest):,} images", channels, batch, {"validation": describe_images(images[held])})
