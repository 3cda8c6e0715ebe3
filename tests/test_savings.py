"""savings.py on made-up results."""

import pytest
from result_files import save_both

import savings
from utils import results


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
