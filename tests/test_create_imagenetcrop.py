"""The script that divides photographs into a training and a test set."""

import os
import signal

import numpy as np
import pytest
from conftest import assert_one_line_error, run_main
from PIL import Image

from model import create_imagenetcrop
from utils import paths


def fill(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        pixels = np.random.default_rng(i).integers(0, 256, (33, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{('png', 'JPEG')[i % 2]}")


def divide(tmp_path, *args):
    return run_main(create_imagenetcrop.main, *args, f"--data={tmp_path / 'data'}")


def sets(tmp_path):
    return [set(paths.list_files(tmp_path / "data" / "imagenetcrop" / split)[0]) for split in ("train", "test")]


@pytest.mark.parametrize("flags, count", [((), 2), (("--count=9",), 9)])
def test_every_photograph_is_in_one_set(tmp_path, flags, count):
    fill(tmp_path / "val" / "a", 12)
    fill(tmp_path / "more", 13, start=12)
    (tmp_path / "val" / "notes.txt").write_text("")
    done = divide(tmp_path, tmp_path / "val", tmp_path / "more", *flags)
    assert done.returncode == 0, done.stderr
    train, test = sets(tmp_path)
    assert not train & test and len(test) == count and len(train | test) == 25 and "a/0.png" in train | test
    for name in test:
        source = tmp_path / ("val" if "/" in name else "more") / name
        assert os.path.samefile(source, tmp_path / "data" / "imagenetcrop" / "test" / name)
    assert "left out: 1 file, hidden or neither JPEG nor PNG" in done.stdout
    assert sorted(os.listdir(tmp_path / "data" / "imagenetcrop")) == ["test", "train"]
    os.rename(tmp_path / "data", tmp_path / "before")
    divide(tmp_path, tmp_path / "val", tmp_path / "more", *flags)
    assert sets(tmp_path) == [train, test]  # the seed settles it
    os.rename(tmp_path / "data", tmp_path / "again")
    divide(tmp_path, tmp_path / "val", tmp_path / "more", *flags, "--seed=1")
    assert sets(tmp_path) != [train, test]


def test_a_file_that_several_links_lead_to_counts_once(tmp_path):
    fill(tmp_path / "val", 4)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "link.png").symlink_to(tmp_path / "val" / "0.png")
    os.link(tmp_path / "val" / "1.JPEG", tmp_path / "more" / "hard.JPEG")
    done = divide(tmp_path, tmp_path / "val", tmp_path / "more", tmp_path / "val", "--count=2")
    assert done.returncode == 0, done.stderr
    train, test = sets(tmp_path)
    assert train | test == {"0.png", "1.JPEG", "2.png", "3.JPEG"} and len(test) == 2


def test_hidden_files_and_what_is_no_file_are_left_out_and_counted(tmp_path):
    fill(tmp_path / "val", 4)
    for name in ("._0.png", "__MACOSX/a.png", ".thumbs/0.png"):
        (tmp_path / "val" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "val" / name).write_bytes(name.encode())
    os.mkfifo(tmp_path / "val" / "pipe.png")
    (tmp_path / "val" / "device.jpg").symlink_to("/dev/zero")
    done = divide(tmp_path, tmp_path / "val")
    assert done.returncode == 0, done.stderr
    assert [len(each) for each in sets(tmp_path)] == [3, 1]
    assert "left out: 5 files, hidden" in done.stdout


def test_files_on_another_disk_are_copied(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    fill(tmp_path / "val", 5)
    assert divide(tmp_path, tmp_path / "val").returncode == 0
    assert [len(each) for each in sets(tmp_path)] == [4, 1]


def test_sigterm_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: signal.raise_signal(signal.SIGTERM))
    fill(tmp_path / "val", 5)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert divide(tmp_path, tmp_path / "val").returncode == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert not os.listdir(tmp_path / "data" / "imagenetcrop")


@pytest.mark.parametrize("case", ["absent", "empty", "too few", "there", "same name"])
def test_errors(tmp_path, case):
    fill(tmp_path / "val", 0 if case == "empty" else 4)
    folders, flags = [tmp_path / "val"], []
    if case == "absent":
        folders = [tmp_path / "nowhere"]
    if case == "too few":
        flags = ["--count=4"]
    if case == "same name":
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "0.png").write_bytes((tmp_path / "val" / "2.png").read_bytes() + b"other")
        folders.append(tmp_path / "more")
    if case == "there":
        fill(tmp_path / "data" / "imagenetcrop" / "test", 1)
    before = paths.list_files(tmp_path)
    assert_one_line_error(divide(tmp_path, *folders, *flags))
    assert paths.list_files(tmp_path) == before
