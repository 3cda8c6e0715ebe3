"""The examples run, and give the rates that the documentation promises."""

import re

import pytest
from conftest import run_script


def rates(example):
    """What an example prints: {name: bits/dim}."""
    lines = run_script(f"examples/{example}.py", check=0).stdout.splitlines()
    return {
        name: float(rate) for name, rate in (re.match(r"(.*?) +([\d.]+) bits/dim", line).groups() for line in lines)
    }


def test_a_model_of_ones_own_codes_at_its_elbo():
    found = rates("own_model")
    assert found["negative ELBO"] < 2.2  # it learned something: four bits are a level's
    for scheme in ("Bit-Swap", "BB-ANS"):
        assert found[scheme] == pytest.approx(found["negative ELBO"], abs=0.02)


def test_a_distribution_of_ones_own_codes_at_its_information_content():
    found = rates("own_distribution")
    assert found["bits-back"] == pytest.approx(found["-log2 p(x)"], abs=0.002)


def test_the_stack_is_drawn(mnist, tmp_path):
    run_script("examples/stack.py", "--data", mnist, "--digits=1", "-o", tmp_path / "stack.png", check=0)
    assert (tmp_path / "stack.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("example", ["own_model", "own_distribution", "stack"])
def test_help_says_what_an_example_does(example):
    assert len(run_script(f"examples/{example}.py", "--help", check=0).stdout) > 200
