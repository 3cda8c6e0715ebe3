"""--help of every script answers from anywhere, and at once: without PyTorch and Matplotlib."""

import subprocess
import sys

import pytest
from conftest import ROOT, run_script

TRAIN = [f"{dataset}_train" for dataset in ("mnist", "cifar", "imagenet", "imagenetcrop")]
MODEL = (*TRAIN, "context_train", "create_imagenet", "create_imagenetcrop", "make_exact")
SCRIPTS = [*sorted(path.name for path in ROOT.glob("*.py")), *(f"model/{name}.py" for name in MODEL)]
# Runs a script as `python -P` does, without its folder on the path, and says which of these it has imported at its end.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
del sys.path[0]
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_from_any_folder(script, tmp_path):
    """Each script also runs from its own folder: the other tests run them from the repository root."""
    own = script.startswith("model")
    done = run_script(script, "--help", cwd=ROOT / "model" if own else tmp_path, check=0)
    assert "None" not in done.stdout
