"""The results that ship."""

import numpy as np

from utils import results


def test_what_ships_shows_the_papers_story():
    """BB-ANS's first image costs more with every layer, Bit-Swap's does not; and MNIST's net rate is its ELBO."""
    models = results.load([results.SHIPPED])
    for dataset in ("mnist", "cifar", "imagenet"):
        depths = results.DEPTHS[dataset]
        first = {s: [models[dataset, nz][s].cmas[:, 0].mean() for nz in depths] for s in results.SCHEMES}
        steps = np.diff(first["bbans"]) / np.diff(depths)
        assert (steps > 0.8 * steps.mean()).all() and max(first["bitswap"]) == first["bitswap"][0]
        assert np.ptp(first["bitswap"][1:]) < 0.02 * first["bitswap"][1]
    for (dataset, _), curves in models.items():
        for result in curves.values():
            assert dataset != "mnist" or abs(result.nets.mean() - result.elbos.mean()) < 0.005
