"""The benchmark scripts run and write what they say. Their times are not tested."""

import csv

import pytest
from conftest import ROOT, assert_one_line_error, photograph, run_script
from PIL import Image

SCRIPTS = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in ("common", "published_side")]


def read(output, name):
    """The rows of a table that a benchmark has written."""
    with open(output / "benchmarks" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The folder with the tables of compression.py and coder.py."""
    output = tmp_path_factory.mktemp("output")
    for name in ("compression", "coder"):
        run_script(f"benchmarks/{name}.py", "--quick", "--output", output, check=0)
    return output


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_benchmark_does(script):
    shown = run_script(f"benchmarks/{script}.py", "--help", check=0).stdout
    assert shown.startswith("usage: ") and "OUTPUT/benchmarks/" in shown


def test_each_time_of_compression_is_the_sum_of_its_parts(tables):
    rows = read(tables, "compression")
    expected = [("mnist1", lanes, form) for lanes in ("1", "2") for form in ("float32", "bfloat16", "exact")]
    assert [(row["model"], row["lanes"], row["form"]) for row in rows] == expected
    for row in rows:
        for what in ("encode", "decode"):
            total = float(row[f"{what} ms"])
            parts = [float(row[f"{what} {part}"]) for part in ("network", "coder", "rest")]
            assert sum(parts) == pytest.approx(total) and min(parts) > 0
            assert float(row[f"{what} x"]) == pytest.approx(total / float(row["forward ms"]))


def test_compression_times_the_models_that_ship(tmp_path):
    flags = "--shipped", "--quick", "--forms", "float32", "--output", tmp_path
    run_script("benchmarks/compression.py", *flags, check=0)
    assert [(row["model"], row["lanes"]) for row in read(tmp_path, "compression")] == [("mnist1", "1"), ("mnist1", "2")]


def test_the_coder_codes_at_the_information_content(tables):
    rows = [row for row in read(tables, "coder") if row["coder"] == "ours"]
    assert [row["lanes"] for row in rows] == ["1", "10"]
    for row in rows:
        assert float(row["bits/symbol"]) == pytest.approx(float(row["exact bits/symbol"]), abs=2e-3)


def test_the_network_needs_a_part_of_a_training_step(tmp_path):
    run_script("benchmarks/training.py", "--quick", "--output", tmp_path, check=0)
    (row,) = read(tmp_path, "training")
    assert (row["dataset"], row["nz"], row["processes"]) == ("mnist", "8", "1")
    assert float(row["network %"]) > 0 and float(row["images/s"]) == pytest.approx(4 * float(row["steps/s"]))


def test_a_depth_without_published_width_is_refused(tmp_path):
    done = run_script("benchmarks/training.py", "--nz=3", "--output", tmp_path)
    assert_one_line_error(done, "1, 2, 4, 8")


def test_photographs_are_compared_and_grey_images_skipped(tmp_path):
    (tmp_path / "images").mkdir()
    for mode in ("RGB", "L"):
        Image.new(mode, (30, 20), 7).save(tmp_path / "images" / f"{mode}.png")
    run_script("benchmarks/photographs.py", tmp_path / "images", "--output", tmp_path, check=0)
    rows = read(tmp_path, "photographs")
    assert [row["image"] for row in rows] == ["RGB.png", "mean of 1"]
    assert [path.name for path in (tmp_path / "benchmarks").iterdir()] == ["photographs.csv"]
    assert 0 < float(rows[0]["adapting"]) == float(rows[1]["adapting"]) < 8


def test_rates_and_times_of_coders_of_photographs(tmp_path):
    (tmp_path / "images").mkdir()
    for i, size in enumerate([(260, 300), (256, 256), (255, 400)]):
        Image.fromarray(photograph(*size, i)).save(tmp_path / "images" / f"{i}.png")
    flags = tmp_path / "images", "--output", tmp_path, "--quick", "--photographs"
    run_script("benchmarks/rate_time.py", *flags, 2, check=0)
    rows = read(tmp_path, "rate_time")
    assert [row["coder"] for row in rows[:4]] == ["context network", "context network", "PNG", "WebP"]
    assert all(0 < float(row["bits/dim"]) < 9 and float(row["decode us"]) > 0 for row in rows)
    assert (tmp_path / "benchmarks" / "rate_time.png").read_bytes().startswith(b"\x89PNG")
    assert_one_line_error(run_script("benchmarks/rate_time.py", *flags, 3), "holds 2 RGB photographs of 256 pixels")


def test_the_chart_is_a_png_file(tables):
    run_script("benchmarks/chart.py", "--output", tables, check=0)
    assert (tables / "benchmarks" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_table_is_named(tmp_path):
    assert_one_line_error(run_script("benchmarks/chart.py", "--output", tmp_path), "benchmarks/compression.py")


def test_a_folder_without_the_published_code_is_refused(tmp_path):
    done = run_script("benchmarks/published.py", tmp_path, "--quick", "--output", tmp_path)
    assert_one_line_error(done, tmp_path, "mnist_compress.py", "github.com/fhkingma/bitswap")
