"""Training the context network: a run that is cut off goes on as if it had not been."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, digits, run_main, run_script
from pictures import picture_of
from PIL import Image

import context_compress
from codec import context
from model import context_train
from model.context import data as context_data
from model.context import training as context_training
from model.context.features import SMALL_GRID
from model.context.torch_network import TorchContextNetwork
from model.context.weights import load
from utils.locks import locked


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a few small photographs, for --data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "imagenetcrop" / "train" / "class").mkdir(parents=True)
    for i in range(5):
        smooth = np.asarray(Image.fromarray(picture_of("noise", 9, 11, "RGB", i).pixels).resize((60 + i, 50)))
        Image.fromarray(smooth).save(folder / "imagenetcrop" / "train" / "class" / f"{i}.png")
    return folder


def train(data, output, *flags):
    done = run_main(context_train.main, "imagenetcrop", "--data", data, "--output", output, "--batch", 512, *flags)
    return done, output / "model" / "params" / "imagenetcrop"


def test_a_run_that_is_cut_off_goes_on(tmp_path, data, monkeypatch):
    done, whole = train(data, tmp_path / "whole", "--steps", 6, "--test-every", 2)
    assert done.returncode == 0 and "context network" in done.stdout, done.stderr
    monkeypatch.setattr(context_training, "SAVE_SECONDS", 0)
    open_source, drawn = context_data.open_source, []

    def open_stopping(*args):
        source = open_source(*args)

        def stop(*args):
            drawn.append(1)
            if len(drawn) == 4:
                raise KeyboardInterrupt
            return source.draw(*args)

        return source._replace(draw=stop)

    monkeypatch.setattr(context_data, "open_source", open_stopping)
    done, parts = train(data, tmp_path / "parts", "--steps", 6, "--test-every", 2)
    assert done.returncode == 130
    assert [path.name for path in parts.iterdir()] == ["context.resume"]  # no network before its time
    monkeypatch.setattr(context_data, "open_source", open_source)
    done, _ = train(data, tmp_path / "parts", "--steps", 6, "--test-every", 2, "--resume")
    assert done.returncode == 0 and "resumed at step 3" in done.stdout, done.stderr
    (first, one), (second, other) = (load(folder / "context.npz") for folder in (whole, parts))
    assert one == other and all(map(np.array_equal, first, second))
    curves = [np.load(folder / "context.npz")["record_curve"] for folder in (whole, parts)]
    np.testing.assert_array_equal(*curves)
    assert curves[0].shape == (3, 3) and np.isfinite(curves[0]).all()


def test_ctrl_c_ends_after_the_step_and_nothing_good_is_replaced(tmp_path, data, monkeypatch):
    learn, steps = TorchContextNetwork.bits, []

    def bits(*args):
        steps.append(signal.raise_signal(signal.SIGINT) if len(steps) == 1 else None)
        return learn(*args)

    with monkeypatch.context() as patch:
        patch.setattr(TorchContextNetwork, "bits", bits)
        done, folder = train(data, tmp_path, "--steps", 5)
    assert done.returncode == 0 and "stopped by a signal at step 2" in done.stdout, done.stderr
    before = (folder / "context.npz").read_bytes()
    done, _ = train(data, tmp_path, "--steps", 5)
    assert_one_line_error(done, folder / "context.npz", "--resume", "--output", "--force")
    assert (folder / "context.npz").read_bytes() == before
    done, _ = train(data, tmp_path, "--steps", 5, "--resume")
    assert done.returncode == 0 and "resumed at step 2" in done.stdout, done.stderr
    assert train(data, tmp_path, "--steps", 1, "--force")[0].returncode == 0


def test_a_gradient_that_is_not_finite_stays_out_of_the_weights(tmp_path, data, monkeypatch):
    monkeypatch.setattr(context_training, "SAVE_SECONDS", 0)
    clip, steps = torch.nn.utils.clip_grad_norm_, []

    def overflow(parameters, most):
        steps.append(1)
        return clip(parameters, most) * (torch.inf if len(steps) == 3 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", overflow)
        done, folder = train(data, tmp_path, "--steps", 4)
    assert_one_line_error(done, "inf after step 2; continue with --resume and a lower --lr")
    saved = torch.load(folder / "context.resume", weights_only=True)
    assert saved["step"] == 2 and all(value.isfinite().all() for value in saved["network"].values())
    done, _ = train(data, tmp_path, "--steps", 4, "--resume", "--lr", 1e-4)
    assert done.returncode == 0 and "resumed at step 2" in done.stdout, done.stderr
    assert np.load(folder / "context.npz")["record_setting_lr"] == 1e-4


def test_several_processes_are_refused(tmp_path, data, monkeypatch):
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "1212", strict=True):
        monkeypatch.setenv(name, value)
    done, folder = train(data, tmp_path, "--steps", 1)
    assert_one_line_error(done, "torchrun", "one process")
    assert not folder.exists()
    done = run_main(context_compress.main, "mnist", "--output", tmp_path)
    assert_one_line_error(done, "torchrun", "one process")


def test_a_gradient_that_is_not_finite_in_the_first_step_does_not_advise_to_resume(tmp_path, data, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: torch.tensor(torch.nan))
    done, _ = train(data, tmp_path, "--steps", 1)
    assert_one_line_error(done, "after step 0; start again with a lower --lr")


def test_a_second_run_into_the_same_folder_is_refused(tmp_path, data):
    with locked(tmp_path / "model" / "params" / "imagenetcrop" / "context.resume"):
        code = "import sys; from model import context_train; context_train.main(sys.argv[1:])"
        flags = ("imagenetcrop", "--data", data, "--output", tmp_path, "--steps=1")
        done = subprocess.run([sys.executable, "-c", code, *map(str, flags)], cwd=ROOT, capture_output=True, text=True)
    assert_one_line_error(done, "context.resume is in use by another run", "--output")


def test_it_learns(tmp_path, data):
    done, folder = train(data, tmp_path, "--steps", 60, "--test-every", 30, "--lr", 0.01)
    assert done.returncode == 0, done.stderr
    curve = np.load(folder / "context.npz")["record_curve"]
    assert curve[1, 1] < curve[0, 1] and curve[1, 1] < 5


def test_errors(tmp_path, data):
    done, folder = train(data, tmp_path, "--steps", 1)
    assert done.returncode == 0, done.stderr
    assert_one_line_error(train(data, tmp_path, "--steps", 2, "--resume")[0], "another run", "--force")
    (folder / "context.resume").write_bytes(b"damage")
    assert_one_line_error(train(data, tmp_path, "--steps", 1, "--resume")[0], "not a full checkpoint")
    assert_one_line_error(train(tmp_path, tmp_path)[0], "imagenetcrop")


def test_small_images(tmp_path):
    """What training sees of an image is what coding it takes: the code lengths of both are the same."""
    (tmp_path / "mnist").mkdir()
    images = digits(30, seed=0)
    np.save(tmp_path / "mnist" / "train.npy", images)
    flags = "mnist", "--data", tmp_path, "--output", tmp_path, "--steps", 3, "--batch", 1568
    done = run_script("model/context_train.py", *flags)
    assert done.returncode == 0 and "15 images" in done.stdout, done.stderr
    trained = tmp_path / "model" / "params" / "mnist"
    entries = torch.load(trained / "context.resume", weights_only=True)
    network = TorchContextNetwork()
    network.load_state_dict(entries["average"])
    with torch.no_grad():
        bits = network.bits(*context_data.describe_images(images[:2]))[:, 0].double().sum().item()
    weights, _ = load(trained / "context.npz")
    _, _, costs = context.encode_chain(images[:2], weights, SMALL_GRID)
    assert costs.sum() == pytest.approx(bits, rel=2e-3)
