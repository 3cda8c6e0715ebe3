"""The compression scripts' command line."""

import pytest

from codec import command


def test_without_flags_a_first_look_that_names_the_full_experiment(monkeypatch):
    monkeypatch.setattr("sys.argv", ["mnist_compress.py"])
    args = command.parse("mnist")
    assert (args.experiments, args.ndatapoints, args.bitswap, args.first_look) == (10, 10, "both", True)
    for flags in (["--full"], ["--nz=2"]):
        args = command.parse("mnist", flags)
        assert (args.experiments, args.ndatapoints, args.first_look) == (None, None, False)


@pytest.mark.parametrize(
    "flags, name",
    [
        ([], "10bits"),
        (["--exact"], "10bits_exact"),
        (["--precision=bfloat16", "--whiten"], "10bits_bf16_whitened"),
        (["--whiten", "--exact", "--quantbits=8"], "8bits_exact_whitened"),
        (["--seed=3"], "10bits_seed3"),
    ],
)
def test_results_of_another_kind_have_another_name(flags, name):
    assert command.variant(command.parse("mnist", ["--full", *flags])) == name
