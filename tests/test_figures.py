"""The figure scripts, cma.py, savings.py and stackplot.py, on made-up results whose figures are worked out by hand."""

import pytest
from conftest import run_script
from result_files import check_figure

from utils import results


@pytest.mark.parametrize("name", ["cma", "savings", "stackplot"])
def test_something_true_at_once(tmp_path, name):
    """Without results of one's own, those that ship are drawn, and stdout says so."""
    done = run_script(f"{name}.py", "--output", tmp_path, check=0)
    assert str(results.SHIPPED) in done.stdout
    check_figure(tmp_path / "plots" / name)


@pytest.mark.parametrize(
    ("name", "writes"),
    [("cma.py", ["cma.pdf", "cma.png", "cma.md", "cma.tex"]), ("stackplot.py", ["stackplot.pdf", "stackplot.png"])],
)
def test_help(tmp_path, name, writes):
    """--help answers from anywhere and lists everything that is written."""
    done = run_script(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for file in writes:
        assert file in done.stdout
