"""Threads of OpenMP sleep while they wait, unless the user says otherwise, whichever script loads it."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = [
    str(path.relative_to(ROOT))
    for folder in (".", "model", "benchmarks", "examples", "scripts")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text() and path.name != "published_side.py"  # which published.py starts, as it is set
]
# Imports a script without running it, up to the first library that loads OpenMP. What is imported when it runs finds
# the setting, as `utils` is there by then.
IMPORT = """
import os, runpy, sys

class Finder:
    def find_spec(name, *_):
        if name in ("torch", "sklearn", "scipy", "numba"):
            assert "OMP_WAIT_POLICY" in os.environ, name + " comes first"
            os._exit(0)

sys.meta_path.insert(0, Finder)
sys.path[0] = os.path.dirname(sys.argv[1])
runpy.run_path(sys.argv[1], run_name="imported")
assert "utils" in sys.modules
"""


def run(code, *args, **environment):
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_is_set_before_what_reads_it(script):
    run(IMPORT, str(ROOT / script))


@pytest.mark.parametrize("given, expected", [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_pytorch_takes_it(given, expected):
    done = run("import utils, torch; print(torch.__config__.parallel_info())", OMP_DISPLAY_ENV="true", **given)
    if "OPENMP DISPLAY ENVIRONMENT" not in done.stderr:
        pytest.skip("this PyTorch comes without OpenMP")
    assert re.search(rf"OMP_WAIT_POLICY *= *'{expected}'", done.stderr), done.stderr
