"""Convolutions of integers: proved and checked to be exact, under settings that keep them so."""

import functools

import numpy as np
import pytest
import torch
from exact_reference import COLOUR, GREY, networks

from model import exact
from model.exact import ExactModel
from utils.errors import UserError
from utils.torch import integers


def test_settings_of_the_process_are_strict_inside_and_restored():
    conv, matmul = torch.backends.mkldnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        conv.fp32_precision, matmul.fp32_precision = "bf16", "tf32"
        with pytest.raises(ZeroDivisionError), integers.exact_arithmetic(torch.device("cpu")):
            assert conv.fp32_precision == matmul.fp32_precision == "ieee"
            assert not torch.backends.cudnn.enabled
            assert not torch._C._get_nnpack_enabled()
            _ = 1 / 0
        assert (conv.fp32_precision, matmul.fp32_precision) == ("bf16", "tf32")
        assert torch.backends.cudnn.enabled
        assert torch._C._get_nnpack_enabled()
    finally:
        conv.fp32_precision, matmul.fp32_precision = before


@pytest.mark.parametrize("kind", ["weights", "limit", "bias"])
def test_unprovable_networks_are_refused(kind):
    fields = networks(**GREY)[1].fields
    if kind == "weights":
        fields = fields._replace(weights=np.where(fields.weights > 0, 32767, -32767).astype(np.int16))
    elif kind == "limit":
        inputs = fields.inputs.copy()
        inputs[3, 2] *= 4
        fields = fields._replace(inputs=inputs)
    else:
        fields = fields._replace(biases=fields.biases + np.int32(integers.EXACT))
    with pytest.raises(ValueError, match="not proved exact"):
        ExactModel(fields)


def rounded(x):
    return x.bfloat16().float()


def winograd(convolve, x, weight, padding):
    """3x3 convolutions by the least of Winograd's algorithms, F(2x2, 3x3), in float32."""
    if weight.shape[-1] != 3:
        return convolve(x, weight, padding=padding)
    inputs = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    filters = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    outputs = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    tiles = torch.nn.functional.pad(x, [1, 1, 1, 1]).unfold(2, 4, 2).unfold(3, 4, 2)
    products = torch.einsum("oirs,bihwrs->bohwrs", filters @ weight @ filters.T, inputs @ tiles @ inputs.T)
    found = (outputs @ products @ outputs.T).transpose(3, 4)
    return found.reshape(*found.shape[:2], *x.shape[2:])


def test_winograd_convolves():
    x, weight = torch.randint(-9, 10, (1, 2, 16, 16)).float(), torch.randint(-9, 10, (3, 2, 3, 3)).float()
    expected = torch.nn.functional.conv2d(x, weight, padding=1)
    assert torch.equal(winograd(None, x, weight, 1), expected)


@pytest.mark.parametrize(
    "inexact",
    [
        lambda convolve, x, w, padding: convolve(x, rounded(w), padding=padding),
        lambda convolve, x, w, padding: convolve(rounded(x), w, padding=padding),
        lambda convolve, x, w, padding: convolve(x, w, padding=padding) * (1 + 2**-23),
        winograd,
    ],
    ids=["weights", "inputs", "sums", "Winograd"],
)
def test_inexact_convolutions_are_refused(inexact, tmp_path, monkeypatch):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(**COLOUR)[1])
    monkeypatch.setattr(integers.F, "conv2d", functools.partial(inexact, integers.F.conv2d))
    with pytest.raises(UserError, match="not exact on this machine"):
        exact.load(path)
