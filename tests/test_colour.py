"""The reversible colour transform."""

import numpy as np
import pytest
import torch

from utils.colour import add_green, subtract_green


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["NumPy", "PyTorch"])
def test_colour_transform_is_reversible(library):
    levels = np.arange(256, dtype=np.uint8)
    pixels = library(np.stack(np.meshgrid(levels, levels[::5], levels, indexing="ij")).reshape(3, 256, -1))
    transformed = subtract_green(pixels)
    assert transformed[:, 200, 77 * 4].tolist() == [
        (int(pixels[0, 200, 308]) - int(pixels[1, 200, 308]) + 128) % 256,
        int(pixels[1, 200, 308]),
        (int(pixels[2, 200, 308]) - int(pixels[1, 200, 308]) + 128) % 256,
    ]
    assert (add_green(transformed) == pixels).all()
