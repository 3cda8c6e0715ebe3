"""Reading checkpoints, also such as others write."""

import argparse
import re
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import small_model

from model import checkpoints
from utils import paths
from utils.cli import UserError


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_state_dicts(tmp_path, wrapper, prefix):
    model = small_model(2)
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pt")
    _, identity = checkpoints.load(tmp_path / "a.pt")
    assert identity == checkpoints.identity(model.state_dict())


@pytest.mark.parametrize("kind", ["arguments", "module"])
def test_other_objects_are_told_with_the_line_that_takes_the_weights_out(tmp_path, monkeypatch, kind):
    model, path = small_model(2), tmp_path / "it's.pt"
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(lr=1)} if kind == "arguments" else model, path)
    with pytest.raises(UserError, match="other Python objects") as caught:
        checkpoints.load(path)
    command = re.search(r"python (-c .*)$", str(caught.value))[1]
    environment = {"PYTHONPATH": str(paths.ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True, cwd=tmp_path, env=environment)
    assert checkpoints.load(tmp_path / "weights.pt")[1] == checkpoints.identity(model.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    state = small_model(2).state_dict()
    name = list(state)[5]
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=re.escape(name)):
        checkpoints.load(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04damaged"])
def test_damage_is_not_taken_for_other_objects(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="corrupt"):
        checkpoints.load(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "dataset, nz, says",
    [
        ("imagenetcrop", 7, "the published depths are 4, e.g. python model/imagenetcrop_train.py --nz=4"),
        ("cifar", 5, "the published depths are 1, 2, 4, 8, e.g. python model/cifar_train.py --nz=8"),
        ("imagenet", 8, "the published depths are 1, 2, 4, e.g. python model/imagenet_train.py --nz=4"),
        ("mnist", 4, "python model/mnist_train.py --nz=4 makes it"),
        ("imagenet", None, "python model/imagenet_train.py --nz=4 makes it"),
    ],
)
def test_a_missing_checkpoint_is_advised_as_published_and_every_folder_named(tmp_path, monkeypatch, dataset, nz, says):
    monkeypatch.setattr(paths, "checkpoints", lambda *args: {})
    with pytest.raises(UserError) as caught:
        checkpoints.find(dataset, nz, output=tmp_path)
    message = str(caught.value)
    assert message.endswith(says)
    for folder in (paths.params(dataset, tmp_path), paths.params(dataset), paths.PRETRAINED):
        assert f"{folder}" in message
