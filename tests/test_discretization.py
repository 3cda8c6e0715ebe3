"""Bins from samples: streamed, cached, and tied to their checkpoint."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, digits, run_main, run_script, small_model
from photograph_files import fill_data, load_train

import discretization
from model import checkpoints
from utils import datasets, photographs
from utils.errors import UserError
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


def test_inference_chain_widens_the_ranges():
    model = small_model(2)
    both = discretization.sample_ranges(model, digits(20), 3, "id")
    alone = discretization.sample_ranges(model, None, 3, "id")
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
    with pytest.raises(UserError, match="no usable range"):
        discretization.bins(model, ranges._replace(hi=ranges.hi + 1e7))


def test_saved_and_loaded(tmp_path):
    ranges = discretization.sample_ranges(small_model(2), None, 2, "id")
    discretization.save(ranges, tmp_path / "ranges.npz")
    loaded = discretization.load(tmp_path / "ranges.npz")
    assert loaded.identity == ranges.identity
    assert (loaded.quantbits, loaded.checkpoint) == (2, "id")


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


def saved(folder, dataset="mnist", **options):
    """The Checkpoint of a small model that is written to folder/x.pt, whose bins are kept under the same folder."""
    checkpoints.save(small_model(**options).state_dict(), folder / "x.pt")
    return checkpoints.load(folder / "x.pt", dataset, output=folder)


def test_cache_is_keyed_by_the_checkpoint(tmp_path, mnist, capsys):
    ids = []
    for seed in (0, 1):
        checkpoint = saved(tmp_path, seed=seed)
        first = discretization.for_checkpoint(checkpoint, 2, mnist)
        again = discretization.for_checkpoint(checkpoint, 2, mnist)
        assert first.identity == again.identity
        ids.append(first.identity)
    assert ids[0] != ids[1]


def test_without_training_images_it_warns_and_keeps_the_bins(tmp_path, mnist, monkeypatch, capsys):
    """Other bins would make what was coded with the first ones unreadable."""

    def absent(*args):
        raise UserError("no images here")

    checkpoint = saved(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load", absent)
        ranges = discretization.for_checkpoint(checkpoint, 2, mnist)
    alone = discretization.sample_ranges(checkpoint.model, None, 2, checkpoint.identity)
    assert ranges.identity == alone.identity and "Warning: no images here" in capsys.readouterr().out
    assert discretization.for_checkpoint(checkpoint, 2, mnist).identity == ranges.identity


def test_folding_does_not_change_the_identity(checkpoint):
    stored = checkpoints.load(checkpoint, "mnist")
    fold_weight_norm(stored.model)
    assert checkpoints.identify(stored.model.state_dict()) == stored.identity


def test_script(tmp_path, mnist, checkpoint):
    flags = ("mnist", "--checkpoint", checkpoint, "--quantbits=2", "--data", mnist, "--output", tmp_path)
    done = run_script("discretization.py", *flags, check=0)
    assert "z1: 256 dimensions" in done.stdout
    (cached,) = (tmp_path / "bins").iterdir()
    beside = tmp_path / "small.bins.npz"
    ranges = discretization.load(cached)
    discretization.save(ranges._replace(hi=ranges.hi + 1), beside)
    cached.unlink()
    shutil.copy(checkpoint, tmp_path / "small.pt")
    flags = "mnist", "--checkpoint", tmp_path / "small.pt", *flags[3:]
    done = run_main(discretization.main, *flags)
    assert f"to {ranges.hi.max() + 1:.3f}" in done.stdout and not cached.exists()
    done = run_main(discretization.main, "mnist", "--checkpoint", tmp_path / "no")
    assert_one_line_error(done, tmp_path / "no")


def test_bins_see_as_many_patches_as_samples(tmp_path):
    """A photograph gives several, as one crop of each would be far fewer than 30 a bin."""
    model = small_model(2, xs=(3, 32, 32), conditional_scale=True)
    patches = load_train(fill_data(tmp_path))
    ranges = discretization.sample_ranges(model, patches, 2, "id")
    samples = photographs.recrop(patches, 100, math.ceil(30 * 4 / len(patches)))[:]
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


def write_published(folder, checkpoint, quantbits, change=lambda edges: edges):
    """The file of edges as the published discretization.py writes it, of samples in float16; returns these [dims] each.

    change: a function of the edges that damages them.
    """
    nz, dims, n = checkpoint.model.nz, math.prod(checkpoint.model.zs), 1 << quantbits
    edges = np.zeros((nz, dims, n - 1))
    rng = np.random.default_rng(0)
    lo, hi = (rng.uniform(*ends, (nz - 1, dims)).astype(np.float16).astype(np.float64) for ends in ((-9, -1), (1, 9)))
    for layer in range(nz - 1):
        edges[layer] = np.linspace(lo[layer], hi[layer], n + 1)[1:-1].T
    p = torch.arange(1.0, n) / n
    edges[-1] = torch.log(p / (1 - p)).numpy()
    folder.mkdir(exist_ok=True)
    torch.save(torch.from_numpy(change(edges)), folder / f"{checkpoint.dataset}_nz{nz}_zendpoints{quantbits}.pt")
    return lo, hi


@pytest.mark.parametrize("nz, quantbits", [(1, 4), (2, 2), (3, 10)])
def test_published_bins_are_imported_as_they_are(tmp_path, nz, quantbits):
    checkpoint = saved(tmp_path, nz=nz)
    lo, hi = write_published(tmp_path / "bins", checkpoint, quantbits)
    ranges = discretization.load_published(tmp_path / "bins", checkpoint, quantbits)
    assert (ranges.quantbits, ranges.checkpoint) == (quantbits, checkpoint.identity)
    np.testing.assert_allclose(ranges.lo, lo, rtol=0, atol=1e-14)
    ours = discretization.bins(checkpoint.model, ranges)
    theirs = discretization.bins(checkpoint.model, ranges._replace(lo=lo, hi=hi))
    for a, b in zip(ours[1:-1], theirs[1:-1], strict=True):
        np.testing.assert_array_equal(a.lo, b.lo)
        np.testing.assert_array_equal(a.width, b.width)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda edges: edges**3, "equal width"),
        (lambda edges: -edges, "equal width"),
        (lambda edges: edges * np.nan, "equal width"),
        (lambda edges: edges[:, :, 1:], r"zendpoints4\.pt holds float64 \[2, 256, 14\]"),
        (lambda edges: edges.astype(np.float32), r"zendpoints4\.pt holds float32"),
    ],
)
def test_other_published_bins_are_refused(tmp_path, change, says):
    checkpoint = saved(tmp_path)
    write_published(tmp_path, checkpoint, 4, change)
    with pytest.raises(UserError, match=says):
        discretization.load_published(tmp_path, checkpoint, 4)


def test_published_bins_from_the_command_line_are_those_that_coding_uses(tmp_path):
    checkpoint = saved(tmp_path)
    flags = "mnist", "--checkpoint", checkpoint.path, "--quantbits=4", "--output", tmp_path, "--gpu=-1", "--import"
    done = run_main(discretization.main, *flags, tmp_path / "theirs")
    assert_one_line_error(done, tmp_path / "theirs" / "mnist_nz2_zendpoints4.pt", "cannot be read", "--import")
    lo, _ = write_published(tmp_path / "theirs", checkpoint, 4)
    done = run_main(discretization.main, *flags, tmp_path / "theirs")
    assert done.returncode == 0 and f"from {lo.min():.3f}" in done.stdout, done.stderr
    np.testing.assert_allclose(discretization.for_checkpoint(checkpoint, 4).lo, lo)
    (tmp_path / "theirs" / "mnist_nz2_zendpoints4.pt").write_bytes(b"no tensor")
    assert_one_line_error(run_main(discretization.main, *flags, tmp_path / "theirs"), "zendpoints4.pt cannot be read")
    beside = tmp_path / "x.bins.npz"
    beside.touch()
    assert_one_line_error(run_main(discretization.main, *flags, tmp_path / "theirs"), beside, "move it away")
