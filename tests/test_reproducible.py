"""What the networks' rounding may depend on, and what it may not: lanes coded together decode together."""

import numpy as np
import pytest
import torch
from conftest import small_model
from test_bitsback import bins_for, random_words

from codec import bitsback
from codec.conditionals import Conditionals, FloatNetwork
from codec.rans import Rans
from model.vae import for_inference
from utils.cli import PRECISIONS


@pytest.fixture(params=[1, 2])
def threads(request):
    """Run with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("scheme", bitsback.SCHEDULES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lanes_coded_together_decode_together(threads, scheme, channels, precision):
    """The batch shrinks as chains end, down to one lane; the decoder meets the same batches in reverse."""
    model = for_inference(small_model(2, xs=(channels, 32, 32), zchannels=2), precision)
    conditional, schedule = Conditionals(FloatNetwork(model), bins_for(model, 10)), bitsback.SCHEDULES[scheme](2)
    rng = np.random.default_rng(0)
    lengths = [4, 3, 3, 1, 1]
    chains = [rng.integers(0, 256, (length, *model.xs), np.uint8) for length in lengths]
    initial = random_words(rng, len(chains), 1200)
    coder = Rans.from_words(initial)
    bitsback.encode_chains(schedule, coder, conditional, chains)
    coder = Rans.from_words(coder.to_words())
    for decoded, chain in zip(bitsback.decode_chains(schedule, coder, conditional, lengths), chains, strict=True):
        np.testing.assert_array_equal(decoded, chain)
    np.testing.assert_array_equal(coder.to_words(), initial)


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_the_same_batch_rounds_the_same_way(threads, precision):
    """Twice the same call gives the same bits, whatever was called in between and however memory lies."""
    model = for_inference(small_model(2, zchannels=2), precision)
    x, z = torch.randint(0, 256, (7, *model.xs)), torch.randn(7, *model.zs)

    def outputs(x, z):
        return [part for i in range(2) for part in (*model.infer(i, z if i else x), *model.generate(i, z))]

    first = outputs(x, z)
    outputs(x[:3], z[:3])
    offset = torch.empty(z.numel() + 1)[1:].view(z.shape).copy_(z)  # off the alignment of a new array
    for a, b in zip(first, outputs(x.clone(), offset), strict=True):
        assert torch.equal(a, b)
