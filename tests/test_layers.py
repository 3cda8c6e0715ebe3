"""Imports go downwards only: scripts, codec, discretization, model, utils."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(tmp_path):
    """A copy of the sources, to break."""
    for folder in ("codec", "model", "utils"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pt", "*.npz", "data", "params")
        )
    for file in ("discretization.py", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def lint(folder):
    return subprocess.run([LINT, "--no-cache"], cwd=folder, capture_output=True, text=True)


def test_the_sources_keep_to_it(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module, upward",
    [
        ("model/vae.py", "from codec import rans"),
        ("utils/paths.py", "from model import vae"),
        ("utils/npz.py", "import codec.container"),
        ("model/checkpoints.py", "import discretization"),
    ],
)
def test_an_upward_import_fails(copy, module, upward):
    with open(copy / module, "a") as file:
        file.write(f"\n{upward}\n")
    done = lint(copy)
    assert done.returncode == 1 and "BROKEN" in done.stdout


def test_discretization_does_not_import_codec():
    tree = ast.parse((ROOT / "discretization.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} & {"codec", "model", "utils"} == {"model", "utils"}
