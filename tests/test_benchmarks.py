"""The benchmark scripts run and write what they say."""

import csv

from conftest import run_script


def test_compression(tmp_path):
    flags = ("--nz=1", "--lanes", "1", "2", "--repeats=1", "--scheme=bbans", "--output", tmp_path)
    done = run_script("benchmarks/compression.py", *flags, check=0)
    with open(tmp_path / "benchmarks" / "compression.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["nz"], row["scheme"], row["lanes"]) for row in rows] == [
        ("mnist", "1", "bbans", "1"),
        ("mnist", "1", "bbans", "2"),
    ]
    for row in rows:
        assert float(row["encode x"]) * float(row["forward ms"]) - float(row["encode ms"]) < 1e-6
        assert row["scheme"] in done.stdout
