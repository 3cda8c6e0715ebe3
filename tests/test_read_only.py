"""A repository that cannot be written, as a cluster's shared install: with --output elsewhere all works, without it one
line says so before the work starts."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, digits, run_main

import benchmark_compress
import cma
import discretization
import imagenetcrop_compress
import stackplot
from codec import command
from model import make_exact

# Mounts the repository a second time over itself, in a namespace of this process alone: not even root can write there.
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'
UNSHARE = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", MOUNT, str(ROOT)]


def can_mount():
    try:
        probe = subprocess.run([*UNSHARE, "sh", "-c", "! touch CHANGELOG.md"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="the repository cannot be mounted read-only here")


def run_read_only(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*UNSHARE, sys.executable, *map(str, command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=300)


@needs_mount
def test_all_is_made_under_output(tmp_path, mnist, checkpoint):
    flags = f"--checkpoint={checkpoint}", f"--data={mnist}", "--quantbits=5", "--experiments=2", "--ndatapoints=3"
    done = run_read_only("mnist_compress.py", *flags, "--exact", "--bitswap=1", f"--output={tmp_path / 'mine'}")
    assert done.returncode == 0, done.stderr
    assert "all pixels of 6 images" in done.stdout and "are identical" in done.stdout
    made = {path.relative_to(tmp_path / "mine").parts[0] for path in (tmp_path / "mine").rglob("*.npz")}
    assert made == {"bins", "bitstreams"}
    assert len(list((tmp_path / "mine" / "bins").iterdir())) == 2  # the bins and the exact form


@needs_mount
@pytest.mark.parametrize(
    "script, flags",
    [
        ("mnist_compress.py", ("--nz=2", "--quantbits=5", "--experiments=2", "--ndatapoints=3")),
        ("benchmark_compress.py", ("mnist",)),
        ("cma.py", ()),
        ("stackplot.py", ()),
        ("cma.py", ("--savings",)),
    ],
)
def test_without_output_one_line_comes_before_the_work(script, flags, mnist):
    data = [f"--data={mnist}"] if script.endswith("_compress.py") else []
    done = run_read_only(script, *flags, *data)
    assert_one_line_error(done, f"cannot write {ROOT / 'plots'}", "Read-only file system", "--output")
    assert "100%" not in done.stderr, "something was done before"


def noise(folder):
    """A folder with two test photographs."""
    from PIL import Image

    (folder / "imagenetcrop" / "test").mkdir(parents=True)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "imagenetcrop" / "test" / f"{i}.png")


@pytest.mark.parametrize(
    "main, flags",
    [
        (functools.partial(command.main, "mnist"), ("--experiments=2", "--ndatapoints=2")),
        (imagenetcrop_compress.main, ("--nphotos=2",)),
        (benchmark_compress.main, ("mnist", "--experiments=2", "--ndatapoints=2")),
        (cma.main, ()),
        (stackplot.main, ()),
        (discretization.main, ("mnist", "--nz=2", "--quantbits=4")),
    ],
)
@pytest.mark.parametrize("output", ["/proc/none", "a file", "x" * 300])
def test_an_output_where_nothing_can_be_written(main, flags, output, tmp_path, monkeypatch):
    """In every one of the scripts, and before anything is drawn, downloaded, sampled or compressed."""
    noise(tmp_path)
    (tmp_path / "mnist").mkdir()
    for split in ("train", "test"):
        np.save(tmp_path / "mnist" / f"{split}.npy", digits(30))
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr("tqdm.tqdm.update", lambda *args: pytest.fail("something was done before"))
    data = [] if main in (cma.main, stackplot.main) else [f"--data={tmp_path}"]
    done = run_main(main, *flags, *data, f"--output={tmp_path / output}")
    assert_one_line_error(done, tmp_path / output)


def test_a_file_named_with_to_where_nothing_can_be_written(tmp_path, mnist, checkpoint):
    for path in ("/proc/none/a.npz", tmp_path):
        flags = f"--checkpoint={checkpoint}", f"--data={mnist}", f"--to={path}"
        assert_one_line_error(run_main(make_exact.main, "mnist", *flags), f"cannot write {path}")
