"""Where the blocks lie: with the regions between them they tile the image."""

import itertools

import numpy as np

from codec import blocks


def test_regions_tile_the_image():
    for width, height, side in itertools.product((1, 7, 8, 9, 24, 29), (1, 8, 16, 23), (4, 8)):
        across, whole = width // side, (width // side) * (height // side)
        for count in range(whole + 1):
            covered = np.zeros((height, width), np.int64)
            for k in range(count):
                y, x = divmod(k, across)
                covered[side * y : side * (y + 1), side * x : side * (x + 1)] += 1
            for place in blocks.regions(width, height, side, count):
                assert covered[place].size
                covered[place] += 1
            assert (covered == 1).all()
