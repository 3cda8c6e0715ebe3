"""Weight normalisation, its initialisation and its folding, and the average of the weights."""

import numpy as np
import pytest
import torch
from conftest import ROOT, small_model

from utils.torch.modules import WnConv2d, fold_weight_norm, init_mode, update_ema

GOLDEN = ROOT / "tests" / "golden"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(value) for key, value in file.items()}


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("case", range(4))
def test_data_dependent_initialisation_equals_the_papers(case):
    vectors = golden("wnconv2d_init")

    def get(name):
        return vectors[f"{case}/{name}"]

    out_channels, in_channels, k, _ = get("v").shape
    conv = WnConv2d(in_channels, out_channels, k, get("init_scale").item(), bool(get("loggain")))
    conv.v.data = get("v")
    with torch.no_grad():
        assert_close(conv(get("x")), get("before"))
        with init_mode():
            assert_close(conv(get("x")), get("after"))
        assert_close(conv(get("x")), get("after"))
    assert_close(conv.gain.detach(), get("gain"))
    assert_close(conv.b.detach(), get("b"))


def test_folding_leaves_the_original_alone():
    model = small_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_weight_norm(model)
    assert not any(isinstance(module, WnConv2d) for module in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_ema_weighs_the_old_value_by_the_decay():
    average, model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(model.weight, 2.0)
    update_ema(average, model, step=10**6, decay=0.999)
    assert average.weight.item() == pytest.approx(0.999 * 1 + 0.001 * 2)
    update_ema(average, model, step=1, decay=0.999)
    assert average.weight.item() == pytest.approx(1.001 * 2 / 11 + 2 * 9 / 11)
