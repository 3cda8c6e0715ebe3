"""Imports go downwards only, and the paper's codec imports nothing of the context codec."""

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
    "module, line",
    [
        ("model/vae.py", "from codec import rans"),
        ("utils/paths.py", "from model import vae"),
        ("utils/npz.py", "import codec.container"),
        ("model/checkpoints.py", "import discretization"),
        ("codec/bitsback.py", "from codec import context"),
        ("model/vae.py", "from model.context import weights"),
        ("utils/errors.py", "from utils import npz"),
    ],
)
def test_an_import_upwards_or_of_the_context_codec_or_in_a_circle_fails(copy, module, line):
    with open(copy / module, "a") as file:
        file.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1 and "BROKEN" in done.stdout


def test_discretization_imports_neither_codec_nor_the_context_network():
    tree = ast.parse((ROOT / "discretization.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} & {"codec", "model", "utils"} == {"model", "utils"}
    assert not any(name.startswith("model.context") for name in imported)
