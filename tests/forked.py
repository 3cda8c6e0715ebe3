"""Run scripts in processes forked from one that has imported the large libraries, which saves these imports."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["numba", "torch", "matplotlib.pyplot"])


def run(command, cwd, environment, timeout):
    """What subprocess.run(["python", *command], ...) returns, with stdout and stderr as text."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # OpenMP reads it when PyTorch is imported
            forkserver.ensure_running()
        process = _FORKS.Process(target=_become, args=(command, str(cwd), environment, streams))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        stdout, stderr = (Path(path).read_text(errors="replace") for path in streams)
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _become(command, cwd, environment, streams):
    """Turn this process into one that runs a script."""
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    folder = str(Path(command[0]).parent)
    libraries = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    sys.argv, sys.path[:] = command, [folder, *libraries]
    runpy.run_path(command[0], run_name="__main__")
