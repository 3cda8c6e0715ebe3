"""The other compressors and the script that tabulates them."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from codec import competitors
from utils import datasets, paths


def synthetic(*shape, seed=0):
    """Smooth images with a little noise, uint8 [..., H, W, C]."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(shape[-3])[:, None, None] * 3 + np.arange(shape[-2])[:, None] * 2
    return (ramp + rng.integers(0, 8, shape)).astype(np.uint8)


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
    rates = competitors.measure(images[datasets.sample_chains(250, 3, 5, 7)])
    with open(tmp_path / "plots" / "mnist" / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["compressor"]: float(row["bits_per_dim"]) for row in rows} == rates
    keys = {(row["dataset"], row["experiments"], row["ndatapoints"], row["seed"]) for row in rows}
    assert keys == {("mnist", "3", "5", "7")}
    for name, rate in rates.items():
        assert [name.split()[-1], f"{rate:.4f}"] in [line.split()[-2:] for line in done.stdout.splitlines()]
    assert "mnist, 3 x 5 test images" in done.stdout and "Note" not in done.stdout


@pytest.mark.parametrize(
    "flag, used", [("--seed=1", "2 x 100"), ("--experiments=50", "50 x 5"), ("--ndatapoints=60", "4 x 60")]
)
def test_script_uses_what_there_is(run, flag, used):
    done = run(flag)
    assert done.returncode == 0, done.stderr
    assert f"Note: the test set has 250 images: using {used}\n" in done.stdout


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--experiments=26", "--ndatapoints=10"], "260 different images, and the test set has 250"),
        (["--experiments=251"], "the test set has 250"),
        (["--ndatapoints=251"], "the test set has 250"),
        (["imagenet"], "imagenet/test.npy does not exist; python model/create_imagenet.py prepares it"),
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
    """A table for each; photographs are compressed one by one, cropped, and their rates averaged."""
    (tmp_path / "cifar").mkdir()
    np.save(tmp_path / "cifar" / "test.npy", synthetic(20, 32, 32, 3))
    (tmp_path / "imagenetcrop" / "test").mkdir(parents=True)
    photos = [synthetic(1, 40, 70, 3)[0], synthetic(1, 64, 32, 3)[0] // 2]
    for k, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / "imagenetcrop" / "test" / f"{k}.png")
    done = run("--experiments=1", "--ndatapoints=5")
    assert done.returncode == 0, done.stderr
    for heading in ("mnist, 1 x 5", "cifar, 1 x 5", "imagenetcrop, 2 x 1"):
        assert f"{heading} test images:" in done.stdout
    cropped = [photos[0][:32, :64], photos[1]]
    expected = np.mean([competitors.png(photo, competitors.idat_bytes) / photo.size for photo in cropped])
    *_, row = [line for line in done.stdout.splitlines() if line.startswith("PNG   ")]
    assert float(row.split()[-1]) == pytest.approx(expected, abs=1e-4)


def test_script_help(run):
    done = run("--help")
    assert done.returncode == 0
    assert "OUTPUT/plots/<dataset>/benchmark.csv" in done.stdout
    assert "default: None" not in done.stdout
