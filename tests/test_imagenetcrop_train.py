"""Training on patches of photographs."""

import math

import numpy as np
import pytest
import torch
from photograph_files import fill_data, load_train

from model import optimiser, train_options, training
from utils import datasets, photographs
from utils.published import SETTINGS


@pytest.fixture
def data(tmp_path):
    return fill_data(tmp_path)


@pytest.fixture
def few_test_patches(monkeypatch):
    monkeypatch.setattr(datasets, "TEST_PATCHES", 10)


def train(data, output, *flags):
    """Train a tiny model on two crops of each of the nine photographs: batches of 5, 5, 5 and 3."""
    flags = ("--nz=2", "--width=4", "--blocks=2", "--nprocessing=0", "--zchannels=1", "--batch=5", "--crops=2", *flags)
    paths = ("--data", str(data), "--output", str(output))
    train_options.main(SETTINGS["imagenetcrop"], [*flags, *paths, "--gpu=-1", "--colour-transform"])


def state(output):
    return torch.load(output / "model" / "params" / "imagenetcrop" / "nz2.resume", weights_only=True)


@pytest.mark.parametrize("stop", [3, 6, 8], ids=["first epoch", "second epoch", "between epochs"])
def test_a_resumed_run_ends_as_an_unbroken_one(data, tmp_path, few_test_patches, stop):
    """Bit for bit, and also where the second half loads its data in other processes."""
    train(data, tmp_path / "unbroken", "--max-steps=10")
    train(data, tmp_path / "broken", f"--max-steps={stop}")
    train(data, tmp_path / "broken", "--max-steps=10", "--resume", "--workers=2")
    unbroken, broken = state(tmp_path / "unbroken"), state(tmp_path / "broken")
    assert unbroken["step"] == broken["step"] == 10
    for part in ("model", "ema"):
        assert unbroken[part].keys() == broken[part].keys()
        for name, value in unbroken[part].items():
            assert torch.equal(value, broken[part][name]), name


def test_each_epoch_trains_on_other_patches(data, tmp_path, few_test_patches, monkeypatch):
    seen = []
    step = training.train_step
    monkeypatch.setattr(training, "train_step", lambda *args: seen.append(args[2]) or step(*args))
    train(data, tmp_path / "out", "--epochs=2", "--seed=7")
    patches = load_train(data)
    for epoch, batches in enumerate((seen[:4], seen[4:])):
        assert [len(batch) for batch in batches] == [5, 5, 5, 3]
        expected = datasets.to_channels_first(photographs.recrop(patches, (7, epoch, 1), 2)[:])
        order = np.random.default_rng((7, epoch)).permutation(18)
        np.testing.assert_array_equal(torch.cat(batches), expected[order])
    model = state(tmp_path / "out")["model"]
    assert "colour_transform" in model and "gen_std" not in model


def test_other_crops_are_another_run(data, tmp_path, few_test_patches, capsys):
    train(data, tmp_path, "--max-steps=1")
    with pytest.raises(SystemExit):
        train(data, tmp_path, "--max-steps=2", "--resume", "--crops=3")
    assert "images 18 is now 27" in capsys.readouterr().err


def test_settings_are_those_of_the_paper():
    args = train_options.parse(SETTINGS["imagenetcrop"], [])
    assert (args.nz, args.width, args.zchannels, args.batch, args.dropout) == (4, 256, 8, 128, 0)
    assert (args.blocks, args.nprocessing, args.test_every, args.crops) == (8, 4, 1, 1)
    assert SETTINGS["imagenetcrop"].conditional_scale
    decay_after = SETTINGS["imagenetcrop"].decay_after
    rates = [optimiser.learning_rate(step, args, decay_after, step, math.inf) for step in (0, 100_000, 100_001)]
    assert rates == [2e-3, 2e-3, 2e-3 * 0.999995]


def test_only_photographs_have_crops(capsys):
    assert train_options.parse(SETTINGS["cifar"], []).crops is None
    with pytest.raises(SystemExit):
        train_options.parse(SETTINGS["cifar"], ["--crops=2"])
    with pytest.raises(SystemExit):
        train_options.parse(SETTINGS["imagenetcrop"], ["--crops=0"])
    assert "0 is out of range: 1 to " in capsys.readouterr().err
