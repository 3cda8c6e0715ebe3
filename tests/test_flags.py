"""Every number that a flag takes has its range in the parser."""

import argparse

import pytest
from conftest import assert_one_line_error, run_main

from scripts import MAINS, actions, is_number

NUMBERS = [(script, a) for script in MAINS for a in actions(script) if is_number(a)]
UPPER = {"--seed": 2**32, "--quantbits": 17, "--lanes": 10**9}


def test_numbers_are_found():
    flags = {action.option_strings[-1] for _, action in NUMBERS}
    assert flags >= {"--nz", "--quantbits", "--experiments", "--ndatapoints", "--seed", "--gpu", "--lanes", "--nphotos"}
    assert not [a for script in MAINS for a in actions(script) if a.type in (int, float)], "a number without a range"


@pytest.mark.parametrize("script, action", NUMBERS, ids=lambda value: getattr(value, "dest", value))
def test_a_number_out_of_range_ends_in_a_line(script, action):
    flag = action.option_strings[-1]
    for bad in ("nan", "inf", "-5", "1e3", "0.5", "", "9" * 5000, *filter(None, [UPPER.get(flag)])):
        if flag not in UPPER and bad == "9" * 5000:
            continue
        done = run_main(MAINS[script], f"{flag}={bad}", *["x"] * (script.startswith("model/create_imagenetcrop")))
        assert done.returncode == 2, (flag, bad)
        assert_one_line_error(done)
    with pytest.raises(argparse.ArgumentTypeError):
        action.type("x")
