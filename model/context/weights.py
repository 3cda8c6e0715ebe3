"""The weights of a context network: their shapes, their files, and the identity that a compressed file names."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.context.features import CUT, INPUTS, PERIOD
from utils import npz, paths
from utils.errors import UserError

NAME = "context.npz"

TRUNK = 128  # outputs of the trunk
HIDDEN = TRUNK - 3  # of them units; the others are a linear prediction of the 3 colours
HEAD = 32  # hidden units of a head
WIDTH = 3 * HEAD  # hidden units of the 3 heads
KNOWN = 5  # what heads see of known colours: least squares for green, green, least squares for red, red, and for blue
K = 5  # components of the mixture
MEANS, SCALES, COEFFICIENTS = K, 2 * K, 3 * K  # indices among a head's outputs, which begin with K logits
GATE = COEFFICIENTS + 2
OUTPUTS = 24  # of a head; 3 K + 3 are in use

# The trunk is in integers, whose sums are exact in any order. Inputs and units have a fixed number of bits after the
# binary point, and the weights of a row as many as its sums of 31 bits have room for.
INPUT_BITS, UNIT_BITS, MAX_WEIGHT_BITS = 11, 7, 14
MAX_INPUT = int(CUT) << INPUT_BITS
MAX_UNIT = (1 << 14) - 1
_MAX_SUM = (1 << 31) - (1 << 25)  # room for rounding
_LIMIT = np.float32(1e3)  # of a weight of the heads
_MAX_PREDICTION = 1 << 12  # of the linear predictions, in units of the spread; with both limits, no float overflows


class Weights(NamedTuple):
    """The network's weights: of the trunk int16 and, what is only added, int32; of the heads float32.

    A row holds what one input contributes to every output; in the integer layers, two inputs (products.pair_inputs()).
    What a network does not use is zero.
    """

    first: np.ndarray  # int16 [INPUTS / 2, TRUNK, 2]
    first_shift: np.ndarray  # int32 [TRUNK]: bits that sums have after the binary point beyond UNIT_BITS
    first_bias: np.ndarray  # int32 [TRUNK]
    column: np.ndarray  # int32 [PERIOD + 1, TRUNK]: what the pixel's position in its block adds
    row: np.ndarray  # int32 [PERIOD + 1, TRUNK]
    residual: np.ndarray  # int16 [2, TRUNK / 2, TRUNK, 2]: only the first HIDDEN outputs are used
    residual_shift: np.ndarray  # int32 [2, HIDDEN]
    residual_bias: np.ndarray  # int32 [2, HIDDEN]
    head_in: np.ndarray  # [TRUNK, WIDTH]: HEAD hidden units a colour
    head_seen: np.ndarray  # [KNOWN, WIDTH]: what known colours contribute; head c sees the first 2 c + 1
    head_bias: np.ndarray  # [WIDTH]
    head_out: np.ndarray  # [3, HEAD, OUTPUTS]
    head_out_bias: np.ndarray  # [3, OUTPUTS]


_places = (PERIOD + 1, TRUNK), np.int32
LAYOUT = Weights._make([  # the shape and the type of each array
    ((INPUTS // 2, TRUNK, 2), np.int16), ((TRUNK,), np.int32), ((TRUNK,), np.int32), _places, _places,
    ((2, TRUNK // 2, TRUNK, 2), np.int16), ((2, HIDDEN), np.int32), ((2, HIDDEN), np.int32),
    ((TRUNK, WIDTH), np.float32), ((KNOWN, WIDTH), np.float32), ((WIDTH,), np.float32),
    ((3, HEAD, OUTPUTS), np.float32), ((3, OUTPUTS), np.float32),
])  # fmt: skip


def round_layer(
    rows: np.ndarray, added: list[np.ndarray], most: int, bits: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Round the weights of a layer as finely as its sums allow: (int16 rows, int32 shift, what is added, int32).

    rows: [..., outputs, inputs]; added: [..., outputs] each, what the sums start from. most: the largest input, an
    integer with `bits` bits after the binary point.
    """
    largest = np.abs(rows).sum(-1) * most / 2**bits + sum(
        np.abs(each).reshape(-1, *rows.shape[:-1]).max(0) for each in added
    )
    room = np.minimum(_MAX_SUM / 2**bits / np.maximum(largest, 1e-9), 32767 / np.maximum(np.abs(rows).max(-1), 1e-9))
    finer = np.floor(np.log2(room)).clip(UNIT_BITS - bits + 1, MAX_WEIGHT_BITS).astype(np.int32)
    whole = np.rint(np.ldexp(rows, finer[..., None])).clip(-32767, 32767).astype(np.int16)
    added = [np.rint(np.ldexp(each, finer + bits)).clip(-_MAX_SUM, _MAX_SUM).astype(np.int32) for each in added]
    return whole, finer + np.int32(bits - UNIT_BITS), added


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
    for name, array, (shape, dtype) in zip(Weights._fields, weights, LAYOUT, strict=True):
        if array.dtype.newbyteorder("=") != dtype or array.shape != shape:
            wanted = f"{dtype.__name__} {list(shape)}"
            raise UserError(f"{what}: {name} is {array.dtype} {list(array.shape)}, not {wanted}")
        if dtype == np.float32 and not np.abs(array).max() < _LIMIT:  # also false of NaN
            raise UserError(f"{what}: {name} holds numbers that are not finite, or too large to compute with")
        sound.append(np.ascontiguousarray(array, dtype))  # in the machine's order of bytes
        digest.update(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    for shift in (weights.first_shift, weights.residual_shift):
        if shift.min() < 1 or shift.max() > MAX_WEIGHT_BITS + INPUT_BITS - UNIT_BITS:
            raise UserError(f"{what}: shifts of {shift.min()} to {shift.max()} bits are not possible")
    largest_sum, largest_prediction = trunk_bounds(weights)
    if largest_sum > _MAX_SUM or largest_prediction > _MAX_PREDICTION:
        raise UserError(f"{what}: the weights of the trunk are too large to compute with")
    return ContextNetwork(Weights(*sound), digest.hexdigest()[:16])


def trunk_bounds(weights: Weights) -> tuple[int, float]:
    """Bounds on the absolute values of all sums in the trunk, and of the linear predictions, whatever the inputs."""
    first, _, bias, column, row, residual, _, residual_bias = (np.abs(array.astype(np.int64)) for array in weights[:8])
    first_sums = first.sum((0, 2)) * MAX_INPUT + bias + column.max(0) + row.max(0)
    predictions = first_sums[HIDDEN:] / 2.0 ** (weights.first_shift[HIDDEN:] + UNIT_BITS)
    sums = residual.sum((1, 3))[:, :HIDDEN] * MAX_UNIT + residual_bias
    return max(first_sums.max(), sums.max()), predictions.max()


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
