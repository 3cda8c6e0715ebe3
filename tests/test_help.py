"""--help answers at once: no script has imported PyTorch or Matplotlib by then (training: test_training.py)."""

import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = [
    *sorted(path.name for path in ROOT.glob("*.py")),
    "model/create_imagenet.py",
    "model/create_imagenetcrop.py",
    "model/make_exact.py",
]
# Runs a script as Python does, and says which of these it has imported by the time that it leaves.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported", *{"torch", "matplotlib"} & sys.modules.keys())
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_slow(script):
    command = [sys.executable, "-c", RUN, str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ") and done.stdout.splitlines()[-1] == "imported", done.stdout[-300:]
