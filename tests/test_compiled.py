"""Compiled functions work whatever the state of Numba's cache."""

import os
import subprocess
import sys

import pytest

from utils import paths

SOURCE = """
import sys
sys.path.insert(0, {root!r})
from utils.compiled import compiled

@compiled
def square(x):
    return x * x

print(square(7), sum(square.stats.cache_hits.values()), sum(square.stats.cache_misses.values()))
"""


def run(tmp_path, **environment):
    path = tmp_path / "job.py"
    if not path.exists():
        path.write_text(SOURCE.format(root=str(paths.ROOT)))
    environment = {**{k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}, **environment}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("content", [b"", b"\x80damage", "half"])
def test_a_damaged_cache_is_made_again(tmp_path, content):
    assert run(tmp_path) == ["49", "0", "1"]  # hits, misses
    for suffix in (".nbi", ".nbc"):
        assert run(tmp_path) == ["49", "1", "0"]
        damaged = list((tmp_path / "__pycache__").glob(f"*{suffix}"))
        assert damaged
        for path in damaged:
            sound = path.read_bytes()
            path.write_bytes(sound[: len(sound) // 2] if content == "half" else content)
        assert run(tmp_path) == ["49", "0", "1"]
    assert run(tmp_path) == ["49", "1", "0"]


def test_no_folder_for_a_cache(tmp_path):
    """A file stands where each folder for the cache would be, which stops root as well."""
    (tmp_path / "__pycache__").write_text("no folder")
    (tmp_path / "file").write_text("no folder")
    for name in ("XDG_CACHE_HOME", "HOME"):
        (tmp_path / name).write_text("no folder")
    environment = {name: str(tmp_path / name) for name in ("XDG_CACHE_HOME", "HOME")}
    assert run(tmp_path, **environment)[0] == "49"


def test_square_roots_of_another_library_are_refused(tmp_path):
    """Those of SVML, with which an application may have imported Numba before, are not rounded correctly."""
    path = tmp_path / "application.py"
    path.write_text(f"import numba\nnumba.config.USING_SVML = True\n{SOURCE.format(root=str(paths.ROOT))}")
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 1 and "set NUMBA_DISABLE_INTEL_SVML=1" in done.stderr.splitlines()[-1]
