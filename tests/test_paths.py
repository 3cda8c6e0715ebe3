"""Writing files: whole or not at all, and one line where it does not work."""

import os
import re
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import paths
from utils.errors import UserError

TOO_LONG = "n" * 256


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("relative", [False, True])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, relative):
    (tmp_path / "store").mkdir()
    target, link, chain = tmp_path / "store" / "a.npy", tmp_path / "link", tmp_path / "chain"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(os.path.relpath(target, tmp_path) if relative else target)
    chain.symlink_to(link)
    with paths.replacing(chain, "w") as file:
        file.write("new")
    assert chain.is_symlink() and link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert listing(tmp_path) == ["chain", "link", "store"] and listing(tmp_path / "store") == ["a.npy"]


def test_a_link_that_leads_nowhere_yet(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "later" / "b")
    paths.check_writable(tmp_path / "link")
    with paths.replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "later" / "b").read_bytes() == b"new" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a device", "stdout"])
def test_what_is_no_regular_file_is_refused(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/full")
    else:
        path = {"device": "/dev/null", "stdout": f"/proc/self/fd/{os.pipe()[1]}"}[kind]
    before = os.stat(path)
    for write in (paths.check_writable, lambda path: paths.replacing(path).__enter__()):
        with pytest.raises(UserError, match="not a regular file"):
            write(path)
    assert os.stat(path).st_ino == before.st_ino and os.stat(path).st_mode == before.st_mode


@pytest.mark.parametrize("name", ["/proc/absent/a", "/sys/a", TOO_LONG, f"{TOO_LONG}/a", "file/a"])
def test_impossible_places_are_known_before_the_work(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    path = tmp_path / name
    for write in (paths.check_writable, lambda path: paths.replacing(path).__enter__()):
        with pytest.raises(UserError, match="cannot write") as caught:
            write(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot write"):
        paths.check_folder_writable(path)
    assert listing(tmp_path) == ["file"]


def test_asking_changes_nothing(tmp_path):
    (tmp_path / "old").write_text("kept")
    paths.check_writable(tmp_path / "old", tmp_path / "new", tmp_path / "x" / "y" / "z")
    paths.check_folder_writable(tmp_path, tmp_path / "x" / "y")
    assert listing(tmp_path) == ["old"] and (tmp_path / "old").read_text() == "kept"


def test_names_as_long_as_they_may_be(tmp_path):
    path = tmp_path / ("ä" * 127)
    with paths.replacing(path) as file:
        file.write(b"new")
    assert listing(tmp_path) == [path.name]


FULL = """
import resource, sys
import numpy as np, torch
from utils import paths
from utils.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
array = np.random.default_rng(0).normal(size=40_000)
write = {
    "bytes": lambda file: file.write(array.tobytes()),
    "NumPy": lambda file: np.save(file, array),
    "npz": lambda file: np.savez(file, array=array),
    "PyTorch": lambda file: torch.save({"w": torch.from_numpy(array)}, file),
}[sys.argv[2]]
try:
    with paths.replacing(sys.argv[1]) as file:
        write(file)
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["bytes", "NumPy", "npz", "PyTorch"])
def test_no_room_leaves_the_old_file_and_names_the_reason(tmp_path, kind):
    """The limit on the size of a file stands for the end of the disk: writing fails in the same places."""
    target = tmp_path / "a"
    target.write_text("old")
    command = [sys.executable, "-c", FULL, target, kind]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    assert done.stdout == f"cannot write {target}: File too large\n", done.stderr
    assert target.read_text() == "old" and listing(tmp_path) == ["a"]


def test_other_errors_are_left_alone(tmp_path):
    for raised in (RuntimeError("of the caller"), FileNotFoundError(2, "No such file", "input.png"), KeyError("x")):
        with pytest.raises(type(raised)) as caught, paths.replacing(tmp_path / "a") as file:
            file.write(b"half")
            raise raised
        assert caught.value is raised and listing(tmp_path) == []


def test_what_killed_processes_left_is_deleted_by_the_next_one(tmp_path):
    """But not what processes that are alive write."""
    name, host, dead = "a[1].pt", paths._HOST, 1 << 30
    alive = [f".b.{host}.{dead}.0.tmp", f".{name}.{host}.{os.getppid()}.0.tmp", f".{name}.{host}.x.0.tmp"]
    alive.append(f".{name}.01234567.{dead}.0.tmp")  # on another machine, perhaps
    for other in (f".{name}.{host}.{dead}.0.tmp", *alive):
        (tmp_path / other).write_text("")
    with paths.replacing(tmp_path / name):
        pass
    assert listing(tmp_path) == sorted([*alive, name])


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    """Not even in containers, in which numbers of processes and names of machines may be the same."""
    with paths.replacing(tmp_path / "a") as first, paths.replacing(tmp_path / "a") as second:
        first.write(b"1" * 9)
        second.write(b"2" * 5)
    assert (tmp_path / "a").read_bytes() == b"1" * 9 and listing(tmp_path) == ["a"]


WRITE = """
import os, sys, time
from utils import cli, paths
@cli.script
def main():
    with paths.replacing(sys.argv[1]) as file:
        file.write(b"half")
        if not os.fork():  # a worker that ends must not delete the file
            os.kill(os.getpid(), 15)
        os.wait()
        print(*os.listdir(os.path.dirname(sys.argv[1])), flush=True)
        time.sleep(60)
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_no_unfinished_file(tmp_path, number):
    command = [sys.executable, "-c", WRITE, tmp_path / "file"]
    with subprocess.Popen(command, cwd=paths.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert re.fullmatch(rf"\.file\.{paths._HOST}\.{process.pid}\.\w+\.tmp\n", process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == -number
    assert listing(tmp_path) == []


@pytest.mark.parametrize("save", [np.save, lambda file, array: torch.save(torch.from_numpy(array), file)])
def test_what_is_written_is_read(tmp_path, save):
    with paths.replacing(tmp_path / "a" / "b") as file:
        save(file, np.arange(5))
    data = (tmp_path / "a" / "b").read_bytes()
    assert len(data) > 40 and listing(tmp_path / "a") == ["b"]


def test_every_real_folder_is_listed_once(tmp_path):
    """Links to the folder itself, to a sibling under an earlier name, to a folder elsewhere, and to one another."""
    folder = tmp_path / "set"
    for path in ("set/real/1", "set/real/deep/2", "elsewhere/3", "set/0"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (folder / "real" / "loop").symlink_to(folder)
    (folder / "again").symlink_to("real")
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "real" / "deep")
    (folder / "file").symlink_to(tmp_path / "elsewhere" / "3")
    assert paths.list_files(folder) == (["0", "file", "outside/3", "real/1", "real/deep/2"], 0)
    (tmp_path / "other").symlink_to(folder)
    assert len(paths.list_files(tmp_path / "other")[0]) == 5
    with pytest.raises(OSError, match="absent"):
        paths.list_files(tmp_path / "absent")


def test_what_systems_add_to_folders_is_left_out(tmp_path):
    for name in ("a.png", "._a.png", ".DS_Store", "__MACOSX/b/a.png", "s/Thumbs.db", "s/.thumbs/a.png", "s/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert paths.list_files(tmp_path) == (["a.png", "s/c.png"], 5)


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("file", "link"):
        paths.require_regular(tmp_path / name)
    for name in ("pipe", "device", "."):
        with pytest.raises(OSError, match="not a regular file"):
            paths.require_regular(tmp_path / name)
