"""stackplot.py on made-up curves whose figures are worked out by hand."""

import numpy as np
import pytest
from conftest import assert_one_line_error, run_script
from result_files import check_figure, check_refused, save_curve, save_model

import stackplot
from utils.errors import UserError


def test_stackplot_files(tmp_path):
    """All that are found in one figure; --dataset and --nz choose; ELBO per real dimension."""
    save_model(tmp_path / "mnist2", 2)
    save_model(tmp_path / "cifar4", 4)
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path / "output", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "mnist, nz=2: ELBO 3.0041 bits/dim at epoch 10"  # (2 + 0.1 + 0.2) * 1024/784
    assert lines[1] == "cifar, nz=4: ELBO 3.0000 bits/dim at epoch 10"  # 2 + 0.1 + 0.2 + 0.3 + 0.4
    check_figure(tmp_path / "output" / "plots" / "stackplot")
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path, "--dataset=mnist", "--nz=2")
    assert (done.returncode, done.stderr) == (0, "") and "cifar" not in done.stdout
    check_figure(tmp_path / "plots" / "stackplot")


def test_stackplot_areas(tmp_path):
    """The panel's areas lie on one another and add up to the ELBO."""
    save_model(tmp_path / "cifar2", 2)
    epochs, values = stackplot.load(tmp_path / "cifar2", 2)
    np.testing.assert_array_equal(epochs, [0, 5, 10])
    np.testing.assert_allclose(values, [[4, 3, 2], [0.1] * 3, [0.2] * 3])
    (axes,) = stackplot.draw({("cifar", 2): (epochs, values)}, {("cifar", 2): ""}).axes
    assert axes.get_ylabel() == "CIFAR-10\nbits/dim"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines["ELBO"], [4.3, 3.3, 2.3])
    areas = {area.get_label(): area.get_paths()[0].vertices for area in axes.collections}
    assert list(areas) == ["$x$", "$z_{1}$", "$z_{2}$"]
    np.testing.assert_allclose([areas["$z_{1}$"][:, 1].min(), areas["$z_{1}$"][:, 1].max()], [2, 4.1])


def test_stackplot_parts(tmp_path):
    """With x1.csv there z12.csv is part 2 of z1, and a part is cut where the next begins."""
    save_curve(tmp_path / "x1.csv", [0, 1, 2, 3], [8, 7, 6, 5.5])
    save_curve(tmp_path / "z11.csv", [0, 1, 2, 3], [1, 1, 1, 1])
    save_curve(tmp_path / "x2.csv", [2, 3, 4], [5, 4, 3])
    save_curve(tmp_path / "z12.csv", [2, 3, 4], [2, 2, 2])
    save_curve(tmp_path / "x3.csv", [6, 7], [2.5, 2.4])
    save_curve(tmp_path / "z13.csv", [6, 7], [3, 3])
    epochs, values = stackplot.load(tmp_path, 1)
    np.testing.assert_array_equal(epochs, [0, 1, 2, 3, 4, 6, 7])
    np.testing.assert_array_equal(values, [[8, 7, 5, 4, 3, 2.5, 2.4], [1, 1, 2, 2, 2, 3, 3]])


def test_stackplot_parts_of_two_layers(tmp_path):
    """Two layers in two parts: z<layer><part>."""
    for part, steps in ((1, [0, 1, 2]), (2, [2, 3])):
        for i, variable in enumerate(("x", "z1", "z2")):
            save_curve(tmp_path / f"{variable}{part}.csv", steps, [10 * i + part] * len(steps))
    epochs, values = stackplot.load(tmp_path, 2)
    np.testing.assert_array_equal(epochs, [0, 1, 2, 3])
    np.testing.assert_array_equal(values, [[1, 1, 2, 2], [11, 11, 12, 12], [21, 21, 22, 22]])


def test_stackplot_smoothed():
    """A moving average over tests, at the epoch of the last of them."""
    epochs, values = np.array([0, 5, 10, 15]), np.array([[4.0, 3, 2, 1], [0, 0, 1, 1]])
    smoothed = stackplot.smooth(epochs, values, 2)
    np.testing.assert_array_equal(smoothed[0], [5, 10, 15])
    np.testing.assert_allclose(smoothed[1], [[3.5, 2.5, 1.5], [0, 0.5, 1]])
    np.testing.assert_array_equal(stackplot.smooth(epochs, values, 5)[1], values)


def test_smoothing_leaves_short_curves_as_they_are():
    epochs, values = np.arange(4), np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(stackplot.smooth(epochs, values, 4)[1], values)


@pytest.mark.parametrize("log", [False, True])
def test_the_latents_fill_most_of_a_panel(log):
    """The y-axis starts below the least of x, not at 0; the ELBO's end stays in the panel."""
    epochs, values = np.arange(1, 60), np.array([np.linspace(5, 3.8, 59), np.full(59, 0.3), np.full(59, 0.1)])
    (axes,) = stackplot.draw({("cifar", 2): (epochs, values)}, {("cifar", 2): "shipped"}, log).axes
    bottom, top = axes.get_ylim()
    assert 3.5 < bottom < 3.8 and 4.2 < top < 6
    assert axes.get_title() == "2 latent layers\nshipped"
    axes.figure.draw_without_rendering()
    shown = [float(label.get_text()) for label in axes.get_xticklabels() if label.get_text()]  # not 10^1 and the like
    assert len([epoch for epoch in shown if 1 <= epoch <= 59]) >= 2


def test_stackplot_twelve_layers(tmp_path):
    """Without x1.csv z12.csv is latent layer 12."""
    save_model(tmp_path / "cifar12", 12)
    _, values = stackplot.load(tmp_path / "cifar12", 12)
    assert values.shape == (13, 3)
    np.testing.assert_allclose(values[12], 1.2)


def test_a_later_row_of_an_epoch_replaces_the_earlier_one(tmp_path):
    """As in a resumed run; and only epochs that all curves have are drawn."""
    save_curve(tmp_path / "x.csv", [0, 1, 2, 3, 2, 3, 4], [9, 8, 7, 6, 5, 4, 3])
    save_curve(tmp_path / "z1.csv", [0, 1, 2, 3], [1, 1, 1, 1])
    epochs, values = stackplot.load(tmp_path, 1)
    np.testing.assert_array_equal(epochs, [0, 1, 2, 3])
    np.testing.assert_array_equal(values[0], [9, 8, 5, 4])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", None),
        ("z2.csv", None),
        ("z1.csv", ""),
        ("z1.csv", "Wall time,Value\n1,2\n"),
        ("z1.csv", "Wall time,Step,Value\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2,three\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2,nan\n"),
        ("z1.csv", b"\xff\xfe\x00"),
    ],
)
def test_stackplot_damaged_curves(tmp_path, name, content):
    """Missing and damaged files are named in one line."""
    save_model(tmp_path, 2)
    path = tmp_path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((UserError, FileNotFoundError)) as error:
        stackplot.load(tmp_path, 2)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_stackplot_damaged_curve_at_the_command_line(tmp_path):
    """One line, status 1, nothing written."""
    save_model(tmp_path / "mnist2", 2)
    (tmp_path / "mnist2" / "z2.csv").write_text("Wall time,Step,Value\n1,0,\n")
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path / "output")
    assert_one_line_error(done, tmp_path / "mnist2" / "z2.csv", "three numbers")
    assert not (tmp_path / "output").exists()


def test_stackplot_nothing_found(tmp_path):
    """The folder is named, and the model that was asked for."""
    save_model(tmp_path / "mnist2", 2)
    done = run_script("stackplot.py", "--results", tmp_path, "--dataset=cifar", "--nz=8")
    check_refused(done, "no training curves", tmp_path, "--dataset=cifar --nz=8")
    done = run_script("stackplot.py", "--results", tmp_path / "absent")
    check_refused(done, tmp_path / "absent")
