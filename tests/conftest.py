"""Shared by the tests: small models, small datasets, and a way to run the scripts as a user does."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import utils  # noqa: F401  (before PyTorch: it says how OpenMP's threads wait)

# isort: split
import torch

from model.vae import Model, log_likelihoods
from utils.torch.modules import init_mode

ROOT = Path(__file__).resolve().parents[1]

pytest.register_assert_rewrite("pictures", "exact_reference", "result_files")

torch.set_num_threads(1)

# In the background of a shell SIGINT is ignored, and would be in all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Environments in which the libraries take other instructions than they would here.
SETTINGS = {
    "least": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
        "OMP_NUM_THREADS": "2",
    },
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "oneDNN bfloat16": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    "oneDNN any": {"DNNL_DEFAULT_FPMATH_MODE": "ANY"},
    "PyTorch AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "PyTorch default": {"ATEN_CPU_CAPABILITY": "default"},
}


def small_model(nz=2, xs=(1, 32, 32), zchannels=1, seed=0, **options):
    """A small model, initialised from noise images and then shaken, so that no layer is an identity."""
    torch.manual_seed(seed)
    model = Model(
        xs=xs, nz=nz, zchannels=zchannels, nprocessing=1, kernel_size=3, resdepth=max(2, nz - 1), reswidth=6,
        **options,
    )  # fmt: skip
    with torch.no_grad(), init_mode():
        log_likelihoods(model.eval(), torch.randint(0, 256, (8, *xs), dtype=torch.uint8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def digits(count, seed=0):
    """Images that compress like digits do: uint8 [count, 28, 28, 1], a bright blob on black."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    cy, cx, size = rng.uniform(8, 20, (3, count, 1, 1))
    blobs = 255 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / size)
    return np.where(blobs > 20, blobs, 0).astype(np.uint8)[..., None]


def photograph(height, width, seed):
    """Smooth colours with some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None]
    waves = 100 * np.sin(y / rng.uniform(5, 20, 3) + x / rng.uniform(5, 20, 3))
    return np.clip(128 + waves + rng.normal(0, 5, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """A folder with a small stand-in for MNIST, for --data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    np.save(folder / "mnist" / "train.npy", digits(120, seed=1))
    np.save(folder / "mnist" / "test.npy", digits(40, seed=2))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The path of a checkpoint of a small model for MNIST with nz = 2."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save(small_model().state_dict(), path)
    return path


def run_script(script, *args, cwd=ROOT, check=None, environment=None, python=sys.executable, timeout=300):
    """Run a script of the repository as a user does, but on one thread; returns the CompletedProcess.

    check: the exit status it must have, if any. environment: variables to set. Unless these or another Python are
    given, the libraries of the script have been imported already.
    """
    ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    variables = ours | {"OMP_NUM_THREADS": "1"} | (environment or {})
    command = [str(ROOT / script), *map(str, args)]
    if environment is None and python == sys.executable and sys.platform == "linux":
        import forked  # late: other systems may not have or survive such forks

        done = forked.run(command, cwd, variables, timeout)
    else:
        done = subprocess.run(
            [str(python), *command], cwd=cwd, env=variables, capture_output=True, text=True, errors="replace",
            timeout=timeout,
        )  # fmt: skip
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def run_main(main, *args):
    """Call a script's main function with a list of flags, in this process, which saves the imports.

    Returns what run_script() would: returncode, stdout, stderr.
    """
    stdout, stderr, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main(list(map(str, args)))
        except SystemExit as leave:
            status = leave.code or 0
    return SimpleNamespace(returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def assert_one_line_error(done, *mentions):
    """The process must have failed with status 1 or 2 and said why in the last line of stderr, without a traceback."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr.strip().splitlines()[-1]
    for mention in mentions:
        assert str(mention) in done.stderr.strip().splitlines()[-1]
