"""A linear prediction of each colour, fitted by least squares to the pixels that are known.

Encoder and decoder fit new weights for every cell, CELL pixels of a row, COUNT for each colour. The weight
of a pixel falls by DECAY with each row of distance and by DECAY^CELL with each cell. A pixel that was predicted badly
counts less. The fit needs sums of products. They are carried down the columns and swept along the rows, so that each
pixel is added once. Such fits are those of Wu, Barthel and Zhang, "Piecewise 2D autoregression for predictive image
coding" (1998).

All is float32 in a fixed order: see model.context.arithmetic. The three colours are side by side in the last dimension
of an array, so that a processor can compute them at the same time.
"""

import functools
from typing import NamedTuple

import numpy as np

from model.context.arithmetic import flush
from model.context.features import AROUND, PAD, pad_above, pad_left, pad_right
from utils.compiled import compiled

CELL = 4  # pixels of a row that share weights
DECAY = np.float32(0.8)
_CELL_DECAY = np.float32(0.8**CELL)
_RIDGE, _LEAST_PIVOT = np.float32(0.5), np.float32(1e-3)
_BEST_ERROR = np.float32(2)  # grey levels; a pixel counts 1 / (this + the error of its prediction)
_LOWEST, _HIGHEST = np.float32(-64), np.float32(320)  # of a prediction
_TINY = np.float32(1e-12)  # sums below this become 0, as in a flat area
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)

_HERE, _W, _N, _NW, _NE, _WW, _NN = (0, 0), (0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)
_SIX = (_W, _N, _NW, _NE, _WW, _NN)
_SEEN = (  # for each colour: which pixels it sees in the planes of green, red and blue
    (_SIX, (_W, _N, _NW), (_W, _N, _NW)),
    ((_HERE, _W, _N, _NW, _NE, _WW), _SIX, ()),
    ((_HERE, _W, _N, _NW), (_HERE, _W, _N, _NW), (_W, _N, _NW, _NE)),
)
_INPUTS = np.array([[(p, *at) for p in range(3) for at in seen[p]] for seen in _SEEN])  # [3, COUNT, (plane, y, x)]
COUNT = _INPUTS.shape[1]
_PRODUCTS = (COUNT + 1) * (COUNT + 2) // 2  # of inputs and the colour itself: the lower triangle of a matrix, by rows


class LeastSquares(NamedTuple):
    """The state of a strip of pixels. All but `offsets` is float32. Sums are of products of two inputs of a pixel."""

    offsets: np.ndarray  # int64 [COUNT, 3]: of the inputs, within the flat planes
    columns: np.ndarray  # [cells, 3 _PRODUCTS]: sums over the rows above
    right: np.ndarray  # the same, and those on their right
    left: np.ndarray  # [3 _PRODUCTS]: sums over all that is on the left of the cell
    cell: np.ndarray  # [_PRODUCTS, 3]: sums over the pixels of this cell
    factor: np.ndarray  # [_PRODUCTS, 3]: a Cholesky factor, its diagonal inverted
    weights: np.ndarray  # [COUNT, 3]
    inputs: np.ndarray  # [COUNT + 1, 3]: neighbours of the pixel, then its colour, less means of W and N
    means: np.ndarray  # [3]: (W + N) / 2
    found: np.ndarray  # [3]: the predictions of the pixel
    errors: np.ndarray  # [2, 3, width + 2]: values less predictions in rows of even and odd number


def start(planes: np.ndarray) -> LeastSquares:
    """The state before the first row of a strip with these planes."""
    _, height, width = planes.shape
    offsets = _INPUTS @ (height * width, width, 1)
    cells = -(-(width - 2 * PAD) // CELL), 3 * _PRODUCTS
    shapes = [cells, cells, cells[1], (_PRODUCTS, 3), (_PRODUCTS, 3), (COUNT, 3), (COUNT + 1, 3), 3, 3]
    floats = [np.zeros(shape, np.float32) for shape in (*shapes, (2, 3, width - 2 * PAD + 2))]
    return LeastSquares._make([np.ascontiguousarray(offsets.T), *floats])


@compiled
def begin_row(row: int, ls: LeastSquares) -> None:
    """Prepare for a row of the planes."""
    ls.left[:] = _ZERO  # first as the sum over what is on the right
    for x in range(len(ls.columns) - 1, -1, -1):
        right, column = ls.right[x], ls.columns[x]
        for k in range(len(ls.left)):
            right[k] = column[k] + ls.left[k]
            ls.left[k] = flush(_CELL_DECAY * right[k], _TINY)
    ls.left[:] = _ZERO
    now, before = ls.errors[row & 1], ls.errors[1 - row & 1]
    for c in range(3):
        now[c, 0], before[c, -1] = before[c, 1], before[c, -2]


@compiled
def begin_pixel(planes: np.ndarray, row: int, column: int, errors: np.ndarray, ls: LeastSquares) -> None:
    """Prepare for a pixel. errors: float32 [3, AROUND], the result: values less predictions at W, N, NW and NE.

    Left of a row is the error above its first one, right of a row its last error, and 0 above the first row.
    """
    pad_above(planes, row, column)
    x = column - PAD
    if x % CELL == 0:
        _fit(x // CELL, ls)
    now, before = ls.errors[row & 1], ls.errors[1 - row & 1]
    for c in range(3):
        west, north = np.float32(planes[c, row, column - 1]), np.float32(planes[c, row - 1, column])
        ls.means[c] = _HALF * (west + north)
        errors[c, 0], errors[c, 1] = now[c, x], before[c, x + 1]
        errors[c, 2], errors[c, 3] = before[c, x], before[c, x + 2]


@compiled
def predict(planes: np.ndarray, row: int, column: int, c: int, ls: LeastSquares) -> np.float32:
    """The prediction of colour c of a pixel, in grey levels, once the colours before it are known."""
    flat, at, total = planes.reshape(-1), row * planes.shape[2] + column, ls.means[c]
    for i in range(COUNT):
        value = np.float32(flat[at + ls.offsets[i, c]]) - ls.means[_INPUTS[c, i, 0]]
        ls.inputs[i, c] = value
        total += ls.weights[i, c] * value
    ls.found[c] = total if _LOWEST < total < _HIGHEST else ls.means[c]  # the latter also if it is not a number
    return ls.found[c]


@compiled
def end_pixel(planes: np.ndarray, row: int, column: int, ls: LeastSquares) -> None:
    """Learn from a pixel, once it is known and its three colours are predicted."""
    x, f, sums = column - PAD, ls.inputs, ls.cell
    for c in range(3):
        value = np.float32(planes[c, row, column])
        f[COUNT, c] = value - ls.means[c]
        error = value - ls.found[c]
        ls.errors[row & 1, c, x + 1] = error
        ls.found[c] = _ONE / (_BEST_ERROR + abs(error))
    n = 0
    for i in range(COUNT + 1):
        green, red, blue = ls.found[0] * f[i, 0], ls.found[1] * f[i, 1], ls.found[2] * f[i, 2]
        for j in range(i + 1):
            sums[n, 0] += green * f[j, 0]
            sums[n, 1] += red * f[j, 1]
            sums[n, 2] += blue * f[j, 2]
            n += 1
    if x % CELL == CELL - 1 or x == planes.shape[2] - 2 * PAD - 1:
        flat, above = sums.reshape(-1), ls.columns[x // CELL]
        for k in range(len(flat)):
            total = above[k] + flat[k]
            ls.left[k] = flush(_CELL_DECAY * (ls.left[k] + total), _TINY)
            above[k] = flush(DECAY * total, _TINY)
            flat[k] = _ZERO


@compiled
def _fit(cell, ls):
    """Compute ls.weights for a cell, by Cholesky decomposition."""
    a, w, flat, right = ls.factor, ls.weights, ls.factor.reshape(-1), ls.right[cell]
    for k in range(len(flat)):
        flat[k] = right[k] + ls.left[k]
    for i in range(COUNT + 1):
        row = i * (i + 1) // 2
        for j in range(min(i + 1, COUNT)):
            other = j * (j + 1) // 2
            green, red, blue = a[row + j, 0], a[row + j, 1], a[row + j, 2]
            for k in range(j):
                green -= a[row + k, 0] * a[other + k, 0]
                red -= a[row + k, 1] * a[other + k, 1]
                blue -= a[row + k, 2] * a[other + k, 2]
            if i == j:
                a[row + j, 0], a[row + j, 1], a[row + j, 2] = _inverse(green), _inverse(red), _inverse(blue)
            else:
                diagonal = other + j
                a[row + j, 0], a[row + j, 1] = green * a[diagonal, 0], red * a[diagonal, 1]
                a[row + j, 2] = blue * a[diagonal, 2]
    last = COUNT * (COUNT + 1) // 2
    for i in range(COUNT - 1, -1, -1):
        row = i * (i + 1) // 2
        for c in range(3):
            weight = a[last + i, c] * a[row + i, c]
            w[i, c] = weight
            for j in range(i):
                a[last + j, c] -= weight * a[row + j, c]


@compiled
def _inverse(pivot):
    pivot += _RIDGE
    return _ONE / np.sqrt(pivot if pivot > _LEAST_PIVOT else _LEAST_PIVOT)


def predict_image(planes: np.ndarray) -> np.ndarray:
    """What predict() returns for all pixels of planes: float32 [H, W, 3]. Fills the padding."""
    found = np.empty((planes.shape[1] - PAD, planes.shape[2] - 2 * PAD, 3), np.float32)
    _predict_image(planes, found, np.zeros((3, AROUND), np.float32), start(planes))
    return found


@functools.partial(compiled, _nrt=False)
def _predict_image(planes, found, errors, ls):
    for row in range(PAD, planes.shape[1]):
        pad_left(planes, row)
        begin_row(row, ls)
        for column in range(PAD, planes.shape[2] - PAD):
            begin_pixel(planes, row, column, errors, ls)
            for c in range(3):
                found[row - PAD, column - PAD, c] = predict(planes, row, column, c, ls)
            end_pixel(planes, row, column, ls)
        pad_right(planes, row)
