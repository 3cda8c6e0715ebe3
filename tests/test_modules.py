"""Weight normalisation, its initialisation and its folding, and the average of the weights."""

import numpy as np
import pytest
import torch
from conftest import ROOT, small_model

from utils.torch.modules import WnConv2d, elu, fold_weight_norm, init_mode, update_ema

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
    torch.nn.init.constant_(average.weight, 1.0)
    update_ema(average, model, step=1, decay=0.999, head_start=0)
    assert average.weight.item() == pytest.approx(1 / 11 + 2 * 10 / 11)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 4e-7), (torch.bfloat16, 2e-4)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("batch", [0, 1, 70])
def test_elu_and_its_gradient_are_those_of_pytorch(dtype, tolerance, layout, batch):
    torch.manual_seed(0)
    x = (4 * torch.randn(batch, 33, 16, 16)).to(dtype, memory_format=layout)
    x[:1, 0, 0, :8] = torch.tensor([0, -0.0, 1e-30, -1e-30, -200, 200, torch.inf, -torch.inf])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    gradient = torch.randn_like(x)
    ours_out, theirs_out = elu(ours), torch.nn.functional.elu(theirs)
    assert ours_out.dtype == dtype and (not batch or ours_out.is_contiguous(memory_format=layout))
    torch.testing.assert_close(ours_out, theirs_out, atol=tolerance, rtol=torch.finfo(dtype).eps)
    ours_out.backward(gradient)
    theirs_out.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=4 * tolerance, rtol=torch.finfo(dtype).eps)


def test_elu_passes_on_what_is_no_number():
    assert elu(torch.tensor([torch.nan])).isnan().all() and elu(torch.tensor([torch.nan]).bfloat16()).isnan().all()
