"""Photographs as training data: which files count, which pixels come out, and that nothing is left to chance."""

import itertools
import math
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, run_script
from photograph_files import SIZES, fill, fill_data, load_train, photograph
from pictures import sixteen_bit_png
from PIL import Image

from model import training
from utils import datasets
from utils.cli import UserError


def spoil(folder):
    """Write one file of every kind that is of no use; returns what is said of them: {path in the folder: words}."""
    rgb = Image.fromarray(photograph(40, 40))
    folder.mkdir(parents=True)
    for name, mode in {"a_grey.jpg": "L", "b_cmyk.jpg": "CMYK", "c_alpha.png": "RGBA", "d_palette.png": "P"}.items():
        rgb.convert(mode).save(folder / name)
    rgb.crop((0, 0, 31, 40)).save(folder / "e_narrow.png")
    rgb.crop((0, 0, 40, 31)).save(folder / "f_low.jpg")
    rgb.save(folder / "g.bmp")
    for name in ("h_cut.jpg", "i_cut.png"):
        rgb.save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:-500])
    (folder / "j_empty.png").touch()
    (folder / "k_notes.txt").write_text("photographs of fish\n")
    (folder / "l_lost.png").symlink_to(folder / "nothing")
    modes = {"a_grey.jpg": "L, not RGB", "b_cmyk.jpg": "CMYK, not RGB", "c_alpha.png": "RGBA, not RGB"}
    sizes = {"e_narrow.png": "only 31x40 pixels", "f_low.jpg": "only 40x31 pixels"}
    words = {path.name: "damaged, or neither JPEG nor PNG" for path in sorted(folder.iterdir())}
    words |= modes | sizes | {"d_palette.png": "P, not RGB", "l_lost.png": "No such file or directory"}
    return {f"{folder.name}/{name}": why for name, why in words.items()}


@pytest.fixture
def data(tmp_path):
    return fill_data(tmp_path)


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(datasets, "decode", lambda path: pytest.fail(f"decoded {path}"))


def check_patches(patches, photographs):
    """Every patch must be the pixels of its photograph at the place that it claims."""
    assert len(patches) % len(photographs) == 0
    pixels = patches[:]
    assert pixels.shape == (len(patches), 32, 32, 3) and pixels.dtype == np.uint8
    for i, (patch, (which, top, left)) in enumerate(zip(pixels, patches.where, strict=True)):
        assert which == i % len(photographs)
        height, width = photographs[which].shape[:2]
        assert 0 <= top <= height - 32 and 0 <= left <= width - 32
        np.testing.assert_array_equal(patch, photographs[which][top : top + 32, left : left + 32])


@pytest.fixture(params=["decoded once", "decoded each time"])
def decoding(request, monkeypatch):
    """Both ways to get at the pixels; the second is for more photographs than the disk should hold decoded."""
    if request.param == "decoded each time":
        monkeypatch.setattr(datasets, "DECODED_LIMIT", 10_000)
    return request.param


def test_patches_are_pixels_of_the_photographs(tmp_path, decoding):
    photographs = fill(tmp_path / "imagenetcrop" / "train")
    patches = load_train(tmp_path)
    assert len(patches) == len(SIZES)
    check_patches(patches, photographs)
    check_patches(datasets.recrop(patches, (3, 1), 20), photographs)
    assert (tmp_path / "imagenetcrop" / "train.pixels").exists() == (decoding == "decoded once")


def test_every_place_is_as_likely(tmp_path):
    fill(tmp_path / "imagenetcrop" / "train", [(32, 32), (34, 33)])
    draws = 6000
    which, top, left = datasets.recrop(load_train(tmp_path), 0, draws).where.T
    assert not top[which == 0].any() and not left[which == 0].any()
    counts = np.bincount(2 * top[which == 1] + left[which == 1], minlength=6)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, draws / 6, atol=5 * math.sqrt(draws / 6))


def test_patches_index_like_an_array(data):
    patches = datasets.recrop(load_train(data), 0, 3)
    pixels = np.stack([patches[i] for i in range(len(patches))])
    for indices in (np.array([[3, 0], [7, 7]]), [5, 1], slice(4, 9), slice(0, 0), -1, np.arange(0)):
        np.testing.assert_array_equal(patches[indices], pixels[indices])
    with pytest.raises(IndexError):
        patches[len(patches)]


def test_bad_files_are_skipped_counted_and_named(data, capsys):
    photographs = [datasets.decode(path) for path in sorted((data / "imagenetcrop" / "train").rglob("*.*"))]
    bad = spoil(data / "imagenetcrop" / "train" / "bad")
    for _ in range(2):  # the second time from the index
        patches = load_train(data)
        check_patches(patches, photographs)
        printed = capsys.readouterr().out
        assert f"{len(bad)} of {len(bad) + len(SIZES)} files skipped: " in printed
        named = [f"{name} ({words})" for name, words in bad.items()]
        assert printed.rstrip().endswith(", ".join(named[:5]) + ", ...")


def test_each_bad_file_says_why(tmp_path):
    for name, words in spoil(tmp_path / "bad").items():
        assert datasets.decode(tmp_path / name) == words


def test_what_pillow_would_make_rgb_of_is_skipped(tmp_path):
    """16 bits a channel, a transparent colour and an animation are read as RGB by Pillow, without a word."""
    image = Image.fromarray(photograph(40, 40))
    image.save(tmp_path / "transparent.png", transparency=(1, 2, 3))
    image.save(tmp_path / "moving.png", save_all=True, append_images=[image.rotate(90)])
    sixteen_bit_png(tmp_path / "deep.png", 3, 40, 40)
    says = {"transparent.png": "transparent pixels", "moving.png": "2 images", "deep.png": "16 bits a channel"}
    for name, words in says.items():
        assert words in datasets.decode(tmp_path / name)


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert datasets.decode(tmp_path / "bomb.png") == "too large for Pillow"


def test_want_of_memory_is_no_fault_of_the_photograph(data, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", exhausted)
        with pytest.raises(MemoryError):
            load_train(data)
    assert len(load_train(data)) == len(SIZES)


def test_names_of_any_kind(tmp_path, capsys):
    folder = tmp_path / "imagenetcrop" / "train"
    fill(folder, SIZES[:1])
    for name in (b"a b,(c).png", "gr\u00fcn.png".encode(), b"latin\xfc.png"):
        Image.fromarray(photograph(33, 40)).save(os.fsdecode(os.path.join(os.fsencode(folder), name)), "PNG")
    with open(os.path.join(os.fsencode(folder), b"bad\xff.png"), "wb"):
        pass
    assert len(load_train(tmp_path)) == 4
    assert "1 of 5 files skipped: bad\ufffd.png (damaged" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["absent", "a file", "empty", "bad"])
def test_a_folder_without_photographs(tmp_path, content):
    folder = tmp_path / "imagenetcrop" / "train"
    folder.parent.mkdir()
    if content == "a file":
        folder.touch()
    elif content == "empty":
        folder.mkdir()
    elif content == "bad":
        spoil(folder)
    for _ in range(2):
        with pytest.raises(UserError, match=r"put (some|photographs) there"):
            load_train(tmp_path)
    assert not (tmp_path / "imagenetcrop" / "train.pixels").exists()


def test_the_script_says_what_is_absent(tmp_path):
    done = run_script("model/imagenetcrop_train.py", "--data", tmp_path, "--gpu=-1")
    assert_one_line_error(done, tmp_path / "imagenetcrop" / "train", "put photographs there")


def test_a_folder_that_cannot_be_written(data, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.npz, "save", full)
    with pytest.raises(UserError, match=r"train\.index\.npz and train\.pixels cannot be written \(No space left"):
        load_train(data)


def test_patches_follow_from_seed_epoch_and_index(data):
    patches = load_train(data)
    cropped = {seed: datasets.recrop(patches, seed, 4)[:] for seed in itertools.product((0, 1), (0, 1), (1,))}
    for seed, pixels in cropped.items():
        # Whichever patches were drawn before, and in whatever order they are asked for.
        again = datasets.recrop(datasets.recrop(load_train(data), 99, 7), seed, 4)
        backwards = np.stack([again[i] for i in reversed(range(len(again)))])
        np.testing.assert_array_equal(backwards[::-1], pixels)
    for one, other in itertools.combinations(cropped.values(), 2):
        assert not np.array_equal(one, other)


def test_workers_make_no_difference(data, decoding):
    patches = datasets.recrop(load_train(data), (0, 0, 1), 5)
    batches = np.array_split(np.random.default_rng(0).permutation(len(patches)), 6)
    alone, together = (
        list(training.batch_loader(patches, batches, workers, torch.device("cpu"))) for workers in (0, 2)
    )
    assert len(alone) == len(together) == 6
    for x, y, indices in zip(alone, together, batches, strict=True):
        assert torch.equal(x, y)
        np.testing.assert_array_equal(x.permute(0, 2, 3, 1), patches[indices])


def test_pickled_without_the_pixels(data):
    """As workers get the patches where processes do not fork."""
    patches = load_train(data)
    pickled = pickle.dumps(patches)
    assert len(pickled) < sum(3 * height * width for height, width in SIZES) / 10
    np.testing.assert_array_equal(pickle.loads(pickled)[:], patches[:])


def test_test_patches_are_always_the_same(data, monkeypatch):
    """So many of each photograph, whatever was drawn before."""
    monkeypatch.setattr(datasets, "TEST_PATCHES", 10)
    patches = datasets.load("imagenetcrop", "test", data)
    np.testing.assert_array_equal(np.bincount(patches.where[:, 0]), [3, 3, 3, 3])
    np.random.seed(1)
    np.testing.assert_array_equal(datasets.load("imagenetcrop", "test", data)[:], patches[:])
    assert len(set(map(tuple, patches.where))) > 8


def test_arrays_are_not_cropped():
    images = np.zeros((5, 32, 32, 3), np.uint8)
    assert datasets.recrop(images, 0, 4) is images


def test_photographs_are_decoded_once(data, monkeypatch):
    pixels = load_train(data)[:]
    forbid_decoding(monkeypatch)
    np.testing.assert_array_equal(load_train(data)[:], pixels)


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "replaced", "touched", "swapped"])
def test_a_changed_folder_is_read_again(data, decoding, change):
    folder = data / "imagenetcrop" / "train"
    load_train(data)
    first, second = folder / "class0" / "000.png", folder / "class2" / "002.png"
    time = first.stat().st_mtime
    if change == "added":
        Image.fromarray(photograph(50, 50)).save(folder / "class9.png")
    elif change == "removed":
        first.unlink()
    elif change == "renamed":
        first.rename(folder / "zzz.png")
    elif change == "replaced":
        Image.fromarray(photograph(50, 50)).save(first)
        os.utime(first, (time, time))
    elif change == "touched":
        Image.fromarray(photograph(32, 32, seed=5)).save(first)
        os.utime(first, (time + 1, time + 1))
    else:
        first.rename(folder / "aside")
        second.rename(first)
        (folder / "aside").rename(second)
    check_patches(load_train(data), [datasets.decode(path) for path in sorted(folder.rglob("*.*"))])


def test_a_change_is_noticed_while_decoding_each_time(data, monkeypatch):
    monkeypatch.setattr(datasets, "DECODED_LIMIT", 0)
    patches = load_train(data)
    first = data / "imagenetcrop" / "train" / "class0" / "000.png"
    for size in ((40, 40), None):
        first.write_bytes(b"")
        if size:
            Image.fromarray(photograph(*size)).save(first)
        with pytest.raises(UserError, match=r"000\.png has changed"):
            patches[[0]]


@pytest.mark.parametrize("damage", ["no pixels", "fewer pixels", "no index", "cut index", "other index"])
def test_a_damaged_cache_is_made_again(data, damage):
    patches = load_train(data)[:]
    pixels, index = (data / "imagenetcrop" / f"train.{kind}" for kind in ("pixels", "index.npz"))
    if damage == "no pixels":
        pixels.unlink()
    elif damage == "fewer pixels":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "no index":
        index.unlink()
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:100])
    else:
        np.savez(index, digest="unknown")
    np.testing.assert_array_equal(load_train(data)[:], patches)


def test_an_interrupted_pass_leaves_nothing_wrong(data, monkeypatch):
    """Neither half of the pixels, nor the old index beside new pixels."""
    load_train(data)
    folder = data / "imagenetcrop"
    with monkeypatch.context() as patch:
        extra = folder / "train" / "class0" / "0000.png"
        Image.fromarray(photograph(64, 64, seed=3)).save(extra)
        decode = datasets.decode

        def interrupted(path):
            if path.name == "008.png":
                raise KeyboardInterrupt
            return decode(path)

        patch.setattr(datasets, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_train(data)
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train", "train.pixels"]
    extra.unlink()  # back to what the old index described
    check_patches(load_train(data), [decode(path) for path in sorted((folder / "train").rglob("*.*"))])


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory in Linux's way")
def test_memory_is_bounded(tmp_path):
    """400 MB of photographs in 200 MB beyond what the imports take; the file that is mapped does not count."""
    folder = tmp_path / "imagenetcrop" / "train"
    folder.mkdir(parents=True)
    count, size = 60, 1500
    Image.new("RGB", (size, size), (200, 100, 50)).save(folder / "000.jpg")
    for i in range(1, count):
        (folder / f"{i:03}.jpg").hardlink_to(folder / "000.jpg")
    program = f"""
        import os, re, resource
        from pathlib import Path
        os.cpu_count = lambda: 2  # the number of photographs in memory follows from it
        from utils import datasets
        used = int(re.search(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + (200 << 20),) * 2)
        patches = datasets.load("imagenetcrop", "train", {str(tmp_path)!r})
        assert len(patches) == {count}, len(patches)
        assert (datasets.recrop(patches, 1, 50)[:] == patches[0][0, 0]).all()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "imagenetcrop" / "train.pixels").stat().st_size == 3 * count * size * size


def test_sample_chains():
    chains = datasets.sample_chains(50, 5, 10, 100)
    np.testing.assert_array_equal(chains, np.random.RandomState(100).choice(50, (5, 10), replace=False))
    assert len(np.unique(chains)) == 50
    with pytest.raises(UserError, match=r"--experiments=6 --ndatapoints=10.*60.*50"):
        datasets.sample_chains(50, 6, 10, 100)
    with pytest.raises(UserError, match="--seed"):
        datasets.sample_chains(50, 5, 10, 2**32)
