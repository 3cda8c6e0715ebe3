"""scripts/keep_results.py."""

import numpy as np
import torch
from conftest import run_script
from result_files import save_both, save_model

import stackplot
from utils import results


def test_results_are_kept_as_they_are(tmp_path):
    """keep_results.py copies arrays and curves; what is drawn of them is the same."""
    save_both(tmp_path / "plots", "mnist", 4)
    save_model(tmp_path / "plots" / "mnist4", 4)
    made = [tmp_path / "plots" / "mnist4" / name for name in ("bitswap_10bits_made.csv", "made.csv")]
    for path in made:
        results.write_made(path, results.describe_maker(torch.device("cpu")))
    run_script("scripts/keep_results.py", tmp_path / "plots", "--to", tmp_path / "kept", check=0)
    assert all((tmp_path / "kept" / "mnist4" / path.name).read_text() == path.read_text() for path in made)
    kept, original = results.load([tmp_path / "kept"]), results.load([tmp_path / "plots"])
    for scheme in results.SCHEMES:
        np.testing.assert_allclose(kept["mnist", 4][scheme].cmas, original["mnist", 4][scheme].cmas, rtol=1e-6)
    np.testing.assert_array_equal(
        stackplot.load(tmp_path / "kept" / "mnist4", 4)[1], stackplot.load(tmp_path / "plots" / "mnist4", 4)[1]
    )
