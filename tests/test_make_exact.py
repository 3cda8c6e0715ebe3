"""Making exact networks: as good as the float ones, or refused."""

import math

import pytest
import torch
from conftest import assert_one_line_error, run_main, small_model
from exact_reference import COLOUR, GREY, blobs, networks

from model import exact, make_exact
from model.make_exact import bits_per_dim, in_floats
from utils.errors import UserError
from utils.torch.modules import fold_weight_norm


@pytest.mark.parametrize("options", [GREY, COLOUR], ids=["grey", "colour"])
def test_as_good_as_the_float_network(options):
    model, ours = networks(**options)
    pixels = blobs(8, model.xs[0], seed=1)
    float_rate, exact_rate = bits_per_dim(fold_weight_norm(model), pixels), bits_per_dim(in_floats(ours), pixels)
    assert (exact_rate - float_rate).abs().max() < 0.03
    assert (exact_rate - float_rate).mean().abs() < 0.003
    assert not torch.equal(exact_rate, float_rate)


def test_single_passes_are_given_up_where_they_cost_too_much(monkeypatch):
    model, pixels = small_model(), blobs(8, 1)
    monkeypatch.setattr(make_exact, "TOLERANCE", math.inf)
    cheap = make_exact.make(model, pixels)
    assert (cheap.fields.inputs[:, 1] > 0).sum() == 2 * model.nz
    monkeypatch.setattr(make_exact, "TOLERANCE", -math.inf)
    thorough = make_exact.make(model, pixels)
    assert (thorough.fields.inputs[:, 1] > 0).all()
    assert cheap.identity != thorough.identity


def test_activations_beyond_the_fixed_point_range_are_refused():
    model = small_model()
    with torch.no_grad():
        model.infer_res0[0].res6layer1.conv2.b += 1e7
    with pytest.raises(UserError, match="too large for the integers of float32"):
        make_exact.make(model, blobs(2, 1))


def test_command(checkpoint, mnist, tmp_path):
    to = tmp_path / "made.exact.npz"
    done = run_main(make_exact.main, "mnist", "--checkpoint", checkpoint, "--data", mnist, "--to", to)
    assert done.returncode == 0, done.stderr
    assert str(to) in done.stdout
    model, pixels = small_model(), make_exact.sample_images("mnist", "test", mnist, 100)
    rate = bits_per_dim(fold_weight_norm(model), pixels).mean().item() * 1024 / 784
    assert f"float {rate:.5f}" in done.stdout  # per dimension of the images, without the padding
    assert exact.load(to).zs == (1, 16, 16)
    done = run_main(make_exact.main, "mnist", "--checkpoint", checkpoint, "--data", tmp_path / "none", "--to", to)
    assert_one_line_error(done, "none")
