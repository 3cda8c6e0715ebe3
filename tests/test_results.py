"""The results that ship."""

import csv
import os
import platform
import shutil
import subprocess

import numpy as np
import PIL
import torch
from conftest import ROOT

from utils import paths, results

CPU = torch.device("cpu")


def test_a_result_names_what_made_it(tmp_path):
    results.write_made(tmp_path / "made.csv", results.describe_maker(CPU))
    [made] = csv.DictReader((tmp_path / "made.csv").open())
    assert made.pop("processor") == results.processor(CPU) != ""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = shutil.which("git") and subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    versions = {"Python": platform.python_version(), "PyTorch": torch.__version__, "NumPy": np.__version__}
    assert made == {"commit": commit or "unknown", **versions, "Pillow": PIL.__version__}


def test_a_commit_that_git_does_not_tell_is_unknown(tmp_path, monkeypatch):
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", tmp_path], check=True)  # that of somebody else, around the program
    (tmp_path / "program").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "program")
    for path in (os.environ["PATH"], str(tmp_path)):  # with and without git
        monkeypatch.setenv("PATH", path)
        results.write_made(tmp_path / "made.csv", results.describe_maker(CPU))
        assert (tmp_path / "made.csv").read_text().splitlines()[1].startswith("unknown,")


def test_what_ships_shows_the_papers_story():
    """BB-ANS's first image costs more with every layer, Bit-Swap's does not; and MNIST's net rate is its ELBO."""
    models = results.load([results.SHIPPED])
    of_one_recipe = {"mnist": (1, 2, 4, 8), "cifar": (1, 2, 4, 8), "imagenet": (1, 2, 4)}
    for dataset, depths in of_one_recipe.items():
        first = {s: [models[dataset, nz][s].cmas[:, 0].mean() for nz in depths] for s in results.SCHEMES}
        steps = np.diff(first["bbans"]) / np.diff(depths)
        assert (steps > 0.8 * steps.mean()).all() and max(first["bitswap"]) == first["bitswap"][0]
        assert np.ptp(first["bitswap"][1:]) < 0.02 * first["bitswap"][1]
    one, two, four, eight = (models["cifar", nz]["bitswap"].nets.mean() for nz in (1, 2, 4, 8))
    assert eight < four < two < one and two < 4.6  # that of WebP
    for (dataset, _), curves in models.items():
        for result in curves.values():
            assert dataset != "mnist" or abs(result.nets.mean() - result.elbos.mean()) < 0.005
