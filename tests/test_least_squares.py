"""The prediction by least squares: exact where a colour follows from others, bounded whatever it sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture_of

from model.context import least_squares as ls
from model.context.data import errors_around, prepare
from model.context.features import AROUND, make_planes
from model.context.least_squares import COUNT, predict_image


def predict(pixels):
    """The predictions of an image in the order green, red, blue: float32 [H, W, 3]."""
    return predict_image(make_planes(*pixels.shape[:2], pixels))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "constant", "gradient", "few", "mild"]), st.integers(1, 30), st.integers(1, 30),
    st.sampled_from(["L", "RGB"]), st.integers(0, 9),
)  # fmt: skip
def test_predictions_are_bounded(kind, height, width, mode, seed):
    found = predict(picture_of(kind, height, width, mode, seed).pixels)
    assert found.shape == (height, width, 3)
    assert (found > -64).all() and (found < 320).all()


@pytest.mark.parametrize("shape", [(5, 7), (3, 1), (1, 3)])
def test_errors_around_a_pixel_are_those_that_training_sees(shape):
    """W, N, NW and NE, also next to the image. Training keeps predictions in 1/64 of a grey level."""
    pixels = picture_of("noise", *shape, "RGB").pixels
    picture, planes, errors = prepare(pixels), make_planes(*shape, pixels), np.zeros((3, AROUND), np.float32)
    state, expected = ls.start(planes), np.zeros_like(errors)
    for row in range(ls.PAD, planes.shape[1]):
        ls.pad_left(planes, row)
        ls.begin_row(row, state)
        for column in range(ls.PAD, planes.shape[2] - ls.PAD):
            ls.begin_pixel(planes, row, column, errors, state)
            errors_around(*picture, row, column, expected)
            np.testing.assert_allclose(errors, expected, atol=1 / 64)
            if row == ls.PAD:
                assert not errors[:, 1:].any()
            for c in range(3):
                ls.predict(planes, row, column, c, state)
            ls.end_pixel(planes, row, column, state)
        ls.pad_right(planes, row)


def test_a_colour_that_follows_from_another_is_found():
    """Green is noise. Red is half of it, and blue a sum of both."""
    green = np.random.default_rng(0).integers(0, 256, (40, 60))
    red = np.rint(green / 2 + 40)
    pixels = np.stack([red, green, np.rint(0.75 * green - 0.5 * red + 100)], 2).astype(np.uint8)
    found = predict(pixels)
    errors = np.abs(found - pixels[..., [1, 0, 2]])[10:, 10:-4]
    assert errors[..., 0].mean() > 30 and errors[..., 1].mean() < 1.5 and errors[..., 2].mean() < 1.5


def test_a_prediction_depends_on_no_later_pixel():
    pixels = picture_of("noise", 12, 16, "RGB").pixels
    found = predict(pixels)
    changed = pixels.copy()
    changed[7, 9:], changed[8:] = 0, 255
    other = predict(changed)
    np.testing.assert_array_equal(found[:7], other[:7])
    np.testing.assert_array_equal(found[7, :9], other[7, :9])
    assert found[7, 9, 0] == other[7, 9, 0] and found[7, 9, 1] != other[7, 9, 1]


def test_weights_are_those_of_a_solver():
    """NumPy's, in float64, for a cell in the third row: the sums are written out."""
    pixels = picture_of("noise", 6, 12, "RGB").pixels
    planes = make_planes(6, 12, pixels)
    state, rows = ls.start(planes), []
    errors = np.zeros((3, AROUND), np.float32)
    for row in range(ls.PAD, ls.PAD + 3):
        ls.pad_left(planes, row)
        ls.begin_row(row, state)
        for column in range(ls.PAD, ls.PAD + 12):
            ls.begin_pixel(planes, row, column, errors, state)
            if (row, column) == (ls.PAD + 2, ls.PAD + 8):
                break
            found = [ls.predict(planes, row, column, c, state) for c in range(3)]
            error = np.abs(planes[:, row, column] - np.array(found))
            ls.end_pixel(planes, row, column, state)
            rows.append((row, column // ls.CELL, state.inputs.astype(np.float64), 1 / (2 + error)))
        else:
            ls.pad_right(planes, row)
    cell = (ls.PAD + 8) // ls.CELL
    for c in range(3):
        sums = 0.5 * np.eye(COUNT + 1)
        for row, at, inputs, weight in rows:
            reach = 0.8 ** (ls.PAD + 2 - row) * 0.8 ** (4 * abs(cell - at))
            sums += reach * weight[c] * np.outer(inputs[:, c], inputs[:, c])
        expected = np.linalg.solve(sums[:COUNT, :COUNT], sums[:COUNT, COUNT])
        np.testing.assert_allclose(state.weights[:, c], expected, atol=1e-3)


def test_sums_of_an_image_start_at_zero():
    """So that strips see nothing of each other, and the first row is the mean of W and N."""
    pixels = picture_of("gradient", 3, 9, "RGB").pixels
    found = predict(pixels)
    green = pixels[0, :, 1].astype(float)
    assert found[0, 0, 0] == 128 and found[0, 1, 0] == pytest.approx(green[0])


def test_sums_of_a_flat_area_become_zero():
    """Not denormal, which would double the time of all that follows."""
    pixels = np.full((600, ls.CELL, 3), 9, np.uint8)
    pixels[:8] = np.random.default_rng(0).integers(0, 256, (8, ls.CELL, 3))
    planes, errors = make_planes(*pixels.shape[:2], pixels), np.zeros((3, AROUND), np.float32)
    state = ls.start(planes)
    for row in range(ls.PAD, ls.PAD + len(pixels)):
        ls.pad_left(planes, row)
        ls.begin_row(row, state)
        for column in range(ls.PAD, ls.PAD + ls.CELL):
            ls.begin_pixel(planes, row, column, errors, state)
            for c in range(3):
                ls.predict(planes, row, column, c, state)
            ls.end_pixel(planes, row, column, state)
        if row == ls.PAD + 20:
            assert state.columns.any() and state.right.any() and state.left.any()
        ls.pad_right(planes, row)
    assert not (state.columns.any() or state.right.any() or state.left.any())
