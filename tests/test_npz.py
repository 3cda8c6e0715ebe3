"""Arrays in .npz files."""

import numpy as np
import pytest

from utils import npz
from utils.errors import UserError


def test_saved_and_loaded(tmp_path):
    npz.save(tmp_path / "a.npz", numbers=np.arange(5), text="words", count=3)
    count, numbers, text = npz.load(tmp_path / "a.npz", ("count", "numbers", "text"), "make it again")
    assert (int(count), str(text)) == (3, "words")
    np.testing.assert_array_equal(numbers, np.arange(5))


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "flipped", "another name", "pickled"])
def test_what_is_wrong_is_told_with_the_remedy(tmp_path, damage):
    path = tmp_path / "a.npz"
    npz.save(path, numbers=np.arange(1000))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[2000] ^= 1
    path.write_bytes(content[:-1000] if damage == "cut" else b"" if damage == "empty" else content)
    if damage == "absent":
        path.unlink()
    if damage == "pickled":
        np.savez(path, numbers=np.array([{}], object))
    name = "letters" if damage == "another name" else "numbers"
    with pytest.raises(UserError, match=r"a\.npz .*; make it again$"):
        npz.load(path, (name,), "make it again")
