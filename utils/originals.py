"""MNIST and CIFAR-10 from the files in which they are published, at the places where torchvision keeps these.

MNIST      MNIST/raw/{train,t10k}-images-idx3-ubyte, also as -images.idx3-ubyte, with .gz, or in a folder of that name
CIFAR-10   cifar-10-batches-py/{data_batch_1..5,test_batch}, or cifar-10-python.tar.gz
"""

import codecs
import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError

_MNIST = {"train": "train-images", "test": "t10k-images"}
_CIFAR = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def find(dataset: str, split: str, folders: Iterable[str | Path]) -> tuple[np.ndarray, Path] | None:
    """The images of a split, uint8 [N, H, W, C], and the file or folder that they are from; None if there is none.

    folders: where to look, in this order. Raises UserError if what is found is damaged or of another kind.
    """
    for folder in map(Path, folders):
        for path, read in _places(dataset, split, folder):
            if path.exists():
                try:
                    return read(path), path
                except Exception as error:  # damage makes gzip, tarfile and pickle raise nearly any
                    raise UserError(
                        f"{path} is damaged or incomplete ({error}); delete it or fetch it again"
                    ) from error
    return None


def _places(dataset: str, split: str, folder: Path) -> Iterator[tuple[Path, Callable[[Path], np.ndarray]]]:
    """Where a split may be in a folder: (path, function that reads it)."""
    if dataset == "mnist":
        for raw in (folder / "MNIST" / "raw", folder / "raw", folder):
            for path in _idx_files(raw, _MNIST[split]):
                yield path, lambda path: _idx(path.read_bytes())
    if dataset == "cifar":
        names = _CIFAR[split]
        for batches in (folder / "cifar-10-batches-py", folder):
            if batches != folder or (folder / names[0]).exists():
                yield batches, lambda path: _batches([(path / name).read_bytes() for name in names])
        yield folder / "cifar-10-python.tar.gz", lambda path: _batches(_members(path, names))


def _idx_files(folder: Path, stem: str) -> Iterator[Path]:
    """The files of a folder that may hold MNIST's images, under any of their usual names."""
    for path in sorted(folder.glob(f"{stem}[-.]idx3-ubyte*")):
        if path.is_dir():
            yield from _idx_files(path, stem)
        elif path.is_file() and path.name.endswith(("ubyte", ".gz")):
            yield path


def _idx(data: bytes) -> np.ndarray:
    """The images in an IDX file, compressed or not: uint8 [N, H, W, 1]."""
    if data[:2] == b"\x1f\x8b":  # gzip, whatever the name says
        data = gzip.decompress(data)
    magic, *shape = np.frombuffer(data, ">u4", 4).tolist()
    if magic != 0x803:  # unsigned bytes in three dimensions
        raise ValueError("it is no IDX file of images")
    return np.frombuffer(data, np.uint8, offset=16).reshape(*shape, 1)


def _members(path: Path, names: Iterable[str]) -> list[bytes]:
    with tarfile.open(path) as archive:
        files: list[Any] = [archive.extractfile(f"cifar-10-batches-py/{name}") for name in names]
        return [file.read() for file in files]  # raises if one is None: a folder or the like


def _batches(files: Iterable[bytes]) -> np.ndarray:
    """The images in pickled batches, [N, 3072] each, channels first: uint8 [N, 32, 32, 3]."""
    batches = [_Arrays(io.BytesIO(data), encoding="bytes").load()[b"data"] for data in files]
    return np.concatenate(batches).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays and plain Python objects, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]
        known = {
            "numpy.core.multiarray._reconstruct": reconstruct,
            "numpy._core.multiarray._reconstruct": reconstruct,
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "_codecs.encode": codecs.encode,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return known[f"{module}.{name}"]
