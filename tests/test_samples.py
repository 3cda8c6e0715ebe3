"""samples.py draws what a model and its layers hold."""

import numpy as np
import torch
from conftest import assert_one_line_error, run_script, small_model
from result_files import check_figure

import samples
from model.vae import log_likelihoods


def test_a_figure_is_written_for_each_model(mnist, checkpoint, tmp_path):
    flags = "mnist", "--checkpoint", checkpoint, "--data", mnist
    run_script("samples.py", *flags, "--output", tmp_path, check=0)
    check_figure(tmp_path / "plots" / "samples_mnist_nz2")


def test_a_dataset_that_does_not_fit_the_model_is_refused(mnist, checkpoint, tmp_path):
    flags = "cifar", "--checkpoint", checkpoint, "--data", mnist, "--output", tmp_path
    assert_one_line_error(run_script("samples.py", *flags), checkpoint)
    assert not list(tmp_path.rglob("*.png"))


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
