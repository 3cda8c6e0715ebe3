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
    assert "shipped" in done.stdout
    check_figure(tmp_path / "plots" / name)


@pytest.mark.parametrize(("main", "flags"), [(cma.main, ()), (cma.main, ("--savings",)), (stackplot.main, ())])
def test_own_results_go_before_shipped_ones_model_by_model(tmp_path, main, flags):
    save_both(tmp_path / "plots", "mnist", 4)
    save_model(tmp_path / "plots" / "mnist4", 4)
    for nz, marked in ((2, True), (4, False)):
        flags = (*flags, "--dataset=mnist", f"--nz={nz}", "--output", tmp_path)
        assert ("shipped" in run_main(main, *flags).stdout) == marked
    assert "shipped" not in run_main(main, *flags, "--results", tmp_path / "plots").stdout


@pytest.mark.parametrize("kind", ["cma", "savings", "stackplot"])
@pytest.mark.parametrize("models", [[("mnist", 8)], [("mnist", 2), ("mnist", 8), ("imagenet", 4)]])
def test_nothing_is_cut_off(kind, models):
    """All text lies inside the figure, with one panel and with several."""
    loaded = {model: curves for model, curves in results.load([results.SHIPPED]).items() if model in models}
    if kind == "cma":
        figure = cma.draw(loaded)
    elif kind == "savings":
        numbers = {m: {s: results.numbers(each) for s, each in curves.items()} for m, curves in loaded.items()}
        figure = cma.draw_savings(cma.savings(numbers), cma.savings(results.published()))
    else:
        curves = {model: stackplot.load(results.SHIPPED / "{}{}".format(*model), model[1]) for model in models}
        figure = stackplot.draw(curves, dict.fromkeys(models, "shipped"))
    figure.draw_without_rendering()
    texts = [*figure.legends, figure._supxlabel, *(t for axes in figure.axes for t in axes.texts)]
    texts += [t for axes in figure.axes for t in (axes.title, axes.xaxis.label, axes.yaxis.label)]
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
