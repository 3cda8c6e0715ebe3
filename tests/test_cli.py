"""What every script shares at the command line."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_line_error, run_main

from utils import cli
from utils.errors import UserError


@pytest.mark.parametrize("text, value", [("3", 3), ("12", 12), ("2", None), ("-4", None), ("3.5", None), ("", None)])
def test_whole_numbers_from_three_up(text, value):
    if value is not None:
        assert cli.whole_number(3)(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError):
        cli.whole_number(3)(text)


def test_one_is_singular():
    counts = [cli.counted(count, "image") for count in (0, 1, 2, 1000)]
    assert counts == ["0 images", "1 image", "2 images", "1,000 images"]


def test_an_error_of_the_user_is_one_line_and_any_other_a_traceback():
    @cli.script
    def main(argv):
        raise UserError("photo.png is absent") if argv == ["absent"] else ZeroDivisionError

    assert_one_line_error(run_main(main, "absent"), "photo.png is absent")
    with pytest.raises(ZeroDivisionError):
        main([])


PRINT = """
import os, sys
from utils import cli
@cli.script
def main():
    print("zwölf", os.fsdecode(b"\\xff"))
    print("Nachtrag", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        print("kept", file=file)
main()
"""


@pytest.mark.parametrize("streams", ["", ">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/null"])
@pytest.mark.parametrize("variables", ["", "PYTHONIOENCODING=ascii", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"])
def test_no_script_ends_for_what_it_prints(streams, variables, tmp_path):
    (tmp_path / "print.py").write_text(PRINT)
    command = f"{variables} {sys.executable} {tmp_path / 'print.py'} {tmp_path / 'file'} {streams}"
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "kept\n"
    assert done.stdout == (b"" if streams.startswith(">") else b"zw\xc3\xb6lf \xff\n")


def test_results_that_cannot_be_printed_are_an_error(tmp_path):
    (tmp_path / "print.py").write_text(PRINT)
    command = f"{sys.executable} {tmp_path / 'print.py'} {tmp_path / 'file'} >/dev/full"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert_one_line_error(done, "standard output: No space left on device")
    assert done.returncode == 1


def test_ctrl_c_during_imports_is_one_line():
    code = "import utils, os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.strip() == "interrupted"


def test_a_tilde_is_the_home_folder_in_every_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = cli.parser(None)
    parser.add_argument("file")
    parser.add_argument("--output")
    parser.add_argument("--data")
    args = parser.parse_args(["~/a.png", "--output=~/x", "--data", "~"])
    assert (args.file, args.output, args.data) == ("/home/me/a.png", "/home/me/x", "/home/me")
    args = parser.parse_args(["a~/b", "--output=./~", "--data=~a"])
    assert (args.file, args.output, args.data) == ("a~/b", "./~", "~a")


def test_where_a_file_goes(tmp_path):
    assert cli.target("a/b.jpg", None, ".bitswap") == Path("a/b.bitswap")
    assert cli.target("a/b.jpg", tmp_path, ".bitswap") == tmp_path / "b.bitswap"
    assert cli.target("a/b.jpg", "c.BITSWAP", ".bitswap") == Path("c.BITSWAP")
    with pytest.raises(UserError, match=r"out\.png: name a folder, or a file that ends in \.bitswap"):
        cli.target("a/b.jpg", "out.png", ".bitswap")


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
