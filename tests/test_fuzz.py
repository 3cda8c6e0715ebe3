"""Random flags, files and folders: no script ends in a traceback, or in another status than 0, 1 and 2.

In this process, which is twenty times as fast as one of its own for every run; a few of those are at the end.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import odd_images
import pytest
import torch
import torchvision
from conftest import ROOT, digits, run_main, run_script, small_model
from test_read_only import needs_mount, run_read_only

from scripts import MAINS, TRAIN, actions, is_number
from utils import paths

SCRIPTS = MAINS | TRAIN
RUNS = 36  # of each script
SECONDS = 120  # that one run may take

NUMBERS = ("0", "1", "2", "3", "5", "-1", "-2", "nan", "inf", "1e3", "2.5", "", "x", "9" * 30, "0x10", "1,2", "٣")
NOWHERE = (
    "/proc/none",
    "/dev/null",
    "/dev/null/x",
    "/dev/full",
    "",
    ".",
    "x" * 300,
    "\udcff",
    "a\nb",
    "~",
)  # root may write to /
NEEDED = {  # what a run must not go without, for the repository's own folders not to be written
    "model/make_exact.py": ("to", "data"),
    "demo_compress.py": ("images",),
} | dict.fromkeys(TRAIN, ("width", "blocks", "nprocessing", "batch", "max_steps"))  # nor for it to take minutes
NEEDED["model/context_train.py"] = ("steps", "batch")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data, checkpoints, images and damaged ones of each, to draw from."""
    root = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 32, 32, 3), np.uint8)
    for dataset, pixels in {"mnist": digits(30), "cifar": noise, "imagenet": noise}.items():
        (root / "data" / dataset).mkdir(parents=True)
        for split in ("train", "test"):
            np.save(root / "data" / dataset / f"{split}.npy", pixels)
    for folder in ("data/imagenetcrop/train", "data/imagenetcrop/test", "images", "data/train_32x32"):
        (root / folder).mkdir(parents=True)
        for i in range(40):
            odd_images.write(root / folder, np.random.default_rng(i))
    for folder in ("damaged/mnist", "damaged/cifar", "damaged/imagenetcrop/test", "checkpoints", "empty", "closed"):
        (root / folder).mkdir(parents=True)
    (root / "damaged" / "mnist" / "test.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(root / "damaged" / "mnist" / "train.npy", np.zeros((3, 28, 28)))
    (root / "damaged" / "cifar" / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b")
    (root / "damaged" / "train_data_batch_1.npz").write_bytes(b"PK")
    os.chmod(root / "closed", 0o555)
    state = small_model().state_dict()
    torch.save(state, root / "checkpoints" / "mnist.pt")
    torch.save(small_model(xs=(3, 32, 32)).state_dict(), root / "checkpoints" / "colour.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, root / "checkpoints" / "w.pt")
    torch.save(dict(list(state.items())[:5]), root / "checkpoints" / "part.pt")
    torch.save([1, 2], root / "checkpoints" / "list.pt")
    (root / "checkpoints" / "cut.pt").write_bytes((root / "checkpoints" / "mnist.pt").read_bytes()[:4000])
    shutil.copytree(ROOT / "docs" / "results", root / "results")
    for i, path in enumerate(sorted((root / "results").rglob("*.npy"))[:4]):
        path.write_bytes(path.read_bytes()[: 100 * i])
    for name in ("picture", "alpha"):
        kept = (ROOT / "tests" / "golden" / f"{name}.bitswap").read_bytes()
        for i in range(8):
            damaged = odd_images.damage(np.random.default_rng(i), kept)
            (root / "images" / f"{name}{i}.bitswap").write_bytes(damaged if i else kept)
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no network here")

    for name in ("MNIST", "CIFAR10"):
        monkeypatch.setattr(torchvision.datasets, name, fail)


def pick(rng, values):
    values = list(values)
    return values[rng.integers(len(values))]


def files(folder):
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file()]


def value(rng, action, world, scratch, often=4):
    """A good or, one time in `often`, a bad value for an argument, as text."""
    good = rng.integers(often) > 0
    if action.choices:
        return pick(rng, map(str, action.choices)) if good else pick(rng, ("", "x", "-1", "both ", "Ω"))
    if action.dest == "quantbits":
        return pick(rng, "23456") if good else pick(rng, ("0", "17", "nan", ""))  # more take minutes
    if action.dest in ("dropout", "decay", "lr") and good:
        return pick(rng, ("0.1", "0.5"))
    if is_number(action) and action.dest not in ("dataset", "datasets"):
        return pick(rng, "1123") if good else pick(rng, NUMBERS)
    if not good:
        return pick(rng, (*NOWHERE, str(world / "closed" / "x"), str(world / "closed"), *files(world / "images")[:3]))
    return {
        "output": lambda: pick(rng, (scratch / "out", scratch / "deep" / "er", world / "empty")),
        "data": lambda: pick(rng, (world / "data", world / "data", world / "damaged", world / "empty")),
        "checkpoint": lambda: pick(rng, files(world / "checkpoints")),
        "context": lambda: pick(rng, files(world / "checkpoints")),
        "to": lambda: pick(rng, (scratch / "to", scratch / "to.png", scratch / "new" / "to.npz", world / "empty")),
        "images": lambda: odd_images.write(scratch, rng),
        "file": lambda: pick(rng, files(world / "images") + sorted(map(str, world.glob("images/*.bitswap"))) * 5),
        "folders": lambda: pick(rng, (world / "images", world / "empty", world / "data")),
        "train": lambda: pick(rng, ("train_32x32", world / "images", world / "damaged")),
        "test": lambda: pick(rng, ("train_32x32", world / "images", world / "empty")),
        "results": lambda: pick(rng, (world / "results", world / "empty", world / "data")),
        "dataset": lambda: pick(rng, ("mnist", "cifar", "imagenet", "imagenetcrop", "mnist,cifar")),
        "datasets": lambda: pick(rng, ("mnist", "cifar", "imagenetcrop")),
    }.get(action.dest, lambda: pick(rng, NOWHERE))()


def flags(rng, script, world, scratch):
    """A random command line of a script."""
    words = []
    for action in actions(script):
        positional = not action.option_strings
        needed = positional or action.dest in ("output", "data", *NEEDED.get(script, ()))
        if not needed and rng.integers(8 if script in TRAIN else 3):  # which have so many that one is mostly bad
            continue
        often = 30 if needed and script in TRAIN else 4
        count = int(rng.integers(1, 4)) if action.nargs in ("*", "+") and positional else 1
        if action.nargs == 0:
            words.append(action.option_strings[-1])
        elif positional:
            words += [os.fspath(value(rng, action, world, scratch, often)) for _ in range(count)]
        else:
            words.append(f"{action.option_strings[-1]}={value(rng, action, world, scratch, often)}")
    if rng.integers(12) == 0:
        words.insert(int(rng.integers(len(words) + 1)), pick(rng, ("--unknown", "-x", "--", "--help", "", "--nz")))
    return words


def too_slow(*args):
    raise TimeoutError(f"over {SECONDS} s")


def try_once(script, seed, world, scratch):
    """One random run, in this process."""
    rng = np.random.default_rng([seed, sum(script.encode())])
    scratch.mkdir()
    words = flags(rng, script, world, scratch)
    before = signal.signal(signal.SIGALRM, too_slow), signal.getsignal(signal.SIGTERM)
    signal.alarm(SECONDS)
    try:
        done = run_main(SCRIPTS[script], *words)
    except BaseException as error:
        raise AssertionError(f"{script}, seed {seed}: {words}: {error!r}") from error
    finally:
        signal.alarm(0)
        for number, handler in zip((signal.SIGALRM, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    said = f"{script}, seed {seed}: {words}: {done.returncode}\n{done.stderr}"
    assert done.returncode in (0, 1, 2), said
    assert "Traceback" not in done.stderr, said
    assert done.returncode == 0 or "error: " in done.stderr, said
    shutil.rmtree(scratch)
    return done.returncode


def tracked():
    """What the repository's own folders hold that a run might write to."""
    folders = [ROOT / name for name in ("model", "docs", "bins", "plots", "bitstreams", "demo")]
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("runs", [range(2), pytest.param(range(2, RUNS), marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_random_flags_and_files(script, runs, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tracked()
    statuses = {try_once(script, seed, world, tmp_path / "scratch") for seed in runs}
    assert tracked() == before
    assert len(runs) < 10 or len(statuses) > 1, "all runs end alike: the flags are not random enough"


@pytest.mark.slow
@pytest.mark.parametrize("script", MAINS)
def test_random_flags_in_a_process_of_their_own(script, world, tmp_path):
    """As a user runs it, which takes the imports, the end of the interpreter and the signals along."""
    proxies = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    for seed in range(1000, 1002):
        scratch = tmp_path / str(seed)
        scratch.mkdir()
        words = flags(np.random.default_rng(seed), script, world, scratch)
        done = run_script(script, *words, cwd=tmp_path, environment=proxies)
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, (words, done.stderr)


@pytest.mark.slow
@needs_mount
@pytest.mark.parametrize("script", MAINS)
def test_random_flags_in_a_repository_that_cannot_be_written(script, world, tmp_path):
    for seed in range(2000, 2002):
        scratch = tmp_path / str(seed)
        scratch.mkdir()
        words = flags(np.random.default_rng(seed), script, world, scratch)
        words = [word for word in words if not word.startswith(("--output", "--to"))]
        done = run_read_only(script, *words)
        assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, (words, done.stderr)


@pytest.mark.parametrize("seed", range(300))
def test_odd_images_are_read_or_refused_in_a_line(seed, tmp_path, capsys):
    from codec import container
    from utils import images
    from utils.errors import UserError

    sys.stdout.reconfigure(errors="replace")  # a note may name a file that is not UTF-8, which every script can print
    path = odd_images.write(tmp_path, np.random.default_rng(seed))
    try:
        picture = images.read(path)
        assert picture.mode in images.MODES and picture.pixels.dtype == np.uint8
        decoded = container.decode(container.encode(picture, "conventional"))
        path.write_bytes(images.to_png(decoded))
        assert images.same(images.read(path), picture)
    except UserError as error:
        assert str(error).startswith(str(path))
    assert paths.list_files(tmp_path)[0] == [path.name]
    assert not Path("converted.png").exists()
