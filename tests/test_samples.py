"""samples.py draws what a model and its layers hold."""

import numpy as np
import torch
from conftest import assert_one_line_error, run_script, small_model
from PIL import Image

import samples
from model.vae import log_likelihoods


def test_a_png_file_is_written_for_each_model(mnist, checkpoint, tmp_path):
    flags = "mnist", "--checkpoint", checkpoint, "--data", mnist, "--rows=3"
    run_script("samples.py", *flags, "--output", tmp_path, check=0)
    run_script("samples.py", *flags, "-o", tmp_path / "other.png", check=0)
    with (
        Image.open(tmp_path / "plots" / "samples_mnist_nz2.png") as default,
        Image.open(tmp_path / "other.png") as other,
    ):
        assert default.format == "PNG" and np.array_equal(default, other)
        assert default.width == (3 + samples.COLUMNS) * 3 * (32 + 2 * samples.GAP) + 3 * 16


def test_a_dataset_that_does_not_fit_the_model_is_refused(mnist, checkpoint, tmp_path):
    flags = "cifar", "--checkpoint", checkpoint, "--data", mnist, "-o", tmp_path / "x.png"
    assert_one_line_error(run_script("samples.py", *flags), checkpoint)
    assert not (tmp_path / "x.png").exists()


def test_the_bits_of_the_layers_add_up_to_the_negative_elbo():
    model, x = small_model(nz=3), torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.manual_seed(0)
        logrecon, logdec, logenc = log_likelihoods(model, x)
        torch.manual_seed(0)
        bits = samples.measure(model, x)
    assert len(bits) == 4
    elbo = logrecon + (logdec - logenc).sum((0, 2))
    np.testing.assert_allclose(sum(bits), -elbo.mean(), rtol=1e-5)


def test_there_is_a_reconstruction_from_each_layer():
    model, x = small_model(nz=3), torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        rebuilt = samples.reconstructions(model, x)
    assert [each.shape for each in rebuilt] == 3 * [x.shape]


def test_images_are_put_in_rows_and_columns():
    sheet = samples.tile(np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1))
    gap = samples.GAP
    side = 1 + 2 * gap
    assert sheet.shape == (2 * side, 3 * side, 3)
    np.testing.assert_array_equal(sheet[gap::side, gap::side, 0], [[0, 1, 2], [3, 4, 5]])
    assert (sheet == 255).sum() == sheet.size - 3 * 6
