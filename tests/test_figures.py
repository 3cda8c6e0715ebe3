"""The figure scripts, cma.py and stackplot.py, on made-up results whose figures are worked out by hand."""

import pytest
from conftest import run_main, run_script
from result_files import check_figure, save_both, save_model

import cma
import stackplot
from utils import figures, results

SCRIPTS = [("cma.py", "cma"), ("cma.py --savings", "savings"), ("stackplot.py", "stackplot")]


@pytest.mark.parametrize(("script", "name"), SCRIPTS)
def test_something_true_at_once(tmp_path, script, name):
    """Without results of the user's own, those that ship are drawn, and stdout says so."""
    done = run_script(*script.split(), "--output", tmp_path, check=0)
    assert str(results.SHIPPED) in done.stdout and "shipped" in done.stdout
    check_figure(tmp_path / "plots" / name)


@pytest.mark.parametrize(("main", "flags"), [(cma.main, ()), (cma.main, ("--savings",)), (stackplot.main, ())])
def test_own_results_go_before_shipped_ones_model_by_model(tmp_path, main, flags):
    save_both(tmp_path / "plots", "mnist", 4)
    save_model(tmp_path / "plots" / "mnist4", 4)
    flags = (*flags, "--dataset=mnist", "--nz=2,4", "--output", tmp_path)
    lines = [
        line.replace("nz=", " ").replace(",", "").replace(":", " ")
        for line in run_main(main, *flags).stdout.lower().splitlines()
    ]
    marks = {nz: [("shipped" in line) for line in lines if line.startswith("mnist") and nz in line.split()[1:3]]
             for nz in ("2", "4")}  # fmt: skip
    assert marks["2"] and all(marks["2"]) and marks["4"] and not any(marks["4"])
    assert "shipped" not in run_main(main, *flags, "--results", tmp_path / "plots").stdout


@pytest.mark.parametrize("kind", ["cma", "savings", "stackplot"])
@pytest.mark.parametrize("models", [[("mnist", 8)], [("mnist", 2), ("mnist", 8), ("imagenet", 4)]])
def test_nothing_is_cut_off(kind, models):
    """All text lies inside the figure, with one panel and with several."""
    loaded = results.load([results.SHIPPED], wanted=lambda *model: model in models)
    if kind == "cma":
        figure = cma.draw(loaded)
    elif kind == "savings":
        figure = cma.draw_savings(cma.measured_savings(loaded), cma.published_savings(), set(models))
    else:
        curves = {model: stackplot.load(results.folder(*model, results.SHIPPED), model[1]) for model in models}
        figure = stackplot.draw(curves, dict.fromkeys(models, "shipped"))
    figure.draw_without_rendering()
    texts = [*figure.legends, figure._supxlabel, *(t for axes in figure.axes if axes.get_visible() for t in axes.texts)]
    texts += [t for axes in figure.axes if axes.get_visible() for t in (axes.title, axes.xaxis.label, axes.yaxis.label)]
    for text in filter(None, texts):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text


def test_a_legend_has_as_many_columns_as_fit():
    figure = figures.sheet(2, 2)
    axes = figure.subplots()
    for i in range(5):
        axes.plot([0, 1], [0, i], label=f"a curve of some name, {i}")
    figures.legend(figure)
    (legend,) = figure.legends
    assert legend._ncols == 1


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("cma.py", ["cma.pdf", "cma.png", "cma.md", "cma.tex", "savings.{pdf,png}"]),
        ("stackplot.py", ["stackplot.pdf", "stackplot.png"]),
    ],
)
def test_help(tmp_path, name, writes):
    """--help answers from anywhere and lists everything that is written."""
    done = run_script(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for file in writes:
        assert file in done.stdout
