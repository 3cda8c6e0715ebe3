"""The products of model.context.products against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.context.products import make_product, pair_inputs

PRODUCTS = {width: make_product(width) for width in (8, 24, 96)}
SIZES = st.tuples(st.integers(0, 9), st.integers(0, 37), st.sampled_from(sorted(PRODUCTS)), st.integers(0, 2**32 - 1))


@settings(deadline=None)  # compiles
@given(SIZES)
def test_floats_are_added_one_row_after_the_other(sizes):
    count, rows, width, seed = sizes
    rng = np.random.default_rng(seed)
    sums, x, matrix = (
        (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 7, shape)).astype(np.float32)
        for shape in ((count, width), (count + 3, rows), (rows, width))
    )
    expected = sums.copy()
    for j in range(rows):
        expected += x[:count, j, None] * matrix[j]
    PRODUCTS[width](sums, x, matrix)
    np.testing.assert_array_equal(sums, expected)


@settings(deadline=None)  # compiles
@given(SIZES)
def test_integers_are_exact(sizes):
    """Up to sums of 31 bits."""
    count, pairs, width, seed = sizes
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**14), 2**14, (count, 2 * pairs), np.int16, endpoint=True)
    limit = min(2**15 - 1, (2**30 - 1) // (2**14 * max(1, 2 * pairs)))
    weights = rng.choice([-limit, limit], (width, 2 * pairs)).astype(np.int16)
    x[:1] = 2**14 * np.sign(weights[0])  # the largest sum there can be
    sums = rng.integers(-(2**30), 2**30, (count, width), np.int32)
    expected = sums + x.astype(np.int64) @ weights.T.astype(np.int64)
    PRODUCTS[width](sums, x, pair_inputs(weights))
    np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("layers", [(), (2,)])
def test_paired_inputs(layers):
    rows = np.arange(np.prod((*layers, 3, 4))).reshape(*layers, 3, 4)
    paired = pair_inputs(rows)
    assert paired.shape == (*layers, 2, 3, 2)
    for i, j in np.ndindex(3, 4):
        np.testing.assert_array_equal(paired[..., j // 2, i, j % 2], rows[..., i, j])
