"""Every command that the paper's instructions name runs, with the checkpoints that ship, on little generated data."""

import functools
import shlex

import numpy as np
import pytest
from conftest import ROOT, digits, photograph, run_main, run_script
from PIL import Image

from codec import command

COMPRESS = [
    f"{dataset}_compress.py --nz={nz} --bitswap={bitswap}"
    for dataset, depths in (("mnist", (2, 4, 8)), ("cifar", (2, 4, 8)), ("imagenet", (2, 4)))
    for nz in depths
    for bitswap in (1, 0)
]
TRAIN = [
    f"{dataset}_train.py --nz={nz}"
    for dataset, depths in (("mnist", (8, 4, 2, 1)), ("cifar", (8, 4, 2, 1)), ("imagenet", (4, 2, 1)))
    for nz in depths
] + ["imagenetcrop_train.py"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a few images of every dataset, for --data."""
    folder = tmp_path_factory.mktemp("data")
    colours = np.stack([photograph(32, 32, seed) for seed in range(64)])
    for dataset, images in (("mnist", digits(64)), ("cifar", colours), ("imagenet", colours)):
        (folder / dataset).mkdir()
        for split in ("train", "test"):
            np.save(folder / dataset / f"{split}.npy", images)
    for split in ("train", "test"):
        (folder / "imagenetcrop" / split / "class").mkdir(parents=True)
        for k in range(2):
            image = Image.fromarray(photograph(70, 100, k))
            image.save(folder / "imagenetcrop" / split / "class" / f"{k}.png")
    return folder


@pytest.mark.parametrize("line", COMPRESS)
def test_compress(line, data, tmp_path):
    script, *flags = shlex.split(line)
    dataset = script.removesuffix("_compress.py")
    more = "--experiments=2", "--ndatapoints=2", "--data", data, "--output", tmp_path, "--gpu=-1"
    done = run_main(functools.partial(command.main, dataset), *flags, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all pixels of 4 images and all initial words are identical" in done.stdout


def test_photographs(data, tmp_path):
    done = run_script("imagenetcrop_compress.py", "--data", data, "--output", tmp_path, "--gpu=-1", check=0)
    assert "nz=4" in done.stdout
    assert done.stdout.count("all pixels of 12 blocks and all initial words are identical") == 2


def test_other_compressors(data, tmp_path):
    assert "PNG" in run_script("benchmark_compress.py", "--data", data, "--output", tmp_path, check=0).stdout


@pytest.mark.parametrize("script", ["cma.py", "stackplot.py"])
def test_figures(script, tmp_path):
    run_script(script, "--output", tmp_path, check=0)
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAIN)
def test_two_steps_at_the_published_size(line, data, tmp_path):
    script, *flags = shlex.split(line)
    more = "--max-steps=2", "--batch=2", "--data", data, "--output", tmp_path, "--gpu=-1"
    run_script(f"model/{script}", *flags, *more, cwd=ROOT / "model", check=0, timeout=1800)
    assert list((tmp_path / "model" / "params").rglob("nz?"))
