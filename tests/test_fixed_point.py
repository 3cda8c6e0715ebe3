"""Real numbers as integers: the table of scales, bins, and tables of functions against functions of Decimals."""

from decimal import ROUND_DOWN, Context, Inexact, localcontext

import numpy as np
import pytest
from exact_reference import elu, scale_number
from hypothesis import given, settings
from hypothesis import strategies as st

from model.context.arithmetic import logistic_table
from model.exact import STREAM, VALUE_LIMIT
from utils import fixed_point
from utils.errors import UserError
from utils.fixed_point import UniformBins, pixel_bins, quantize

SCALE_VALUES = np.exp2(np.arange(fixed_point.SCALES) / 256 - 12)  # what the indices of scales stand for
ONE = 1 << fixed_point.FRACTION


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-2000, 2000))
def test_quantize_takes_the_nearest(scale, mu):
    for kind, error in ((np.float32, 1e-4), (np.float64, 0)):
        (integer,), (index,) = quantize(np.array([mu], kind), np.array([scale], kind))
        assert abs(integer / ONE - mu) <= 0.5 / ONE + error
        # Half a step of the table, and what the mantissa's leading bits leave open.
        assert abs(np.log2(SCALE_VALUES[index] / scale)) <= 0.5 / 256 + 2**-11


@pytest.mark.parametrize("mu, scale", [(np.nan, 1), (np.inf, 1), (0, np.nan), (0, np.inf), (0, 0), (0, -1)])
def test_outputs_that_are_not_finite_are_refused(mu, scale):
    with pytest.raises(UserError, match="not finite"):
        quantize(np.array([0, mu]), np.array([1, scale]))


@pytest.mark.parametrize("scale", [2.0**-12, 1.0, 2.0**11])
def test_powers_of_two_are_in_the_table(scale):
    index = quantize(np.zeros(1), np.array([scale]))[1]
    assert SCALE_VALUES[index] == scale


@pytest.mark.parametrize("lo, hi", [(0, 0), (1, 0), (np.nan, 1), (0, np.inf), (-1e9, 1e9)])
def test_bins_that_cannot_be_are_refused(lo, hi):
    with pytest.raises(ValueError, match="bins"):
        UniformBins.between([lo], [hi], 16)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_pixel_bins_lie_around_the_levels_spread_over_the_unit_range(levels):
    bins = pixel_bins(3, levels)
    symbols = np.arange(levels)[:, None].repeat(3, 1)
    np.testing.assert_allclose(bins.centres(symbols) / ONE, np.linspace(-1, 1, levels)[:, None].repeat(3, 1), atol=4e-6)


def test_elu_table_is_correctly_rounded():
    table = fixed_point.elu_table(STREAM)
    assert (table[-1], table[-2]) == (-(2**STREAM), 1 - 2**STREAM)
    some = [*range(50), *np.random.default_rng(0).integers(0, len(table), 2000).tolist(), len(table) - 2]
    assert [int(table[k]) for k in some] == [elu(-k) for k in some]


@pytest.mark.parametrize("kind", ["posterior", "latent", "pixel"])
def test_scale_thresholds_are_where_the_nearest_scale_changes(kind):
    table = fixed_point.scale_thresholds()[kind]
    assert len(table) == fixed_point.SCALES - 1
    assert (np.diff(table) >= 0).all()
    reached = [s for s in range(1, fixed_point.SCALES) if abs(int(table[s - 1])) < VALUE_LIMIT]
    for s in [*reached[:5], *reached[5:-5:97], *reached[-5:]]:
        threshold = int(table[s - 1])
        assert scale_number(kind, threshold) >= s > scale_number(kind, threshold - 1)


@pytest.mark.parametrize("table, arguments", [(logistic_table, ()), (fixed_point.elu_table, (STREAM,))])
def test_what_an_application_does_with_decimals_changes_no_table(table, arguments):
    with localcontext(Context(prec=5, rounding=ROUND_DOWN, Emax=9, traps=[Inexact])):
        np.testing.assert_array_equal(table.__wrapped__(*arguments), table(*arguments))
