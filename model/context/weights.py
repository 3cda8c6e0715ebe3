"""The weights of a context network: their shapes, their files, and the identity that a compressed file names."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.context.features import INPUTS, PERIOD
from utils import npz, paths
from utils.errors import UserError

NAME = "context.npz"

HEAD = 32  # hidden units of a head
WIDTH = 3 * HEAD  # of a row of weights: the 3 heads' hidden units, or the trunk's output
HIDDEN = WIDTH - 3  # units of the trunk; its other outputs are a linear prediction of the 3 colours
KNOWN = 5  # what heads see of known colours: least squares for green, green, least squares for red, red, and for blue
K = 5  # components of the mixture
MEANS, SCALES, COEFFICIENTS = K, 2 * K, 3 * K  # indices among a head's outputs, which begin with K logits
GATE = COEFFICIENTS + 2
OUTPUTS = 24  # of a head; 3 K + 3 are in use
_LIMIT = np.float32(1e3)  # of a weight: with inputs of some 12 at most, no sum overflows


class Weights(NamedTuple):
    """The network's weights, float32. Rows that a network does not use are zero.

    A row of `first` and `head_in` holds what an input contributes to every output, side by side.
    """

    first: np.ndarray  # [INPUTS, WIDTH]: to the hidden units, and to the linear prediction of the 3 colours
    first_bias: np.ndarray  # [WIDTH]
    column: np.ndarray  # [PERIOD + 1, WIDTH]: what the pixel's position in its block adds
    row: np.ndarray  # [PERIOD + 1, WIDTH]
    residual: np.ndarray  # [2, WIDTH, WIDTH]: columns for the hidden units only
    residual_bias: np.ndarray  # [2, WIDTH]
    head_in: np.ndarray  # [WIDTH, WIDTH]: HEAD hidden units a colour
    head_seen: np.ndarray  # [KNOWN, WIDTH]: what known colours contribute; head c sees the first 2 c + 1
    head_bias: np.ndarray  # [WIDTH]
    head_out: np.ndarray  # [3, HEAD, OUTPUTS]
    head_out_bias: np.ndarray  # [3, OUTPUTS]


SHAPES = Weights._make([  # of the arrays; the same names, but tuples
    (INPUTS, WIDTH), (WIDTH,), (PERIOD + 1, WIDTH), (PERIOD + 1, WIDTH), (2, WIDTH, WIDTH), (2, WIDTH),
    (WIDTH, WIDTH), (KNOWN, WIDTH), (WIDTH,), (3, HEAD, OUTPUTS), (3, OUTPUTS),
])  # fmt: skip


class ContextNetwork(NamedTuple):
    """A context network that is ready to code."""

    weights: Weights
    identity: str  # 16 hexadecimal digits: the start of the SHA-256 of all weights


def save(path: str | Path, weights: Weights, **record: Any) -> None:
    """Write weights, and a record of how they were trained (numbers, strings or arrays), to an .npz file."""
    npz.save(path, likelihood="context", **weights._asdict(), **{f"record_{name}": v for name, v in record.items()})


def load(path: str | Path, dataset: str = "<dataset>") -> ContextNetwork:
    """Read a network from a file. dataset: the one that an error message says to train on.

    Raises UserError if the file is absent, damaged or no context network, or if a weight is not finite.
    """
    names = ("likelihood", *Weights._fields)
    likelihood, *arrays = npz.load(path, names, f"train it with model/context_train.py {dataset}")
    if likelihood != "context":
        raise UserError(f"{path} is a checkpoint of another likelihood, {str(likelihood)[:40]}")
    return check(Weights(*arrays), path)


def check(weights: Weights, what: str | Path = "the network") -> ContextNetwork:
    """The network with these weights, laid out as compiled code requires. Raises UserError as load() does."""
    digest, sound = hashlib.sha256(), []
    for name, array, shape in zip(Weights._fields, weights, SHAPES, strict=True):
        if array.dtype != np.float32 or array.shape != shape:
            raise UserError(f"{what}: {name} is {array.dtype} {list(array.shape)}, not float32 {list(shape)}")
        if not np.abs(array).max() < _LIMIT:  # also false of NaN
            raise UserError(f"{what}: {name} holds numbers that are not finite, or too large to compute with")
        sound.append(np.ascontiguousarray(array))
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return ContextNetwork(Weights(*sound), digest.hexdigest()[:16])


def open_network(
    path: Path | str | None = None, wanted: str | None = None,
    dataset: str = "imagenetcrop", output: Path | str = paths.ROOT,
) -> ContextNetwork:  # fmt: skip
    """Read the network of a dataset.

    path: its file. By default a network trained under `output` or in this repository is used, with a note, or else the
    one that ships. wanted: the identity that the network must have, if any.
    Raises UserError if there is no such network.
    """
    trained = [] if path else [paths.params(dataset, folder) / NAME for folder in (output, paths.ROOT)]
    for candidate in filter(Path.exists, trained):
        with contextlib.suppress(UserError):
            found = load(candidate, dataset)
            if wanted in (None, found.identity):
                print(f"Using the context network trained here, {candidate}")
                return found
    last = Path(path) if path else paths.PRETRAINED / f"{dataset}_{NAME}"
    found = load(last, dataset)
    if wanted not in (None, found.identity):
        raise UserError(f"this requires the context network {wanted}, not that of {last}; name its file with --context")
    return found
