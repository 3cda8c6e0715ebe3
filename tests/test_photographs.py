"""Photographs: which files count, which pixels come out, and that nothing is left to chance; blocks of whole ones."""

import itertools
import math
import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, run_script
from photograph_files import SIZES, fill, fill_data, load_train, photograph
from pictures import sixteen_bit_png
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from model import training
from utils import datasets, images, photographs
from utils.errors import UserError


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
    words = {path.name: "damaged, or not JPEG or PNG" for path in sorted(folder.iterdir())}
    words |= modes | sizes | {"d_palette.png": "P, not RGB", "l_lost.png": "No such file or directory"}
    return {f"{folder.name}/{name}": why for name, why in words.items()}


@pytest.fixture
def data(tmp_path):
    return fill_data(tmp_path)


def forbid_decoding(monkeypatch):
    monkeypatch.setattr(photographs, "decode", lambda path, *_: pytest.fail(f"decoded {path}"))


def check_patches(patches, originals):
    """Every patch must be the pixels of its photograph at the place that it claims."""
    assert len(patches) % len(originals) == 0
    pixels = patches[:]
    assert pixels.shape == (len(patches), 32, 32, 3) and pixels.dtype == np.uint8
    for i, (patch, (which, top, left)) in enumerate(zip(pixels, patches.where, strict=True)):
        assert which == i % len(originals)
        height, width = originals[which].shape[:2]
        assert 0 <= top <= height - 32 and 0 <= left <= width - 32
        np.testing.assert_array_equal(patch, originals[which][top : top + 32, left : left + 32])


@pytest.fixture(params=["decoded once", "decoded each time"])
def decoding(request, monkeypatch):
    """Both ways to get at the pixels; the second is for more photographs than the disk should hold decoded."""
    if request.param == "decoded each time":
        monkeypatch.setattr(photographs, "DECODED_LIMIT", 10_000)
    return request.param


def test_patches_are_pixels_of_the_photographs(tmp_path, decoding):
    originals = fill(tmp_path / "imagenetcrop" / "train")
    patches = load_train(tmp_path)
    assert len(patches) == len(SIZES)
    check_patches(patches, originals)
    check_patches(photographs.recrop(patches, (3, 1), 20), originals)
    assert (tmp_path / "imagenetcrop" / "train.pixels").exists() == (decoding == "decoded once")


def test_every_place_is_as_likely(tmp_path):
    fill(tmp_path / "imagenetcrop" / "train", [(32, 32), (34, 33)])
    draws = 6000
    which, top, left = photographs.recrop(load_train(tmp_path), 0, draws).where.T
    assert not top[which == 0].any() and not left[which == 0].any()
    counts = np.bincount(2 * top[which == 1] + left[which == 1], minlength=6)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, draws / 6, atol=5 * math.sqrt(draws / 6))


def test_patches_index_like_an_array(data):
    patches = photographs.recrop(load_train(data), 0, 3)
    pixels = np.stack([patches[i] for i in range(len(patches))])
    for indices in (np.array([[3, 0], [7, 7]]), [5, 1], slice(4, 9), slice(0, 0), -1, np.arange(0)):
        np.testing.assert_array_equal(patches[indices], pixels[indices])
    with pytest.raises(IndexError):
        patches[len(patches)]


def test_bad_files_are_skipped_counted_and_named(data, capsys):
    originals = [photographs.decode(path) for path in sorted((data / "imagenetcrop" / "train").rglob("*.*"))]
    bad = spoil(data / "imagenetcrop" / "train" / "bad")
    for _ in range(2):  # the second time from the index
        patches = load_train(data)
        check_patches(patches, originals)
        printed = capsys.readouterr().out
        assert f"{len(bad)} of {len(bad) + len(SIZES)} files skipped: " in printed
        named = [f"{name} ({words})" for name, words in bad.items()]
        assert printed.rstrip().endswith(", ".join(named[:5]) + ", ...")


def test_each_bad_file_says_why(tmp_path):
    for name, words in spoil(tmp_path / "bad").items():
        assert photographs.decode(tmp_path / name) == words


def test_what_pillow_would_make_rgb_of_is_skipped(tmp_path):
    """16 bits a channel, a transparent colour and an animation are read as RGB by Pillow, without a word."""
    image = Image.fromarray(photograph(40, 40))
    image.save(tmp_path / "transparent.png", transparency=(1, 2, 3))
    image.save(tmp_path / "moving.png", save_all=True, append_images=[image.rotate(90)])
    sixteen_bit_png(tmp_path / "deep.png", 3, 40, 40)
    says = {"transparent.png": "transparent pixels", "moving.png": "2 images", "deep.png": "16 bits a channel"}
    for name, words in says.items():
        assert words in photographs.decode(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path):
    """Reading a pipe, a socket or a device would wait for ever, or never end."""
    folder = tmp_path / "imagenetcrop" / "train"
    fill(folder, SIZES[:2])
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "s.png"))
    assert photographs.decode(folder / "pipe.png") == "not a regular file"
    assert len(load_train(tmp_path)) == 2
    assert len(photographs.choose(folder, None, 0)) == 2


def test_hidden_files_are_left_out_and_counted(tmp_path, capsys):
    folder = tmp_path / "imagenetcrop" / "train"
    fill(folder, SIZES[:2])
    for name in ("class0/._000.png", "__MACOSX/class0/._000.png", ".thumbs/000.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(40, 40)).save(folder / name)
    assert len(load_train(tmp_path)) == 2
    assert "3 hidden files left out" in capsys.readouterr().out
    assert len(photographs.choose(folder, None, 0)) == 2


def test_too_many_pixels_are_named_as_the_reason_and_not_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (15000, 9000)).save(tmp_path / "large.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    assert photographs.decode(tmp_path / "large.png") == f"15000x9000 is over {images.MAX_PIXELS:,} pixels"


def test_a_long_comment_is_no_fault_of_a_photograph(tmp_path):
    """Metadata beyond what Pillow reads by default."""
    info = PngInfo()
    info.add_text("prompt", "x" * 2_000_000, zip=True)
    Image.fromarray(photograph(40, 50)).save(tmp_path / "text.png", pnginfo=info)
    np.testing.assert_array_equal(photographs.decode(tmp_path / "text.png"), photograph(40, 50))


def test_training_and_validation_photographs_are_the_same_in_every_run(data):
    opened = photographs.open_photographs(data / "imagenetcrop" / "train")
    for held, count in ((2, 2), (40, len(SIZES) // 2)):
        training, validation = photographs.split(opened, held)
        assert (len(training), len(validation)) == (len(SIZES) - count, count)
        order = np.random.default_rng(0).permutation(len(SIZES))
        for pixels, i in zip(validation + training, order, strict=True):
            np.testing.assert_array_equal(pixels, opened[i])


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


def test_patches_follow_from_seed_epoch_and_index(data):
    patches = load_train(data)
    cropped = {seed: photographs.recrop(patches, seed, 4)[:] for seed in itertools.product((0, 1), (0, 1), (1,))}
    for seed, pixels in cropped.items():
        # Whichever patches were drawn before, and in whatever order they are asked for.
        again = photographs.recrop(photographs.recrop(load_train(data), 99, 7), seed, 4)
        backwards = np.stack([again[i] for i in reversed(range(len(again)))])
        np.testing.assert_array_equal(backwards[::-1], pixels)
    for one, other in itertools.combinations(cropped.values(), 2):
        assert not np.array_equal(one, other)


def test_workers_make_no_difference(data, decoding):
    patches = photographs.recrop(load_train(data), (0, 0, 1), 5)
    batches = np.array_split(np.random.default_rng(0).permutation(len(patches)), 6)
    alone, together = (
        list(training.batch_loader(patches, batches, workers, torch.device("cpu"))) for workers in (0, 2)
    )
    assert len(alone) == len(together) == 6
    for x, y, indices in zip(alone, together, batches, strict=True):
        assert torch.equal(x, y)
        np.testing.assert_array_equal(x.permute(0, 2, 3, 1), patches[indices])


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
    assert photographs.recrop(images, 0, 4) is images


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
    check_patches(load_train(data), [photographs.decode(path) for path in sorted(folder.rglob("*.*"))])


def test_a_change_is_noticed_while_decoding_each_time(data, monkeypatch):
    monkeypatch.setattr(photographs, "DECODED_LIMIT", 0)
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
        decode = photographs.decode

        def interrupted(path):
            if path.name == "008.png":
                raise KeyboardInterrupt
            return decode(path)

        patch.setattr(photographs, "decode", interrupted)
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
        os.sched_getaffinity = lambda _: {{0, 1}}  # the number of photographs in memory follows from it
        from utils import datasets, photographs
        used = int(re.search(r"VmData:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (used + (200 << 20),) * 2)
        patches = datasets.load("imagenetcrop", "train", {str(tmp_path)!r})
        assert len(patches) == {count}, len(patches)
        assert (photographs.recrop(patches, 1, 50)[:] == patches[0][0, 0]).all()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "imagenetcrop" / "train.pixels").stat().st_size == 3 * count * size * size


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
    Image.new("RGB", (images.WEBP_SIDE + 33, 32)).save(tmp_path / names[drawn[3]])
    again = photographs.choose(tmp_path, 5, 100)
    assert [photo.name for photo in again] == [names[i] for i in drawn[[0, 2, 4, 5, 6]]]
    assert photographs.digest(again) != photographs.digest(chosen)
    with pytest.raises(UserError, match="holds 10 photographs that can be used, not 11"):
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
