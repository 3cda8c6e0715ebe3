"""MNIST and CIFAR-10 from the files that they are published as, without a network."""

import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torchvision

from utils import datasets
from utils.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Error downloading:\nTried http://one, got:\n<urlopen error 1>\nTried http://two, got:\n404")

    for name in ("MNIST", "CIFAR10"):
        monkeypatch.setattr(torchvision.datasets, name, fail)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_mnist(folder, packed):
    folder.mkdir(parents=True)
    for i, name in enumerate(("train", "t10k")):
        images = noise(9 - i, 28, 28, 1, seed=i)
        data = struct.pack(">4I", 0x803, *images.shape[:3]) + images.tobytes()
        path = folder / f"{name}-images-idx3-ubyte"
        path.with_name(path.name + ".gz" * packed).write_bytes(gzip.compress(data) if packed else data)


def cifar_batches():
    """{name: pickled batch}, as Python 2 wrote them."""
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = {}
    for i, name in enumerate(names):
        images = noise(3, 32, 32, 3, seed=i).transpose(0, 3, 1, 2).reshape(3, -1)
        batches[name] = pickle.dumps({b"labels": [1, 2, 3], b"data": images, b"batch_label": b"x"}, protocol=2)
    return batches


def write_cifar(folder, packed):
    folder.mkdir(parents=True, exist_ok=True)
    if not packed:
        (folder / "cifar-10-batches-py").mkdir()
        for name, data in cifar_batches().items():
            (folder / "cifar-10-batches-py" / name).write_bytes(data)
        return
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, data in cifar_batches().items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["mnist/MNIST/raw", "MNIST/raw", "mnist"])
def test_mnist(tmp_path, packed, below):
    write_mnist(tmp_path / below, packed)
    for _ in range(2):  # made, then read
        np.testing.assert_array_equal(datasets.load("mnist", "train", tmp_path), noise(9, 28, 28, 1))
        np.testing.assert_array_equal(datasets.load("mnist", "test", tmp_path), noise(8, 28, 28, 1, seed=1))
    assert (tmp_path / "mnist" / "test.npy").exists()


@pytest.mark.parametrize(
    "name",
    [
        "{0}-images.idx3-ubyte",
        "{0}-images-idx3-ubyte/{0}-images-idx3-ubyte",
        "{0}-images-idx3-ubyte/{0}-images.idx3-ubyte.gz",
        "{0}-images-idx3-ubyte.gz",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_in_the_names_that_circulate(tmp_path, name, packed):
    """Whether a file is compressed shows in its content, not in its name."""
    write_mnist(tmp_path / "written", packed)
    for split in ("train", "t10k"):
        target = tmp_path / "data" / name.format(split)
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "written" / f"{split}-images-idx3-ubyte{'.gz' * packed}").rename(target)
    np.testing.assert_array_equal(datasets.load("mnist", "train", tmp_path / "data"), noise(9, 28, 28, 1))
    np.testing.assert_array_equal(datasets.load("mnist", "test", tmp_path / "data"), noise(8, 28, 28, 1, seed=1))


@pytest.mark.parametrize("below", ["mnist", "MNIST", "MNIST/raw", "anything"])
def test_the_folder_of_the_files_itself_will_do_as_data(tmp_path, below):
    write_mnist(tmp_path / below, packed=True)
    root = tmp_path / below if below != "MNIST/raw" else tmp_path / "MNIST"
    np.testing.assert_array_equal(datasets.load("mnist", "test", root), noise(8, 28, 28, 1, seed=1))
    write_cifar(tmp_path, packed=False)
    images = datasets.load("cifar", "test", tmp_path / "cifar-10-batches-py")
    np.testing.assert_array_equal(images, noise(3, 32, 32, 3, seed=5))


def test_the_folder_of_the_arrays_itself_will_do_as_data(tmp_path, monkeypatch):
    (tmp_path / "cifar").mkdir()
    np.save(tmp_path / "cifar" / "test.npy", noise(3, 32, 32, 3))
    np.testing.assert_array_equal(datasets.load("cifar", "test", tmp_path / "cifar"), noise(3, 32, 32, 3))
    with pytest.raises(UserError, match="does not exist"):  # another dataset of the same shape
        datasets.load("imagenet", "test", tmp_path / "cifar")
    monkeypatch.chdir(tmp_path / "cifar")
    assert len(datasets.load("cifar", "test", ".")) == 3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["cifar", ""])
def test_cifar(tmp_path, packed, below):
    write_cifar(tmp_path / below, packed)
    train = np.concatenate([noise(3, 32, 32, 3, seed=i) for i in range(5)])
    np.testing.assert_array_equal(datasets.load("cifar", "train", tmp_path), train)
    np.testing.assert_array_equal(datasets.load("cifar", "test", tmp_path), noise(3, 32, 32, 3, seed=5))


def test_what_cannot_be_kept_is_used_all_the_same(tmp_path, monkeypatch, capsys):
    def refuse(path, mode="wb"):
        raise UserError(f"cannot write {path}: Read-only file system")

    write_cifar(tmp_path, packed=True)
    monkeypatch.setattr("utils.paths.replacing", refuse)
    images = datasets.load("cifar", "test", tmp_path)
    np.testing.assert_array_equal(images, noise(3, 32, 32, 3, seed=5))
    assert not images.flags.writeable and "Read-only" in capsys.readouterr().out


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("damage", ["cut", "text", "code", "absent"])
def test_damaged_files_are_named(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path, packed=False)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    data = {"cut": path.read_bytes()[:-2000], "text": b"none", "code": pickle.dumps({b"data": Evil()})}
    path.write_bytes(data.get(damage, b""))
    if damage == "absent":
        path.unlink()
    with pytest.raises(UserError, match="cifar-10-batches-py is damaged or incomplete"):
        datasets.load("cifar", "train", tmp_path)
    assert not (tmp_path / "pwned").exists() and not (tmp_path / "cifar" / "train.npy").exists()


def test_a_failed_download_is_explained_whole(tmp_path):
    with pytest.raises(UserError) as caught:
        datasets.load("mnist", "test", tmp_path)
    message = str(caught.value)
    assert "<urlopen error 1> Tried http://two, got: 404" in message and "\n" not in message
    assert str(tmp_path / "mnist" / "test.npy") in message
