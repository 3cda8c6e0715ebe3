"""The benchmark scripts run and write what they say. What they measure is not tested."""

import csv
from itertools import product

import pytest
import torch
from conftest import assert_one_line_error, run_script
from PIL import Image

pytestmark = pytest.mark.xdist_group("benchmarks")  # they share what takes long


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """(the folder that the benchmarks have written to, the rows of each of their tables)."""
    output = tmp_path_factory.mktemp("output")
    rows = {}
    for name in ("compression", "coder", "memory", "rounding"):
        run_script(f"benchmarks/{name}.py", "--quick", "--output", output, check=0)
        with open(output / "benchmarks" / f"{name}.csv", newline="") as file:
            rows[name] = list(csv.DictReader(file))
    return output, rows


def test_compression(tables):
    rows = tables[1]["compression"]
    forms = "float32", "bfloat16", "exact"
    expected = [("mnist1", lanes, form) for lanes in ("1", "2") for form in forms]
    assert [(row["model"], row["lanes"], row["form"]) for row in rows] == expected
    for row in rows:
        for what in ("encode", "decode"):
            total = float(row[f"{what} ms"])
            assert float(row[f"{what} x"]) == pytest.approx(total / float(row["forward ms"]))
            network, *others = (float(row[f"{what} {part}"]) for part in ("network", "cdf", "rANS", "rest"))
            assert network + sum(others) == pytest.approx(total)
            assert network > 0 and any(others)  # the others are differences, which noise may make negative


def test_compression_with_the_models_that_ship(tmp_path):
    script = "benchmarks/compression.py", "--shipped", "--quick", "--forms", "float32", "--output", tmp_path
    assert "mnist1" in run_script(*script, check=0).stdout
    with open(tmp_path / "benchmarks" / "compression.csv", newline="") as file:
        assert [(row["model"], row["lanes"]) for row in csv.DictReader(file)] == [("mnist1", "1"), ("mnist1", "2")]


def test_coder(tables):
    rows = tables[1]["coder"]
    assert [row["lanes"] for row in rows if row["coder"] == "ours"] == ["1", "10"]
    for row in rows:
        if row["coder"] == "ours":
            assert float(row["bits/symbol"]) == pytest.approx(float(row["exact bits/symbol"]), abs=2e-3)


def test_memory(tables):
    rows = tables[1]["memory"]
    assert [row["what"] for row in rows] == ["bins", "experiment"]
    for row in rows:
        assert 0 < float(row["PyTorch MiB"]) < float(row["peak MiB"])


def test_rounding(tables):
    rows = tables[1]["rounding"]
    assert rows[0]["compared with"] == "the same again"
    assert rows[0]["identical"] == rows[0]["of"]


def test_photographs(tmp_path):
    (tmp_path / "images").mkdir()
    for mode in ("RGB", "L"):
        Image.new(mode, (30, 20), 7).save(tmp_path / "images" / f"{mode}.png")
    run_script("benchmarks/photographs.py", tmp_path / "images", "--output", tmp_path, check=0)
    with open(tmp_path / "benchmarks" / "photographs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["RGB.png", "mean of 1"]
    assert [path.name for path in (tmp_path / "benchmarks").iterdir()] == ["photographs.csv"]
    assert 0 < float(rows[0]["adapting"]) == float(rows[1]["adapting"]) < 8


def test_chart(tables):
    output = tables[0]
    run_script("benchmarks/chart.py", "--output", output, check=0)
    assert (output / "benchmarks" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_table_is_named(tmp_path):
    assert_one_line_error(run_script("benchmarks/chart.py", "--output", tmp_path), "benchmarks/compression.py")


def test_an_unknown_experiment_is_refused(tmp_path):
    done = run_script("benchmarks/memory.py", "--experiment", "mnist3", "1", "1", "--output", tmp_path)
    assert_one_line_error(done, "mnist2")


def test_precision(mnist, tmp_path):
    run_script(
        "benchmarks/precision.py", "--quick", "--dataset", "mnist", "--data", mnist, "--output", tmp_path, check=0
    )
    with open(tmp_path / "benchmarks" / "precision.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in rows] == [f"mnist_nz{nz}" for nz in (1, 2, 4, 8)]
    for row in rows:
        for form in ("bfloat16", "exact"):
            assert float(row[form]) == pytest.approx(float(row["float32"]), rel=0.01)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="8-bit convolutions are those of oneDNN")
def test_integers(mnist, tmp_path):
    command = "benchmarks/integers.py", "--quick", "--checkpoints=mnist_nz2", "--data", mnist, "--output", tmp_path
    run_script(*command, check=0)
    tables = {}
    for name in ("rate", "kernels", "time"):
        with open(tmp_path / "benchmarks" / f"integers_{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    (row,) = tables["rate"]
    assert row["checkpoint"] == "mnist_nz2" and row["images"] == "2"
    added = {form: float(row[f"{form} adds"]) for form in ("exact", "8 x 8", "15 x 8")}
    assert all(abs(bits) < 0.03 * float(row["float32"]) for bits in added.values())
    ours = next(row for row in tables["kernels"] if row["kernel"] == "onednn.qconv2d_pointwise")
    assert ours["7-bit weights"] == "exact"  # and with 8 bits, where the processor has VNNI
    expected = [("layer 4 3x3", form) for form in ("float32", "exact", "8 x 8", "15 x 8")]
    expected += [("mnist1", form) for form in ("float32", "exact", "8 x 8", "15 x 8 at x")]
    assert [(row["what"], row["form"]) for row in tables["time"]] == expected
    assert all((row["same"] == "yes") >= (ours["8-bit weights"] == "exact") for row in tables["time"] if row["same"])


def test_activation(tmp_path):
    run_script("benchmarks/activation.py", "--quick", "--output", tmp_path, check=0)
    with open(tmp_path / "benchmarks" / "activation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["width"], row["type"]) for row in rows] == list(product(("32", "63"), ("float32", "bfloat16")))
    assert all(float(row["differ by"]) < (1e-6 if row["type"] == "float32" else 0.01) for row in rows)


def test_latents(mnist, tmp_path):
    run_script("benchmarks/latents.py", "--quick", "--dataset=mnist", "--data", mnist, "--output", tmp_path, check=0)
    with open(tmp_path / "benchmarks" / "latents.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["nz"] for row in rows] == ["0", "1"] and [float(row["KL"]) > 0 for row in rows] == [False, True]


def test_published_code_has_to_be_there(tmp_path):
    done = run_script("benchmarks/published.py", tmp_path, "--quick", "--output", tmp_path)
    assert_one_line_error(done, tmp_path, "mnist_compress.py", "github.com/fhkingma/bitswap")
