"""What every script shares at the command line."""

import argparse

import pytest
from conftest import assert_one_line_error, run_main

from utils import cli
from utils.errors import UserError


@pytest.mark.parametrize("text, value", [("3", 3), ("12", 12), ("2", None), ("-4", None), ("3.5", None), ("", None)])
def test_whole_numbers_from_three_up(text, value):
    if value is not None:
        assert cli.whole_number(3)(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError):
        cli.whole_number(3)(text)


def test_an_error_of_the_user_is_one_line_and_any_other_a_traceback():
    @cli.script
    def main(argv):
        raise UserError("photo.png is absent") if argv == ["absent"] else ZeroDivisionError

    assert_one_line_error(run_main(main, "absent"), "photo.png is absent")
    with pytest.raises(ZeroDivisionError):
        main([])


def test_files_are_not_overwritten_by_mistake(tmp_path):
    there, source = tmp_path / "there", tmp_path / "source"
    there.touch()
    source.touch()
    cli.refuse_to_overwrite(tmp_path / "new", force=False, source=source)
    cli.refuse_to_overwrite(there, force=True, source=source)
    with pytest.raises(UserError, match="--force"):
        cli.refuse_to_overwrite(there, force=False, source=source)
    with pytest.raises(UserError, match="to be read"):
        cli.refuse_to_overwrite(source, force=True, source=source)
