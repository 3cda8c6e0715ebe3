"""The tables of integers against functions of Decimals."""

import numpy as np
import pytest
from exact_reference import elu, scale_number

from model import exact
from model.exact import FRACTION, STREAM
from utils import integer_tables


def test_elu_table_is_correctly_rounded():
    table = integer_tables.elu(STREAM)
    assert (table[-1], table[-2]) == (-(2**STREAM), 1 - 2**STREAM)
    some = [*range(50), *np.random.default_rng(0).integers(0, len(table), 2000).tolist(), len(table) - 2]
    assert [int(table[k]) for k in some] == [elu(-k) for k in some]


@pytest.mark.parametrize("kind", ["posterior", "latent", "pixel"])
def test_scale_thresholds_are_where_the_nearest_scale_changes(kind):
    table = integer_tables.scale_thresholds(FRACTION, exact.SCALES_PER_OCTAVE, exact.LEAST_SCALE_LOG2, exact.SCALES)[
        kind
    ]
    assert len(table) == exact.SCALES - 1
    assert bool((table.diff() >= 0).all())
    reached = [s for s in range(1, exact.SCALES) if abs(int(table[s - 1])) < exact.VALUE_LIMIT]
    for s in [*reached[:5], *reached[5:-5:97], *reached[-5:]]:
        threshold = int(table[s - 1])
        assert scale_number(kind, threshold) >= s > scale_number(kind, threshold - 1)
