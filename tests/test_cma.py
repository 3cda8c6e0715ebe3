"""cma.py on made-up results whose figures are worked out by hand."""

import pickle

import numpy as np
import pytest
from conftest import run_script
from result_files import check_figure, check_refused, overwrite, save_both, save_result

import cma
from utils import results
from utils.errors import UserError

HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
HUGE = b"\x93NUMPY\x01\x00\x76\x00" + HEADER.ljust(118)  # 8 TB, says the header


def cells(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def markdown(path):
    """The rows of a Markdown table, {(dataset, nz, scheme): the other cells}, header and rule left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    averages = [f"CMA, n={n}" for n in (1, 10, 50, 100)]
    assert cells(lines[0])[3:] == ["chains × images", "ELBO", "net ± std", *averages, "bits, n=1"]
    return {tuple(cells(line)[:3]): cells(line)[3:] for line in lines[2:]}


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
    # net (0.64 + 1.92)/2, std their half distance; cma 1.28 + 1/n; first image: 784 + 1024 * (0.49 + 1.47)/2 bits
    mnist = "2 × 100, 1.1520, 1.2800 ± 0.6400, 2.2800, 1.3800, 1.3000, 1.2900, 1787.5"
    # n=1: (2 + 4 + 2)/3 + 10; n=10: 3 + 10/10; n=50: 3 + 10/50; no 100th image
    cifar = "3 × 50, 3.0000, 3.0000 ± 1.0000, 12.6667, 4.0000, 3.2000, -, 38912.0"
    patches = "1 × 1, 3.2500, 3.5000 ± 0.0000, 3.5000, -, -, -, 10752.0"
    assert table == {
        ("MNIST", "4", "Bit-Swap"): mnist.split(", "),
        ("CIFAR-10", "8", "BB-ANS"): cifar.split(", "),
        ("ImageNet patches", "4", "Bit-Swap"): patches.split(", "),
    }
    assert done.stdout.startswith((output / "cma.md").read_text(encoding="utf-8"))
    check_figure(output / "cma")
    assert {path.name for path in output.iterdir()} == {"cma.pdf", "cma.png", "cma.md"}


def drawn(folder):
    """cma.py's figure of a folder: {(dataset, nz): axes}."""
    models = results.load([folder])
    return dict(zip(models, cma.draw(models).axes, strict=True))


def test_cma_panels(tmp_path):
    """What each panel holds: two curves with the scale Bit-Swap's, or one scheme alone."""
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
    np.testing.assert_allclose(both["net rate"], 4)
    bottom, top = panels["cifar", 2].get_ylim()
    assert bottom < 4 - 1 and top > 4 + 2  # the whole of the band and of Bit-Swap
    assert panels["cifar", 8].get_ylim() == (bottom, top)

    alone = [line.get_label() for line in panels["cifar", 8].lines]
    assert "BB-ANS" in alone and "Bit-Swap" not in alone


def test_cma_marks_a_start_off_the_scale(tmp_path):
    """BB-ANS starting far above is cut off, and the panel says where it starts."""
    rates = np.full((2, 60), 4.0)
    save_result(tmp_path / "cifar8", "bitswap", rates, rates, 3072, 3072)
    save_result(tmp_path / "cifar8", "bbans", rates, rates, 3072 * 40, 3072)
    (panel,) = drawn(tmp_path).values()
    assert panel.get_ylim()[1] < 6
    assert [text.get_text() for text in panel.texts] == ["BB-ANS starts at 44.0"]


def test_the_papers_protocol_is_drawn_before_others(tmp_path):
    """Without it the most images, and the title says how many; other settings are never drawn."""

    def save(variant, rate, shape):
        save_result(tmp_path / "cifar2", "bitswap", np.full(shape, rate), np.full(shape, rate), 0, 3072, variant)

    def drawn_rate():
        return results.load([tmp_path])["cifar", 2]["bitswap"].nets.mean()

    save("10bits_exact", 2.0, (100, 100))
    save("12bits", 2.0, (100, 100))
    assert not results.load([tmp_path])
    save("10bits_whitened_2x60", 5.0, (2, 60))
    save("10bits_2x60", 3.0, (2, 60))
    save("10bits_2x5", 4.0, (2, 5))
    (panel,) = drawn(tmp_path).values()
    assert "2 chains of 60" in panel.get_title() and drawn_rate() == 3
    save("10bits", 6.0, (100, 100))
    (panel,) = drawn(tmp_path).values()
    assert "chains" not in panel.get_title() and drawn_rate() == 6


@pytest.mark.parametrize("folder", ["absent", "."])
def test_cma_nothing_found(tmp_path, folder):
    """An empty or absent folder is named, with the models that were asked for; nothing is written."""
    done = run_script("cma.py", "--results", tmp_path / folder, "--output", tmp_path / "output", "--nz=2")
    check_refused(done, "no results", tmp_path / folder, "--nz=2")
    assert not (tmp_path / "output").exists()


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
    with pytest.raises((UserError, FileNotFoundError)) as error:
        results.load([tmp_path])
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
    assert f"error: cannot write {tmp_path / 'file' / 'plots'}" in done.stderr.splitlines()[-1]


def test_savings(tmp_path):
    """The difference of two results, with the paper's numbers next to it; one latent layer is not on the log axis."""
    save_both(tmp_path, "cifar", 1, images=100)
    save_both(tmp_path, "cifar", 2, images=100)
    save_both(tmp_path, "cifar", 4, images=20)
    loaded = results.load([tmp_path])
    ours = cma.savings({m: {s: results.numbers(each) for s, each in curves.items()} for m, curves in loaded.items()})
    for nz in (1, 2):
        assert ours["cifar", nz] == pytest.approx([6, 0.6, 0.06])
    assert ours["cifar", 4] == pytest.approx([6, 0.6, np.nan], nan_ok=True)
    papers = cma.savings(results.published())
    assert papers["mnist", 8][2] == pytest.approx(0.1853, abs=1e-4)
    (panel,) = cma.draw_savings(ours, papers).axes
    assert len({line.get_color() for line in panel.lines}) == 4
    lines = {line.get_label(): line for line in panel.lines}
    assert {"after 1 image", "paper"} <= set(lines)
    np.testing.assert_array_equal(lines["after 1 image"].get_xdata(), [2, 4])
    assert panel.get_yscale() == "log" and panel.get_ylim()[0] > 0
    assert panel.get_title() == "CIFAR-10"


def test_savings_without_results_of_both_schemes(tmp_path):
    rates = np.full((2, 60), 4.0)
    save_result(tmp_path / "cifar8", "bitswap", rates, rates, 3072, 3072)
    done = run_script("cma.py", "--savings", "--results", tmp_path, "--output", tmp_path)
    check_refused(done, "no results of both schemes", tmp_path)
