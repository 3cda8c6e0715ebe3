"""What the context network sees of an image.

The colours of a pixel are coded in the order green, red, blue. All pixels that the network may look at are in planes:
uint8 [3, PAD + H, W + 2 PAD], one plane a colour in this order. They have PAD extra rows above the image and PAD extra
columns on either side. A grey image fills all three planes.

- Left of a row is the pixel above its first one, right of a row its last pixel.
- Above the first row is the first row. While it is coded, the pixel on the left stands for what is above and beyond.
- Before the first pixel everything is GREY.

Encoder and decoder must compute the same features to the bit: see model.context.arithmetic.
"""

import numpy as np

from model.context.arithmetic import log
from utils.compiled import compiled

PAD = 4
GREY = 128
ORDER = (1, 0, 2)  # the channels of an RGB image in the order of the planes, and the planes in that of the channels

NEAR = 36  # neighbours that are inputs
_causal = [(y, x) for y in range(-PAD, 1) for x in range(-PAD, PAD + 1) if y < 0 or x < 0]
_causal.sort(key=lambda offset: (offset[0] ** 2 + offset[1] ** 2, -offset[0], abs(offset[1]), offset[1]))
NEIGHBOURS = np.array(_causal[:NEAR])  # int64 [NEAR, 2], offsets (row, column), the nearest first
ERRORS = 3 * NEAR + 1  # index of the first input that describes a local error
MEDS = ERRORS + 5  # index of the first input that is a MED prediction
LEAST = MEDS + 3  # index of the first input that says how far off least squares were around the pixel
AROUND = 4  # pixels around it: W, N, NW and NE
MISSED = LEAST + 3  # index of the first input that says by how much least squares missed one of them
INPUTS = MISSED + 3 * AROUND

PERIOD = 16  # pixels a side of a JPEG block, chrominance included
UNKNOWN = PERIOD  # position of a pixel within a block if there are no blocks
SMALL_GRID = 2  # grid for small images: their 16x16 cells of 2x2 pixels span the whole image

LEAST_SPREAD = np.float32(0.6)
CUT = np.float32(12)
_NEXT, _DIAGONAL = np.float32(0.24), np.float32(0.13)  # weights in a local error
_LEAST_NEXT, _LEAST_DIAGONAL = np.float32(0.3), np.float32(0.2)  # in that of least squares
_LITTLE = np.float32(0.02)
_TWO, _THIRD, _QUARTER, _TENTH = np.float32(2), np.float32(1 / 3), np.float32(0.25), np.float32(0.1)


def make_planes(height: int, width: int, pixels: np.ndarray | None = None) -> np.ndarray:
    """Planes of this size: an image, uint8 [H, W, C] with C = 3 or 1, if there is one, and GREY elsewhere."""
    planes = np.full((3, PAD + height, width + 2 * PAD), GREY, np.uint8)
    if pixels is not None:
        planes[:, PAD:, PAD:-PAD] = np.moveaxis(pixels[..., ORDER if pixels.shape[2] == 3 else (0, 0, 0)], 2, 0)
    return planes


def pixels_of(planes: np.ndarray, channels: int) -> np.ndarray:
    """The image in planes, uint8 [H, W, channels]: the inverse of make_planes()."""
    return np.moveaxis(planes[ORDER[:channels], PAD:, PAD:-PAD], 0, 2)


@compiled
def pad_left(planes: np.ndarray, row: int) -> None:
    """Fill the columns left of a row with the pixel above its first one."""
    if row > PAD:
        for c in range(3):
            planes[c, row, :PAD] = planes[c, row - 1, PAD]


@compiled
def pad_above(planes: np.ndarray, row: int, column: int) -> None:
    """Before a pixel of the first row, fill the rows above with the pixel on its left. Ignores all other rows."""
    if row == PAD:
        for c in range(3):
            planes[c, :PAD, column - PAD : column + PAD + 1] = planes[c, row, column - 1]


@compiled
def pad_right(planes: np.ndarray, row: int) -> None:
    """Fill the columns right of a row with its last pixel. After the first row, repeat that row above itself."""
    end = planes.shape[2] - PAD
    for c in range(3):
        planes[c, row, end:] = planes[c, row, end - 1]
        if row == PAD:
            for x in range(end + PAD):
                planes[c, :PAD, x] = planes[c, row, x]


@compiled
def block_position(y: int, grid: int) -> int:
    """The row (or column) of a pixel in its block of 16x16 cells. grid: pixels a side of a cell, or 0 for no blocks."""
    return y // grid % PERIOD if grid else UNKNOWN


@compiled
def describe_pixel(
    planes: np.ndarray, row: int, column: int, missed: np.ndarray, inputs: np.ndarray, centre: np.ndarray
) -> np.float32:
    """Compute the features of a pixel from those above it and on its left.

    missed: float32 [3, AROUND], the errors from least_squares.begin_pixel(). inputs: float32 [INPUTS], the output.
    centre: float32 [3], an output, too: the point that each colour is measured from. Returns the spread, float32, the
    unit of measurement.
    """
    errors = inputs[ERRORS : ERRORS + 5]
    errors[:] = np.float32(0)
    for c in range(3):
        west, north = np.float32(planes[c, row, column - 1]), np.float32(planes[c, row - 1, column])
        east, corner = np.float32(planes[c, row - 1, column + 1]), np.float32(planes[c, row - 1, column - 1])
        centre[c] = (_TWO * west + _TWO * north + east - corner) * _QUARTER
    for i in range(6):  # W, N, NW, NE, WW, NN
        y, x = row - (i == 1 or i == 2 or i == 3) - 2 * (i == 5), column - (i == 0 or i == 2) + (i == 3) - 2 * (i == 4)
        weight = _NEXT if i < 2 else _DIAGONAL
        green = np.float32(planes[0, y, x]) - centre[0]
        red = np.float32(planes[1, y, x]) - centre[1]
        blue = np.float32(planes[2, y, x]) - centre[2]
        errors[0] += weight * abs(green)
        errors[1] += weight * abs(red)
        errors[2] += weight * abs(blue)
        errors[3] += weight * abs(red - green)
        errors[4] += weight * abs(blue - green)
    spread = LEAST_SPREAD + (errors[0] + errors[1] + errors[2]) * _THIRD
    scale = np.float32(1) / spread
    for i in range(NEAR):
        y, x = row + NEIGHBOURS[i, 0], column + NEIGHBOURS[i, 1]
        green = (np.float32(planes[0, y, x]) - centre[0]) * scale
        red = (np.float32(planes[1, y, x]) - centre[1]) * scale - green
        blue = (np.float32(planes[2, y, x]) - centre[2]) * scale - green
        inputs[i] = min(max(green, -CUT), CUT)
        inputs[NEAR + i] = min(max(red, -CUT), CUT)
        inputs[2 * NEAR + i] = min(max(blue, -CUT), CUT)
    inputs[ERRORS - 1] = log(spread)
    for i in range(5):
        errors[i] = log(errors[i] * scale + _TENTH)
    for c in range(3):
        west, north = np.float32(planes[c, row, column - 1]), np.float32(planes[c, row - 1, column])
        plane = west + north - np.float32(planes[c, row - 1, column - 1])  # exact: these are whole numbers
        local = _LEAST_NEXT * (abs(missed[c, 0]) + abs(missed[c, 1]))
        local += _LEAST_DIAGONAL * (abs(missed[c, 2]) + abs(missed[c, 3]))
        inputs[LEAST + c] = log(local * scale + _LITTLE)
        for i in range(AROUND):
            inputs[MISSED + AROUND * c + i] = min(max(missed[c, i] * scale, -CUT), CUT)
        inputs[MEDS + c] = (min(max(plane, min(west, north)), max(west, north)) - centre[c]) * scale
    return spread
