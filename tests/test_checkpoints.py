"""Finding and reading checkpoints, including those that others write."""

import argparse
import re

import pytest
import torch
from conftest import small_model

from model import checkpoints
from utils import paths
from utils.errors import UserError


def load(path):
    return checkpoints.load(path, "mnist")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_state_dicts_are_found_in_wrappers_and_under_prefixes(tmp_path, wrapper, prefix):
    model = small_model(2)
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt").identity == checkpoints.identify(model.state_dict())


@pytest.mark.parametrize("raw", ["model", "state_dict", "model_state_dict"])
def test_averaged_weights_come_before_raw_ones(tmp_path, capsys, raw):
    averaged = small_model(2, seed=1).state_dict()
    torch.save({raw: small_model(2).state_dict(), "ema": averaged, "step": 7}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt").identity == checkpoints.identify(averaged)
    assert "a.pt: using its averaged weights" in capsys.readouterr().out


def test_the_full_checkpoint_of_a_run_gives_its_average(tmp_path, capsys):
    from model.train_state import State

    model, average = small_model(2), small_model(2, seed=1)
    State({"seed": 0}, model, average, torch.optim.Adam(model.parameters())).save(tmp_path / "nz2.resume")
    assert load(tmp_path / "nz2.resume").identity == checkpoints.identify(average.state_dict())
    assert "averaged weights" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["arguments", "module"])
def test_other_objects_are_refused_with_a_remedy(tmp_path, kind):
    model, path = small_model(2), tmp_path / "it's.pt"
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(lr=1)} if kind == "arguments" else model, path)
    with pytest.raises(UserError, match=r"holds more than weights.*state_dict.*torch\.save"):
        load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    state = small_model(2).state_dict()
    name = list(state)[5]
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=re.escape(name)):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04damaged"])
def test_a_damaged_file_is_called_corrupt(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="corrupt"):
        load(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"ema": {"model": {}}}, [], {"state_dict": {"model.": 1}}, 3])
def test_a_file_without_weights_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: not the parameters"):
        load(tmp_path / "a.pt")


def test_a_folder_is_called_a_folder_and_an_absent_file_absent(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a checkpoint"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"none\.pt does not exist"):
        load(tmp_path / "none.pt")


@pytest.mark.parametrize(
    "dataset, nz, train, published",
    [
        ("imagenetcrop", 7, 4, "4"),
        ("cifar", 5, 8, "1, 2, 4, 8"),
        ("imagenet", 8, 4, "1, 2, 4"),
        ("mnist", 4, 4, "1, 2, 4, 8"),
        ("imagenet", None, 4, "1, 2, 4"),
    ],
)
def test_a_missing_checkpoint_names_the_command_and_every_folder(tmp_path, monkeypatch, dataset, nz, train, published):
    monkeypatch.setattr(paths, "checkpoints", lambda *args: {})
    with pytest.raises(UserError) as caught:
        checkpoints.find(dataset, nz, output=tmp_path)
    message = str(caught.value)
    assert f"python model/{dataset}_train.py --nz={train} trains one (the published depths are {published})" in message
    for folder in (paths.params(dataset, tmp_path), paths.params(dataset), paths.PRETRAINED):
        assert f"{folder}" in message


def test_a_model_of_ones_own_comes_before_those_that_ship(tmp_path, capsys):
    folder = paths.params("mnist", tmp_path)
    assert checkpoints.find("mnist", output=tmp_path) == paths.pretrained("mnist", 8)
    assert f"No checkpoint in {folder} and " in capsys.readouterr().out
    folder.mkdir(parents=True)
    for nz in (1, 2):
        (folder / f"nz{nz}").touch()
    (folder / "nz4.resume").touch()
    assert checkpoints.find("mnist", output=tmp_path) == folder / "nz2"
    assert checkpoints.find("mnist", 1, output=tmp_path) == folder / "nz1"
    assert capsys.readouterr().out == ""
    assert checkpoints.find("mnist", 4, output=tmp_path) == paths.pretrained("mnist", 4)
    assert f"No checkpoint for --nz=4 in {folder} and " in capsys.readouterr().out


def test_a_saved_checkpoint_is_read_again(tmp_path):
    state = small_model(2).state_dict()
    checkpoints.save(state, tmp_path / "deep" / "nz2")
    checkpoint = checkpoints.load(tmp_path / "deep" / "nz2", "mnist", output=tmp_path)
    assert (checkpoint.identity, checkpoint.dataset) == (checkpoints.identify(state), "mnist")
    beside, kept = checkpoint.bins_files(10)
    assert beside == tmp_path / "deep" / "nz2.bins.npz"
    assert kept == tmp_path / "bins" / f"mnist_nz2_10bits_{checkpoint.identity}.npz"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_applications_default_type_changes_no_identity(tmp_path, dtype):
    state = small_model(2).state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.set_default_dtype(dtype)
    try:
        assert load(tmp_path / "a.pt").identity == checkpoints.identify(state)
    finally:
        torch.set_default_dtype(torch.float32)
