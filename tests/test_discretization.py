"""Bins from samples: streamed, cached, and tied to their checkpoint."""

import math

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, digits, run_main, run_script, small_model
from photograph_files import fill_data, load_train
from tqdm import tqdm

import discretization
from model import checkpoints
from utils import datasets
from utils.cli import UserError
from utils.fixed_point import FRACTION
from utils.torch import rand
from utils.torch.modules import fold_weight_norm


@torch.no_grad()
def test_ranges_are_the_extremes_of_both_chains(monkeypatch):
    """Against every sample kept, which is what streaming avoids."""
    seen = []
    draw = rand.sample
    monkeypatch.setattr(rand, "sample", lambda mu, scale: seen.append(draw(mu, scale)) or seen[-1])
    monkeypatch.setattr(discretization, "BATCH", 7)
    model = small_model(3)
    ranges = discretization.sample_ranges(model, digits(20), 2, "id")
    per_batch = 5  # z_3, z_2, z_1 down the generative chain, then z_1, z_2 up the inference chain
    assert sum(len(z) for z in seen[::per_batch]) == 30 * 4
    for layer, positions in ((0, (2, 3)), (1, (1, 4))):
        samples = torch.cat([z for p in positions for z in seen[p::per_batch]]).flatten(1).double().numpy()
        np.testing.assert_array_equal(ranges.lo[layer], samples.min(0))
        np.testing.assert_array_equal(ranges.hi[layer], samples.max(0))
    assert ranges.with_images


def test_inference_chain_widens_the_ranges():
    model = small_model(2)
    both = discretization.sample_ranges(model, digits(20), 3, "id")
    alone = discretization.sample_ranges(model, None, 3, "id")
    assert not alone.with_images
    assert (both.hi - both.lo).mean() > (alone.hi - alone.lo).mean()


def test_a_single_latent_needs_no_samples():
    model = small_model(1)
    ranges = discretization.sample_ranges(model, None, 10, "id")
    bins = discretization.bins(model, ranges)
    assert ranges.lo.shape == (0, 256)
    assert [b.n for b in bins] == [256, 1024]


def test_lower_bins_divide_the_range_evenly():
    model = small_model(2)
    ranges = discretization.sample_ranges(model, digits(8), 4, "id")
    z1 = discretization.bins(model, ranges)[1]
    edges = np.linspace(ranges.lo[0], ranges.hi[0], 17)
    centres = z1.centres(np.arange(16)[:, None] + np.zeros(256, int))
    np.testing.assert_allclose(centres / 2**FRACTION, (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1.5 / 2**FRACTION)


def test_latents_beyond_all_bounds_are_refused():
    model = small_model(2)
    ranges = discretization.sample_ranges(model, digits(8), 4, "id")
    with pytest.raises(UserError, match="of no use"):
        discretization.bins(model, ranges._replace(hi=ranges.hi + 1e7))


def test_saved_and_loaded(tmp_path):
    ranges = discretization.sample_ranges(small_model(2), None, 2, "id")
    discretization.save(ranges, tmp_path / "ranges.npz")
    loaded = discretization.load(tmp_path / "ranges.npz")
    assert loaded.identity == ranges.identity
    assert (loaded.quantbits, loaded.checkpoint, loaded.with_images) == (2, "id", False)


@pytest.mark.parametrize("damage", ["empty", "flip", "cut", "swapped", "other"])
def test_damaged_ranges_are_refused(tmp_path, damage):
    path = tmp_path / "ranges.npz"
    ranges = discretization.sample_ranges(small_model(2), None, 2, "id")
    discretization.save(ranges._replace(lo=ranges.hi, hi=ranges.lo) if damage == "swapped" else ranges, path)
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content = b""
    elif damage == "flip":
        content[300] ^= 1
    elif damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "other":
        content = b"something else entirely"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ranges\.npz.*delete it"):
        discretization.load(path)


def test_cache_is_keyed_by_the_checkpoint(tmp_path, mnist, capsys):
    ids = []
    for seed in (0, 1):
        model = small_model(2, seed=seed)
        identity = checkpoints.identity(model.state_dict())
        arguments = (tmp_path / "x.pt", model, identity, "mnist", 2, mnist, tmp_path)
        first = discretization.for_checkpoint(*arguments)
        again = discretization.for_checkpoint(*arguments)
        assert first.identity == again.identity
        ids.append(first.identity)
    assert ids[0] != ids[1]
    assert len(list((tmp_path / "bins").iterdir())) == 2


def test_without_training_images_it_warns_and_later_makes_up_for_it(tmp_path, mnist, monkeypatch, capsys):
    def absent(*args):
        raise UserError("no images here")

    model = small_model(2)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load", absent)
        ranges = discretization.for_checkpoint(tmp_path / "x.pt", model, "id", "mnist", 2, mnist, tmp_path)
    assert not ranges.with_images
    assert "Warning: no images here" in capsys.readouterr().out
    ranges = discretization.for_checkpoint(tmp_path / "x.pt", model, "id", "mnist", 2, mnist, tmp_path)
    assert ranges.with_images


def test_folding_does_not_change_the_identity(checkpoint):
    model, identity = checkpoints.load(checkpoint)
    fold_weight_norm(model)
    assert checkpoints.identity(model.state_dict()) == identity


def test_script(tmp_path, mnist, checkpoint):
    flags = ("mnist", "--checkpoint", checkpoint, "--quantbits=2", "--data", mnist, "--output", tmp_path)
    done = run_script("discretization.py", *flags, check=0)
    assert "z1: 256 dimensions" in done.stdout
    (cached,) = (tmp_path / "bins").iterdir()
    beside = tmp_path / "small.bins.npz"
    assert run_main(discretization.main, *flags, "--to", beside).returncode == 0
    assert discretization.load(beside).identity == discretization.load(cached).identity
    done = run_main(discretization.main, "mnist", "--checkpoint", tmp_path / "no")
    assert_one_line_error(done, tmp_path / "no")


def test_bins_see_as_many_patches_as_samples(tmp_path):
    """A photograph gives several, as one crop of each would be far fewer than 30 a bin."""
    model = small_model(2, xs=(3, 32, 32), conditional_scale=True)
    patches = load_train(fill_data(tmp_path))
    ranges = discretization.sample_ranges(model, patches, 2, "id")
    samples = datasets.recrop(patches, 100, math.ceil(30 * 4 / len(patches)))[:]
    expected = discretization.sample_ranges(model, samples, 2, "id")
    np.testing.assert_array_equal(ranges.lo, expected.lo)
    np.testing.assert_array_equal(ranges.hi, expected.hi)


def test_bins_of_photographs_from_the_command_line(tmp_path):
    checkpoint = tmp_path / "small.pt"
    torch.save(small_model(2, xs=(3, 32, 32), conditional_scale=True).state_dict(), checkpoint)
    flags = (
        "--checkpoint",
        checkpoint,
        "--data",
        fill_data(tmp_path),
        "--output",
        tmp_path,
        "--quantbits=3",
        "--gpu=-1",
    )
    printed = run_script("discretization.py", "imagenetcrop", *flags, check=0).stdout
    assert "Warning" not in printed and "z1: 256 dimensions" in printed
    assert len(list((tmp_path / "bins").glob("imagenetcrop_nz2_3bits_*.npz"))) == 1


@pytest.mark.parametrize("each, says", [(0.001, ""), (0.09, "bins: about 2 minutes"), (7, "bins: about 1.9 hours")])
def test_how_long_the_sampling_takes_is_told_after_a_few_batches(each, says, capsys):
    now, told = [0.0], None
    bar = tqdm(range(1000), disable=True)
    for done, _ in enumerate(discretization.foretell(bar, "bins", lambda: now[0])):
        if done == discretization.FIRST:
            told = capsys.readouterr().out
        now[0] += 300 if done == 0 else each  # the first batch is slow
    assert done == 999 and says in told and bool(says) == bool(told)
    assert capsys.readouterr().out == ""
