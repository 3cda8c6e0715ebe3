"""The arrays of small images, and the choice of test images."""

import numpy as np
import pytest

from utils import datasets
from utils.errors import UserError


def test_sample_chains():
    chains = datasets.sample_chains(50, 5, 10, 100)
    np.testing.assert_array_equal(chains, np.random.RandomState(100).choice(50, (5, 10), replace=False))
    assert len(np.unique(chains)) == 50
    with pytest.raises(UserError, match=r"--experiments=6 --ndatapoints=10.*60.*50"):
        datasets.sample_chains(50, 6, 10, 100)
