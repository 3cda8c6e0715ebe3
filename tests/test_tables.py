"""Tables as CSV files."""

import csv
import os

import pytest

from utils import tables


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.csv"
    name = os.fsdecode(b'gr\xc3\xbcn, "latin\xfc"')  # with bytes that are not UTF-8
    assert tables.write_csv(path, ("name", "rate"), [(name, 1.5), ("b", None)]) == path
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [["name", "rate"], [name, "1.5"], ["b", ""]]

    def broken():
        yield ("c", 1)
        raise ValueError

    before = path.read_bytes()
    with pytest.raises(ValueError):
        tables.write_csv(path, ("name", "rate"), broken())
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
