"""The script that makes the arrays of ImageNet 32x32 out of folders of PNG files."""

import io
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_script
from PIL import Image

from utils import datasets

SCRIPT = "model/create_imagenet.py"


def pixels(count, *shape, seed=0):
    """Noise: uint8 [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (32, 32, 3))), np.uint8)


def encode(image, kind="PNG", **options):
    """An array or a Pillow image as the bytes of an image file."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png16(image):
    """The bytes of a PNG file with 16 bits per sample, which Pillow does not write for RGB. image: uint16 [H, W, 3]."""
    height, width = image.shape[:2]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])  # 2 is RGB
    rows = [b"\0" + row.astype(">u2").tobytes() for row in image]
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    framed = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def flip(data, position):
    """The bytes with one bit flipped."""
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


def bad_files():
    """One of each kind of bad file, {name: (bytes, what stderr says of it)}."""
    rgb = pixels(1)[0]
    good = encode(rgb)
    at = good.index(b"IDAT")
    return {
        "alpha.png": (encode(pixels(1, 32, 32, 4)[0]), "RGBA, not RGB"),
        "cut_early.png": (good[:20], "damaged, or not PNG"),
        "cut_late.png": (good[:-14], "damaged, or not PNG"),
        "cut_midway.png": (good[: len(good) // 2], "damaged, or not PNG"),
        "empty.png": (b"", "damaged, or not PNG"),
        "flipped.png": (flip(good, at + 1000), "damaged, or not PNG"),
        "flipped_size.png": (flip(good, 19), "damaged, or not PNG"),
        "grey.png": (encode(rgb[..., 0]), "L, not RGB"),
        "grey16.png": (encode(rgb[..., 0].astype(np.uint16) * 257), "I;16, not RGB"),
        "grey_alpha.png": (encode(rgb[..., :2]), "LA, not RGB"),
        "large.png": (encode(pixels(1, 64, 64, 3)[0]), "64x64 pixels, not 32x32"),
        "no_pixels.png": (good[: at - 4] + good[-12:], "damaged, or not PNG"),
        "notes.txt": (b"32x32 images\n", "damaged, or not PNG"),
        "one_off.png": (encode(pixels(1, 31, 32, 3)[0]), "only 32x31 pixels"),
        "palette.png": (encode(Image.fromarray(rgb).quantize(16)), "P, not RGB"),
        "photo.png": (encode(rgb, "JPEG"), "damaged, or not PNG"),
        "moving.png": (
            encode(Image.fromarray(rgb), save_all=True, append_images=[Image.fromarray(255 - rgb)]),
            "holds 2 images",
        ),
        "transparent.png": (encode(Image.fromarray(rgb), transparency=(1, 2, 3)), "transparent pixels"),
        "rgb16.png": (png16(rgb.astype(np.uint16) * 257), "16 bits a channel"),
    }


def fill(folder, images, name="{:05}.png"):
    """Write images as PNG files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        (folder / name.format(i)).write_bytes(encode(image))


@pytest.fixture
def data(tmp_path):
    """A folder for --data with 20 training and 5 test images."""
    fill(tmp_path / "train_32x32", pixels(20, seed=1))
    fill(tmp_path / "valid_32x32", pixels(5, seed=2))
    return tmp_path


def arrays(folder):
    """Everything under imagenet/, hidden files included."""
    return sorted(path.name for path in folder.glob("imagenet/*"))


@pytest.mark.parametrize(
    "cwd, script, env",
    [
        (ROOT, SCRIPT, {}),
        (ROOT / "model", "create_imagenet.py", {}),
        (ROOT / "model", "create_imagenet.py", {"PYTHONPATH": str(ROOT)}),
        (Path("/"), str(ROOT / SCRIPT), {}),
    ],
)
def test_makes_both_arrays_from_anywhere(data, cwd, script, env):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | env
    done = subprocess.run([sys.executable, script, "--data", data], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert arrays(data) == ["test.npy", "train.npy"]
    for split, images in {"train": pixels(20, seed=1), "test": pixels(5, seed=2)}.items():
        loaded = datasets.load("imagenet", split, data)
        assert loaded.flags.c_contiguous and loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, images)
        path = data / "imagenet" / f"{split}.npy"
        assert path.stat().st_size == 128 + images.nbytes
        assert f"wrote {path}: {len(images)} images of " in done.stdout


def test_bad_files_are_named_and_skipped(data):
    folder = data / "train_32x32"
    bad = bad_files()
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    (folder / "absent.png").symlink_to(data / "nowhere")
    bad["absent.png"] = (b"", "No such file or directory")
    os.mkfifo(folder / "pipe.png")
    bad["pipe.png"] = (b"", "not a regular file")
    (folder / "device.png").symlink_to("/dev/zero")
    bad["device.png"] = (b"", "not a regular file")
    fill(folder / "sub" / "folder", pixels(2, seed=3))
    (folder / "00010.png").write_bytes(bad["flipped.png"][0])  # a bad one between good ones

    done = run_script(SCRIPT, "--data", data, check=0)
    said = [line.strip() for line in done.stderr.splitlines()]
    for name, (_, reason) in (bad | {"00010.png": bad["flipped.png"]}).items():
        lines = [line for line in said if line.startswith(f"{folder / name}: ")]
        assert len(lines) == 1 and reason in lines[0], (name, lines)
    assert sum(str(folder) in line for line in said) == len(bad) + 1
    assert f"21 images of {folder}\n{len(bad) + 1} of {len(bad) + 22} files skipped" in done.stdout

    expected = np.concatenate([np.delete(pixels(20, seed=1), 10, axis=0), pixels(2, seed=3)])
    np.testing.assert_array_equal(datasets.load("imagenet", "train", data), expected)
    assert (data / "imagenet" / "train.npy").stat().st_size == 128 + expected.nbytes


@pytest.mark.parametrize("count, good", [(1, 1), (10, 9), (101, 99)])
def test_header_gives_the_number_of_good_images(tmp_path, count, good):
    images = pixels(count)
    for folder in ("train_32x32", "valid_32x32"):
        fill(tmp_path / folder, images)
        for i in range(count - good):
            (tmp_path / folder / f"{i:05}.png").write_bytes(b"")
    run_script(SCRIPT, "--data", tmp_path, check=0)
    np.testing.assert_array_equal(datasets.load("imagenet", "train", tmp_path), images[count - good :])


def test_an_array_that_is_there_is_kept(data):
    target = data / "imagenet" / "train.npy"
    target.parent.mkdir()
    target.write_bytes(b"precious")
    done = run_script(SCRIPT, "--data", data, check=0)
    assert target.read_bytes() == b"precious"
    assert f"{target} exists and is kept" in done.stdout
    assert len(datasets.load("imagenet", "test", data)) == 5


@pytest.mark.parametrize("folder", ["train_32x32", "valid_32x32"])
def test_missing_folder(data, folder):
    (data / folder).rename(data / "other")
    done = run_script(SCRIPT, "--data", data)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert_one_line_error(done, data / folder, "image-net.org", "1601.06759", "train_32x32.tar", "valid_32x32.tar")
    assert not (data / "imagenet").exists()


@pytest.mark.parametrize("content", [[], [b"", b"text"]])
def test_no_good_image(data, content):
    for file in (data / "train_32x32").iterdir():
        file.unlink()
    for i, text in enumerate(content):
        (data / "train_32x32" / f"{i}.png").write_bytes(text)
    done = run_script(SCRIPT, "--data", data)
    assert done.returncode == 1
    assert_one_line_error(done, data / "train_32x32", "no good image")
    assert arrays(data) == []


# The script, which waits at last.png until it is interrupted.
WAITING = """
import sys, time
from model import create_imagenet as script
decode = script.decode
script.decode = lambda path: time.sleep(60) if path.name == "last.png" else decode(path)
script.main()
"""


@pytest.mark.parametrize("sent, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_nothing(data, sent, status):
    (data / "train_32x32" / "last.png").touch()
    command = [sys.executable, "-c", WAITING, "--data", data]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        deadline = time.monotonic() + 60
        while not any(name.endswith(".tmp") for name in arrays(data)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(arrays(data)) == 1  # one file, unfinished, beside the target
        time.sleep(0.2)
        process.send_signal(sent)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert "Traceback" not in errors
    assert arrays(data) == []


def test_full_disk_leaves_nothing(data):
    # A limit on the size of files stands in for a full disk.
    done = subprocess.run(
        [sys.executable, ROOT / SCRIPT, "--data", data],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert_one_line_error(done, data / "imagenet" / "train.npy", "File too large")
    assert arrays(data) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux gives it")
def test_memory_does_not_grow_with_the_images(tmp_path):
    count = 4000  # 12 MB of pixels
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    few, many = tmp_path / "few", tmp_path / "many"
    for folder in (few, many):
        fill(folder / "valid_32x32", pixels(20))
        (folder / "train_32x32").mkdir()
    for folder, number in ((few, 20), (many, count)):
        for i, file in zip(range(number), itertools.cycle((few / "valid_32x32").iterdir())):
            os.link(file, folder / "train_32x32" / f"{i:05}.png")
    peaks = []  # kB
    for folder in (few, many):
        command = [sys.executable, "-c", code, ROOT / SCRIPT, "--data", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split("VmHWM:")[1].split()[0]))
    assert len(datasets.load("imagenet", "train", many)) == count
    assert peaks[1] - peaks[0] < 4000, peaks


def test_hidden_files_are_left_out_and_counted(data):
    for name in ("._00000.png", "__MACOSX/._00000.png"):
        (data / "train_32x32" / name).parent.mkdir(exist_ok=True)
        (data / "train_32x32" / name).write_bytes(encode(pixels(1)[0]))
    done = run_script(SCRIPT, "--data", data, check=0)
    assert "20 images of " in done.stdout and "2 of 22 files skipped" in done.stdout


def write_batches(folder, names, seed):
    """.npz batches of the names, of 3, 4, ... images; returns all images, uint8 [N, 32, 32, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    all_images = [pixels(3 + i, seed=seed + i) for i in range(len(names))]
    for name, images in zip(names, all_images, strict=True):
        labels = np.arange(len(images))
        np.savez(folder / name, data=images.transpose(0, 3, 1, 2).reshape(len(images), -1), labels=labels)
    return np.concatenate(all_images)


TRAIN_BATCHES = [f"train_data_batch_{i}.npz" for i in range(1, 11)]


@pytest.mark.parametrize("below", ["", "Imagenet32_{}_npz"])
def test_npz_batches(tmp_path, below):
    train = write_batches(tmp_path / below.format("train"), TRAIN_BATCHES, seed=1)
    test = write_batches(tmp_path / below.format("val"), ["val_data.npz"], seed=50)
    done = run_script(SCRIPT, "--data", tmp_path, check=0)
    np.testing.assert_array_equal(datasets.load("imagenet", "train", tmp_path), train)
    np.testing.assert_array_equal(datasets.load("imagenet", "test", tmp_path), test)
    assert f"{len(train)} images" in done.stdout and "rates differ from the paper's" in done.stdout


def test_bad_npz_batches(tmp_path):
    write_batches(tmp_path, TRAIN_BATCHES, seed=1)
    write_batches(tmp_path, ["val_data.npz"], seed=2)
    bad = tmp_path / TRAIN_BATCHES[7]
    good = bad.read_bytes()
    bad.unlink()
    assert_one_line_error(run_script(SCRIPT, "--data", tmp_path), bad, "missing")
    bad.write_bytes(good[: len(good) // 2])
    assert_one_line_error(run_script(SCRIPT, "--data", tmp_path), bad, "corrupt")
    np.savez(bad, data=np.zeros((4, 3072)))
    assert_one_line_error(run_script(SCRIPT, "--data", tmp_path), bad, "float64 [4, 3072]")
    assert arrays(tmp_path) == []
