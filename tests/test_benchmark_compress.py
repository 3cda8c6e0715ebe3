"""The conventional compressors and the script that tabulates them."""

import bz2
import csv
import gzip
import io
import lzma
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from codec import conventional
from utils import datasets, paths
from utils.cli import UserError


def synthetic(*shape, seed=0):
    """Smooth images with a little noise, uint8 [..., H, W, C]."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(shape[-3])[:, None, None] * 3 + np.arange(shape[-2])[:, None] * 2
    return (ramp + rng.integers(0, 8, shape)).astype(np.uint8)


def decoded(data, channels):
    """The pixels of an image file, uint8 [H, W, channels]; grey may be stored as three equal channels."""
    image = Image.open(io.BytesIO(data))
    pixels = np.atleast_3d(np.asarray(image))
    assert pixels.shape[-1] == channels or (pixels == pixels[..., :1]).all()
    return pixels[..., :channels]


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 28, 28, 1), (5, 32, 32, 3), (2, 3, 32, 32, 3), (7, 41, 3)])
def test_raw_compressors_count_one_stream(shape):
    images = synthetic(*shape)
    for name, module in {"gzip": gzip, "bz2": bz2, "LZMA": lzma}.items():
        stream = module.compress(images.tobytes())
        np.testing.assert_array_equal(np.frombuffer(module.decompress(stream), np.uint8).reshape(shape), images)
        assert conventional.COMPRESSORS[name](images) == 8 * len(stream)


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 28, 28, 1), (5, 32, 32, 3), (2, 3, 32, 32, 3), (7, 41, 3)])
@pytest.mark.parametrize("name, options", [("PNG", {"optimize": True}), ("WebP", {"lossless": True, "quality": 100})])
def test_image_compressors_count_whole_lossless_files(shape, name, options):
    images = synthetic(*shape)
    each = images.reshape(-1, *shape[-3:])
    files = [conventional.encode(image, name, **options) for image in each]
    for image, file in zip(each, files, strict=True):
        np.testing.assert_array_equal(decoded(file, shape[-1]), image)
    assert conventional.COMPRESSORS[name](images) == 8 * sum(map(len, files))


def test_idat_bytes():
    # Noise, so large that Pillow writes several IDAT chunks, and a text that only looks like another.
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    text, file = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("comment", "\0\0\1\0IDAT")
    Image.fromarray(pixels).save(file, format="PNG", pnginfo=text)
    data = file.getvalue()

    chunks, rest = [], data[8:]
    while rest:
        length = int.from_bytes(rest[:4], "big")
        chunks.append((rest[4:8], length))
        rest = rest[12 + length :]
    sizes = [length for kind, length in chunks if kind == b"IDAT"]
    assert len(sizes) > 1 and data.count(b"IDAT") > len(sizes)
    assert conventional.idat_bytes(data) == sum(sizes)
    assert conventional.idat_bytes(data) == len(data) - 8 - sum(12 + (kind != b"IDAT") * size for kind, size in chunks)
    for damaged in (data[:-1], data[:-13], data[:50], b"", b"GIF89a" + data):
        with pytest.raises(ValueError, match="PNG"):
            conventional.idat_bytes(damaged)


def test_png_counts_idat_only_when_asked():
    images = synthetic(4, 28, 28, 1)
    files = [conventional.encode(image, "PNG", optimize=True) for image in images]
    assert conventional.png(images) == 8 * sum(map(len, files))
    assert conventional.png(images, idat_only=True) == 8 * sum(map(conventional.idat_bytes, files))
    # One IDAT chunk: signature 8, IHDR 25, IDAT's frame 12, IEND 12.
    assert conventional.png(images) - conventional.png(images, idat_only=True) == 8 * 57 * len(images)


def test_measure():
    images = synthetic(3, 4, 28, 28, 1)
    seen = []
    rates = conventional.measure(images, progress=lambda chains: (seen.append(len(c)) or c for c in chains))
    assert list(rates) == ["gzip", "bz2", "LZMA", "PNG", "WebP"]
    assert seen == [4, 4, 4]
    dims = 3 * 4 * 28 * 28
    assert rates["gzip"] == sum(8 * len(gzip.compress(chain.tobytes())) for chain in images) / dims
    assert rates["PNG"] == conventional.png(images, idat_only=True) / dims
    assert rates["WebP"] == conventional.webp(images) / dims


@pytest.mark.parametrize("shape, dtype", [((2, 8, 8, 1), float), ((8, 8), np.uint8), ((2, 8, 8, 4), np.uint8)])
def test_other_arrays_are_refused(shape, dtype):
    images = np.zeros(shape, dtype)
    for compressor in conventional.COMPRESSORS.values():
        with pytest.raises(ValueError, match="not uint8"):
            compressor(images)


@pytest.mark.parametrize("package", ["pillow_jxl", "imagecodecs"])
def test_jxl_is_lossless(package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, {"pillow_jxl": "imagecodecs", "imagecodecs": "pillow_jxl"}[package], None)
    for images in (synthetic(2, 28, 28, 1), synthetic(2, 32, 32, 3)):
        files = [conventional.jxl_encoder()(image) for image in images]
        for image, file in zip(images, files, strict=True):
            if package == "pillow_jxl":
                pixels = decoded(file, image.shape[-1])
            else:
                pixels = np.atleast_3d(sys.modules[package].jpegxl_decode(file))
            np.testing.assert_array_equal(pixels, image)
        assert conventional.measure(images[None], with_jxl=True)["JPEG XL"] == 8 * sum(map(len, files)) / images.size


def test_jxl_without_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UserError, match="pillow-jxl-plugin"):
        conventional.measure(synthetic(1, 1, 28, 28, 1), with_jxl=True)


def test_sample_chains():
    chains = datasets.sample_chains(50, 5, 10, 100)
    np.testing.assert_array_equal(chains, np.random.RandomState(100).choice(50, (5, 10), replace=False))
    assert len(np.unique(chains)) == 50
    with pytest.raises(UserError, match=r"--experiments=6 --ndatapoints=10.*60.*50"):
        datasets.sample_chains(50, 6, 10, 100)
    with pytest.raises(UserError, match="--seed"):
        datasets.sample_chains(50, 5, 10, 2**32)


@pytest.fixture
def run(tmp_path):
    """Run the script elsewhere than in the repository, on 250 synthetic MNIST test images."""
    (tmp_path / "mnist").mkdir()
    np.save(tmp_path / "mnist" / "test.npy", synthetic(250, 28, 28, 1))

    def run(*flags):
        command = [sys.executable, paths.ROOT / "benchmark_compress.py", f"--data={tmp_path}", f"--output={tmp_path}"]
        return subprocess.run([*command, *flags], cwd=tmp_path, capture_output=True, text=True)

    return run


def test_script(run, tmp_path):
    done = run("--experiments=3", "--ndatapoints=5", "--seed=7")
    assert done.returncode == 0, done.stderr
    images = np.load(tmp_path / "mnist" / "test.npy")
    rates = conventional.measure(images[datasets.sample_chains(250, 3, 5, 7)], conventional.has_jxl())
    with open(tmp_path / "plots" / "mnist" / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["compressor"]: float(row["bits_per_dim"]) for row in rows} == rates
    keys = {(row["dataset"], row["experiments"], row["ndatapoints"], row["seed"]) for row in rows}
    assert keys == {("mnist", "3", "5", "7")}
    for name, rate in rates.items():
        assert f"{name:10}  {rate:12.4f}\n" in done.stdout
    assert "Note" not in done.stdout


@pytest.mark.parametrize(
    "flag, used", [("--seed=1", "2 x 100"), ("--experiments=50", "50 x 5"), ("--ndatapoints=60", "4 x 60")]
)
def test_script_uses_what_there_is(run, flag, used):
    done = run(flag)
    assert done.returncode == 0, done.stderr
    assert f"Note: there are 250 test images: using {used} of them\n" in done.stdout


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--experiments=26", "--ndatapoints=10"], "260 different images, and the test set has 250"),
        (["--experiments=251"], "the test set has 250"),
        (["--ndatapoints=251"], "the test set has 250"),
        (["--seed=4294967296"], "--seed=4294967296"),
        (["imagenet"], "imagenet/test.npy is absent; python model/create_imagenet.py prepares it"),
        (["--ndatapoints=1", "--experiments=1", "--output=mnist/test.npy"], "cannot write"),
    ],
)
def test_script_errors(run, tmp_path, flags, said):
    done = run(*flags)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    if "--output" not in flags[-1]:  # the others fail before anything is compressed
        assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.csv"))


def test_all_that_is_at_hand(run, tmp_path):
    """One table; photographs are compressed one by one, cropped, and their rates averaged."""
    (tmp_path / "cifar").mkdir()
    np.save(tmp_path / "cifar" / "test.npy", synthetic(20, 32, 32, 3))
    (tmp_path / "imagenetcrop" / "test").mkdir(parents=True)
    photos = [synthetic(1, 40, 70, 3)[0], synthetic(1, 64, 32, 3)[0] // 2]
    for k, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "imagenetcrop" / "test" / f"{k}.png")
    done = run("--experiments=1", "--ndatapoints=5")
    assert done.returncode == 0, done.stderr
    assert "bits/dim           mnist         cifar  imagenetcrop" in done.stdout
    cropped = [photos[0][:32, :64], photos[1]]
    expected = np.mean([conventional.png(photo, idat_only=True) / photo.size for photo in cropped])
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("PNG   ")]
    assert float(row.split()[-1]) == pytest.approx(expected, abs=1e-4)


def test_script_help(run):
    done = run("--help")
    assert done.returncode == 0
    assert "OUTPUT/plots/<dataset>/benchmark.csv" in done.stdout
    assert "default: None" not in done.stdout
