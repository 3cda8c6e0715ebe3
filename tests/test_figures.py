"""The figure scripts, cma.py, savings.py and stackplot.py, on made-up results whose figures are worked out by hand."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, run_script

import cma
import savings
import stackplot
from utils import results
from utils.cli import UserError


def check_refused(done, *words):
    """Exit status 1, nothing on stdout, one line on stderr with all the words."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert str(word) in done.stderr


def save_result(folder, scheme, nets, elbos, initial, dims, variant="10bits"):
    """Save one result as the experiment does: nets and elbos [experiments, ndatapoints] in bits/dim, initial bits."""
    nets, elbos = np.asarray(nets, np.float64), np.asarray(elbos, np.float64)
    total = initial + np.cumsum(nets, axis=1) * dims
    arrays = {"nets": nets, "elbos": elbos, "total": total, "cmas": total / dims / np.arange(1, nets.shape[1] + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{scheme}_{variant}_{name}.npy", array)


def save_both(folder, dataset="cifar", nz=4, images=60):
    """A Bit-Swap and a BB-ANS result of two chains."""
    rates = np.tile([[3.0], [5.0]], images)
    dims = 1024 if dataset == "mnist" else 3072
    save_result(folder / f"{dataset}{nz}", "bitswap", rates, rates - 0.5, 2 * dims, dims)
    save_result(folder / f"{dataset}{nz}", "bbans", rates, rates - 0.5, 8 * dims, dims)


def cells(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def markdown(path):
    """The rows of a Markdown table, {(dataset, nz, scheme): the other cells}, header and rule left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert cells(lines[0])[3:] == [
        "chains × images",
        "ELBO",
        "net ± std",
        "CMA, n=1",
        "CMA, n=50",
        "CMA, n=100",
        "bits, n=1",
    ]
    return {tuple(cells(line)[:3]): cells(line)[3:] for line in lines[2:]}


def check_figure(stem):
    """Both files of a figure are there and are what their names say, with TrueType fonts in the PDF."""
    pdf = Path(f"{stem}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert Path(f"{stem}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert not list(Path(stem).parent.glob(".*.tmp"))


def test_cma_table(tmp_path):
    """Every number of the table, MNIST's per dimension of 28x28 images, from arrays with known means."""
    source, output = tmp_path / "results", tmp_path / "new" / "plots"
    # MNIST: 0.49 and 1.47 bits per padded dimension: 0.64 and 1.92 per real one; 784 initial bits are 1 per real one.
    rates = np.tile([[0.49], [1.47]], 100)
    save_result(source / "mnist4", "bitswap", rates, rates - 0.098, 784, 1024)
    # CIFAR-10: the two images of each chain alternate between 2 and 4 bits/dim; 10 bits/dim of initial bits; 50 images.
    rates = np.array([[2.0, 4.0] * 25, [4.0, 2.0] * 25, [2.0, 4.0] * 25])
    save_result(source / "cifar8", "bbans", rates, rates, 30720, 3072)
    # One image only.
    save_result(source / "imagenetcrop4", "bitswap", [[3.5]], [[3.25]], 0, 3072)

    done = run_script("cma.py", "--results", source, "--output", output.parent, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = markdown(output / "cma.md")
    assert table == {
        # net (0.64 + 1.92)/2, std their half distance; cma 1.28 + 1/n; first image: 784 + 1024 * (0.49 + 1.47)/2 bits
        ("MNIST", "4", "Bit-Swap"): ["2 × 100", "1.1520", "1.2800 ± 0.6400", "2.2800", "1.3000", "1.2900", "1787.5"],
        # n=1: (2 + 4 + 2)/3 + 10; n=50: 3 + 10/50; no 100th image
        ("CIFAR-10", "8", "BB-ANS"): ["3 × 50", "3.0000", "3.0000 ± 1.0000", "12.6667", "3.2000", "-", "38912.0"],
        ("ImageNet patches", "4", "Bit-Swap"): ["1 × 1", "3.2500", "3.5000 ± 0.0000", "3.5000", "-", "-", "10752.0"],
    }
    latex = (output / "cma.tex").read_text(encoding="utf-8")
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == 1
    for key, values in table.items():
        assert done.stdout.isascii()
        row = [line for line in done.stdout.splitlines() if line.startswith(key[0] + " ")]
        assert len(row) == 1
        for value in values:
            assert value.replace("±", "+-").replace("×", "x") in row[0]
        row = " & ".join([*key, *values]) + " \\\\"
        assert row.replace("±", "$\\pm$").replace("×", "$\\times$") in latex.splitlines()
    check_figure(output / "cma")
    assert {path.name for path in output.iterdir()} == {"cma.pdf", "cma.png", "cma.md", "cma.tex"}


def test_cma_says_what_is_missing(tmp_path):
    """One scheme alone is drawn, and the other named with the command that makes it; other models are not asked for."""
    save_both(tmp_path, "mnist", 4, images=100)
    for path in (tmp_path / "mnist4").glob("bbans*"):
        path.unlink()
    done = run_script("cma.py", "--results", tmp_path, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    (note,) = done.stderr.splitlines()
    assert note.startswith("note: no BB-ANS results for mnist, nz=4; run python mnist_compress.py --nz=4 --bitswap=0")
    check_figure(tmp_path / "plots" / "cma")


def drawn(folder):
    """cma.py's figure of a folder: {(dataset, nz): axes}."""
    models = results.load(folder)
    return dict(zip(models, (axes for axes in cma.draw(models).axes if axes.get_visible()), strict=True))


def test_cma_panels(tmp_path):
    """What each panel holds: two curves with the scale Bit-Swap's, or one scheme alone, and a title that says so."""
    save_both(tmp_path, "cifar", 2)
    save_both(tmp_path, "cifar", 8)
    for path in (tmp_path / "cifar8").glob("bitswap*"):
        path.unlink()
    panels = drawn(tmp_path)
    assert list(panels) == [("cifar", 2), ("cifar", 8)]

    both = {line.get_label(): line.get_ydata() for line in panels["cifar", 2].lines}
    images = np.arange(1, 61)
    np.testing.assert_allclose(both["Bit-Swap"], 4 + 2 / images)
    np.testing.assert_allclose(both["BB-ANS"], 4 + 8 / images)
    np.testing.assert_allclose(both["net rate, mean"], 4)
    bottom, top = panels["cifar", 2].get_ylim()
    assert bottom < 4 - 1 and top > 4 + 2  # the whole of the band and of Bit-Swap
    assert panels["cifar", 8].get_ylim() == (bottom, top)

    alone = [line.get_label() for line in panels["cifar", 8].lines]
    assert "BB-ANS" in alone and "Bit-Swap" not in alone
    assert "no Bit-Swap result" in panels["cifar", 8].get_title()
    assert "no BB-ANS result" not in panels["cifar", 2].get_title()


def test_cma_marks_a_start_off_the_scale(tmp_path):
    """BB-ANS starting far above is cut off, and the panel says where it starts."""
    rates = np.full((2, 60), 4.0)
    save_result(tmp_path / "cifar8", "bitswap", rates, rates, 3072, 3072)
    save_result(tmp_path / "cifar8", "bbans", rates, rates, 3072 * 40, 3072)
    (panel,) = drawn(tmp_path).values()
    assert panel.get_ylim()[1] < 6
    assert [text.get_text() for text in panel.texts] == ["BB-ANS starts at 44.0"]


def test_variants_are_told_apart(tmp_path):
    """The paper's protocol is drawn before others; where there is none, the most images, and the title says which."""
    for variant, rate, shape in (
        ("10bits_exact", 2.0, (100, 100)),
        ("10bits_2x60", 3.0, (2, 60)),
        ("10bits_2x5", 4.0, (2, 5)),
        ("10bits_whitened_2x60", 5.0, (2, 60)),
    ):
        save_result(tmp_path / "cifar2", "bitswap", np.full(shape, rate), np.full(shape, rate), 0, 3072, variant)
    (panel,) = drawn(tmp_path).values()
    assert "2 × 60" in panel.get_title() and results.load(tmp_path)["cifar", 2]["bitswap"].nets.mean() == 3
    assert results.load(tmp_path, exact=True)["cifar", 2]["bitswap"].nets.mean() == 2
    assert results.load(tmp_path, whiten=True)["cifar", 2]["bitswap"].nets.mean() == 5
    save_result(tmp_path / "cifar2", "bitswap", np.full((100, 100), 6.0), np.full((100, 100), 6.0), 0, 3072)
    (panel,) = drawn(tmp_path).values()
    assert "×" not in panel.get_title() and results.load(tmp_path)["cifar", 2]["bitswap"].nets.mean() == 6


@pytest.mark.parametrize("name", ["cma", "savings", "stackplot"])
def test_something_true_at_once(tmp_path, name):
    """Without results of one's own, those that ship are drawn, and stdout says so."""
    done = run_script(f"{name}.py", "--output", tmp_path, check=0)
    assert str(results.SHIPPED) in done.stdout
    check_figure(tmp_path / "plots" / name)


def test_what_ships_shows_the_papers_story():
    """BB-ANS's first image costs more with every layer, Bit-Swap's does not; and MNIST's net rate is its ELBO."""
    models = results.load(results.SHIPPED)
    for dataset in results.COMPRESSED:
        depths = results.DEPTHS[dataset]
        first = {scheme: [results.after(models[dataset, nz][scheme], 1) for nz in depths] for scheme in results.SCHEMES}
        steps = np.diff(first["bbans"]) / np.diff(depths)
        assert (steps > 0.8 * steps.mean()).all() and max(first["bitswap"]) == first["bitswap"][0]
        assert np.ptp(first["bitswap"][1:]) < 0.02 * first["bitswap"][1]
    for (dataset, _), curves in models.items():
        for result in curves.values():
            assert dataset != "mnist" or abs(result.nets.mean() - result.elbos.mean()) < 0.005


def test_savings(tmp_path):
    """The difference of two results, and the paper's numbers beside it."""
    save_both(tmp_path, "cifar", 2, images=100)
    save_both(tmp_path, "cifar", 4, images=20)
    ours = savings.measured(results.load(tmp_path))
    assert ours == {
        ("cifar", 1): {2: pytest.approx(6), 4: pytest.approx(6)},
        ("cifar", 10): {2: pytest.approx(0.6), 4: pytest.approx(0.6)},
        ("cifar", 100): {2: pytest.approx(0.06)},
    }
    (panel,) = savings.draw(ours, savings.published()).axes
    assert {line.get_label() for line in panel.lines} >= {"after 1 image", "after 1 image, paper"}
    assert savings.published()["mnist", 100][8] == pytest.approx(0.1853, abs=1e-4)


def test_cma_quantbits(tmp_path):
    """Only results of the precision asked for count, and the commands name it."""
    rates = np.full((100, 100), 3.0)
    save_result(tmp_path / "cifar2", "bitswap", rates, rates, 0, 3072, "12bits")
    done = run_script("cma.py", "--results", tmp_path, "--output", tmp_path, "--quantbits=12")
    assert done.returncode == 0 and "python cifar_compress.py --nz=2 --bitswap=0 --quantbits=12" in done.stderr
    check_refused(run_script("cma.py", "--results", tmp_path, "--output", tmp_path), tmp_path, "python")


@pytest.mark.parametrize("folder", ["absent", "."])
def test_cma_nothing_found(tmp_path, folder):
    """An empty or absent folder is named, with a command that fills it; nothing is written."""
    done = run_script("cma.py", "--results", tmp_path / folder, "--output", tmp_path / "output")
    check_refused(done, tmp_path / folder, "python mnist_compress.py --nz=2 --bitswap=1")
    assert not (tmp_path / "output").exists()


def overwrite(path, content):
    """Replace a file by an array, by bytes, or by nothing."""
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=content.dtype == object)


HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
HUGE = b"\x93NUMPY\x01\x00\x76\x00" + HEADER.ljust(118)  # 8 TB, says the header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"PK\x03\x04 no archive",
        HUGE,
        np.full((2, 60), None),
        pickle.dumps(np.ones((2, 60))),
        np.ones(60),
        np.ones((2, 59)),
        np.ones((0, 60)),
        np.full((2, 60), np.nan),
        None,
    ],
    ids=[
        "empty",
        "text",
        "zip",
        "huge",
        "objects",
        "pickle",
        "1-d",
        "other shape",
        "no chain",
        "nan",
        "missing",
    ],
)
def test_cma_damaged_array(tmp_path, content):
    """A file that is no float64 [experiments, ndatapoints] array of the others' shape: an error that names it."""
    save_both(tmp_path)
    path = tmp_path / "cifar4" / "bbans_10bits_cmas.npy"
    overwrite(path, content)
    with pytest.raises(UserError) as error:
        results.load(tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_cma_cut_short(tmp_path):
    """The same from the command line: one line, status 1, an older figure left as it was."""
    save_both(tmp_path)
    path = tmp_path / "cifar4" / "bitswap_10bits_nets.npy"
    path.write_bytes(path.read_bytes()[:-8])
    older = tmp_path / "plots" / "cma.pdf"
    older.parent.mkdir()
    older.write_text("older")
    check_refused(run_script("cma.py", "--results", tmp_path, "--output", tmp_path), path)
    assert older.read_text() == "older" and not older.with_suffix(".png").exists()


def test_cma_cannot_write(tmp_path):
    """An --output that is a file."""
    save_both(tmp_path)
    (tmp_path / "file").touch()
    done = run_script("cma.py", "--results", tmp_path, "--output", tmp_path / "file")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: cannot write {tmp_path / 'file' / 'plots' / 'cma.pdf'}" in done.stderr.splitlines()[-1]


def save_curve(path, steps, values):
    """Save one curve as TensorBoard exports it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"1550000000.5,{step},{value}\n" for step, value in zip(steps, values, strict=True))
    path.write_text("Wall time,Step,Value\n" + rows)


def save_model(folder, nz, epochs=(0, 5, 10)):
    """Whole curves of a model: x falls from 4 to 2 bits/dim, layer i stays at 0.1 i."""
    save_curve(folder / "x.csv", epochs, np.linspace(4, 2, len(epochs)))
    for i in range(1, nz + 1):
        save_curve(folder / f"z{i}.csv", epochs, np.full(len(epochs), 0.1 * i))


def test_stackplot_files(tmp_path):
    """All that are found in one figure; --dataset and --nz choose, and name the files; ELBO per real dimension."""
    save_model(tmp_path / "mnist2", 2)
    save_model(tmp_path / "cifar4", 4)
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path / "output", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"curves in {tmp_path}"
    assert lines[1] == "mnist, nz=2: ELBO 3.0041 bits/dim at epoch 10"  # (2 + 0.1 + 0.2) * 1024/784
    assert lines[2] == "cifar, nz=4: ELBO 3.0000 bits/dim at epoch 10"  # 2 + 0.1 + 0.2 + 0.3 + 0.4
    check_figure(tmp_path / "output" / "plots" / "stackplot")
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path, "--dataset=mnist", "--nz=2")
    assert (done.returncode, done.stderr) == (0, "")
    check_figure(tmp_path / "plots" / "stackplot_mnist2")


@pytest.mark.parametrize(
    ("dataset", "nz", "name"),
    [
        (None, None, "stackplot"),
        (["cifar"], None, "stackplot_cifar"),
        (None, [4], "stackplot_nz4"),
        (["cifar"], [4], "stackplot_cifar4"),
        (["mnist", "cifar"], [2, 4], "stackplot_mnist-cifar2-4"),
    ],
)
def test_stackplot_names(dataset, nz, name):
    """Each choice has files of its own."""
    assert stackplot.stem(dataset, nz) == name


def test_stackplot_areas(tmp_path):
    """The panel's areas lie on one another and add up to the ELBO."""
    save_model(tmp_path / "cifar2", 2)
    epochs, values = stackplot.load(tmp_path / "cifar2", 2)
    np.testing.assert_array_equal(epochs, [0, 5, 10])
    np.testing.assert_allclose(values, [[4, 3, 2], [0.1] * 3, [0.2] * 3])
    (axes,) = stackplot.draw({("cifar", 2): (epochs, values)}).axes
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


def test_results_are_kept_as_they_are(tmp_path):
    """keep_results.py copies arrays and curves; what is drawn of them is the same."""
    save_both(tmp_path / "plots", "mnist", 4)
    save_model(tmp_path / "plots" / "mnist4", 4)
    run_script("scripts/keep_results.py", tmp_path / "plots", "--to", tmp_path / "kept", check=0)
    kept, original = results.load(tmp_path / "kept"), results.load(tmp_path / "plots")
    for scheme in results.SCHEMES:
        np.testing.assert_allclose(kept["mnist", 4][scheme].cmas, original["mnist", 4][scheme].cmas, rtol=1e-6)
    np.testing.assert_array_equal(
        stackplot.load(tmp_path / "kept" / "mnist4", 4)[1], stackplot.load(tmp_path / "plots" / "mnist4", 4)[1]
    )


def test_stackplot_twelve_layers(tmp_path):
    """Without x1.csv z12.csv is latent layer 12."""
    save_model(tmp_path / "cifar12", 12)
    _, values = stackplot.load(tmp_path / "cifar12", 12)
    assert values.shape == (13, 3)
    np.testing.assert_allclose(values[12], 1.2)


def test_stackplot_resumed_and_ragged(tmp_path):
    """Steps that go back within a file replace what they repeat; only epochs that all curves have are drawn."""
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
        ("z1.csv", "Step,Value\n1,2\n"),
        ("z1.csv", "Wall time,Step,Value\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2,three\n"),
        ("z1.csv", "Wall time,Step,Value\n1,2,nan\n"),
        ("z1.csv", b"\xff\xfe\x00"),
        ("z3.csv", "Wall time,Step,Value\n1,0,1\n"),
        ("x1.csv", "Wall time,Step,Value\n1,0,1\n"),
    ],
)
def test_stackplot_damaged_curves(tmp_path, name, content):
    """Missing, superfluous and damaged files are named in one line (beside x1.csv, x.csv is the superfluous one)."""
    save_model(tmp_path, 2)
    path = tmp_path / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        stackplot.load(tmp_path, 2)
    named = tmp_path / "x.csv" if name == "x1.csv" else path
    assert str(named) in str(error.value) and "\n" not in str(error.value)


def test_stackplot_damaged_curve_at_the_command_line(tmp_path):
    """One line, status 1, nothing written."""
    save_model(tmp_path / "mnist2", 2)
    (tmp_path / "mnist2" / "z2.csv").write_text("Wall time,Step,Value\n1,0,\n")
    done = run_script("stackplot.py", "--results", tmp_path, "--output", tmp_path / "output")
    assert_one_line_error(done, tmp_path / "mnist2" / "z2.csv", "line 2")
    assert not (tmp_path / "output").exists()


def test_stackplot_nothing_found(tmp_path):
    """The folder and the command are named, those chosen if any were."""
    save_model(tmp_path / "mnist2", 2)
    done = run_script("stackplot.py", "--results", tmp_path, "--dataset=cifar", "--nz=8")
    check_refused(done, tmp_path, "--dataset=cifar --nz=8", "python model/cifar_train.py --nz=8")
    done = run_script("stackplot.py", "--results", tmp_path / "absent")
    check_refused(done, tmp_path / "absent", "python model/mnist_train.py --nz=2")


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
