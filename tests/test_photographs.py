"""Choosing photographs and cutting them into blocks."""

import numpy as np
import pytest
from conftest import photograph
from PIL import Image

from utils import photographs
from utils.cli import UserError


def test_choice_is_that_of_the_paper(tmp_path):
    names = [f"{i:02}.png" for i in range(12)]
    for i, name in enumerate(names):
        Image.fromarray(photograph(32, 32, i)).save(tmp_path / name)
    drawn = np.random.RandomState(100).choice(12, 12, replace=False)
    assert list(drawn[:5]) == list(np.random.RandomState(100).choice(12, 5, replace=False))
    chosen = photographs.choose(tmp_path, 5, 100)
    assert [photo.name for photo in chosen] == [names[i] for i in drawn[:5]]
    for photo in chosen:
        np.testing.assert_array_equal(photo.pixels, photograph(32, 32, names.index(photo.name)))
    # One that is of no use makes room for the next.
    Image.new("L", (64, 64)).save(tmp_path / names[drawn[1]])
    Image.new("RGB", (photographs.WEBP_SIDE + 33, 32)).save(tmp_path / names[drawn[3]])
    again = photographs.choose(tmp_path, 5, 100)
    assert [photo.name for photo in again] == [names[i] for i in drawn[[0, 2, 4, 5, 6]]]
    assert photographs.digest(again) != photographs.digest(chosen)
    with pytest.raises(UserError, match="holds 10 photographs that are of use, not 11"):
        photographs.choose(tmp_path, 11, 100)


def test_photographs_are_found_behind_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(photograph(32, 32, 0)).save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "class").symlink_to(tmp_path / "elsewhere")
    assert [photo.name for photo in photographs.choose(tmp_path / "test", None, 100)] == ["class/a.png"]


def test_blocks_are_in_raster_order():
    pixels = photograph(70, 101, 0)
    cropped = photographs.crop(pixels)
    np.testing.assert_array_equal(cropped, pixels[:64, :96])
    blocks = photographs.to_blocks(cropped)
    assert (blocks.dtype, blocks.shape) == (np.uint8, (6, 3, 32, 32))
    for i, block in enumerate(blocks):
        top, left = 32 * (i // 3), 32 * (i % 3)
        np.testing.assert_array_equal(block.transpose(1, 2, 0), pixels[top : top + 32, left : left + 32])
