"""The context network: the compiled one computes what PyTorch's does, whatever it looks at; its files; its mixture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture_of, small_network, torch_network

from model.context import adaptation, data, mixture
from model.context.arithmetic import exp, log
from model.context.features import PAD, PERIOD, UNKNOWN
from model.context.mixture import SYMBOLS, cumulative_frequency
from model.context.network import make_scratch, note_colour, run_head, run_trunk
from model.context.weights import (
    KNOWN,
    LAYOUT,
    MAX_UNIT,
    NAME,
    UNIT_BITS,
    K,
    Weights,
    check,
    load,
    open_network,
    round_layer,
    save,
)
from utils.errors import UserError


def surroundings(kind, height=12, width=20, seed=0):
    """A generated image, prepared for training."""
    return data.prepare(picture_of(kind, height, width, "RGB", seed).pixels)


def describe(picture, row, column, block_row, grid, weights, s):
    """Run the trunk for a pixel, given the predictions by least squares and their errors around it."""
    s.least[0] = picture.least[row - PAD, column - PAD] / np.float32(64)
    data.errors_around(*picture, row, column, s.missed[0])
    run_trunk(picture.planes, row, column, 1, block_row, grid, weights, s)


def compiled_outputs(picture, row, column, block_row, grid, weights):
    """(inputs, centre, spread, least, each colour's point [3] and outputs [3, OUTPUTS]), as the codec computes them."""
    s = make_scratch()
    describe(picture, row, column, block_row, grid, weights, s)
    points, outputs = [], []
    for c in range(3):
        points.append(run_head(0, c, weights, s))
        outputs.append(s.outputs[0].copy())
        note_colour(0, c, picture.planes[c, row, column], s)
    return s.inputs[0], s.centre[0], s.spread[0], s.least[0], np.array(points), np.array(outputs)


def rounded_network():
    """torch_network() with weights of the trunk that need no rounding, so that only its units are rounded."""
    network = torch_network()
    with torch.no_grad():
        for name in ("first", "residual", "first_bias", "residual_bias", "position"):
            parameter = getattr(network, name)
            parameter.copy_(torch.round(parameter * 2**7) / 2**7)
    return network


@pytest.mark.parametrize("kind", ["noise", "constant", "gradient", "mild"])
@pytest.mark.parametrize("blocks", [True, False])
def test_compiled_and_pytorch_agree(kind, blocks):
    """One definition of the features, two of the network."""
    picture, network = surroundings(kind), rounded_network()
    weights, _ = check(network.weights())
    for row, column in ((PAD + 1, PAD), (PAD + 5, PAD + 9), (PAD + 11, PAD + 19)):
        y, x = ((row - PAD) % PERIOD, (column - PAD) % PERIOD) if blocks else (UNKNOWN, UNKNOWN)
        found = compiled_outputs(picture, row, column, y, int(blocks), weights)
        inputs, centre, spread, least, points, outputs = found
        position = np.zeros(2 * (PERIOD + 1), np.float32)
        position[[y, PERIOD + 1 + x]] = 1
        features = torch.from_numpy(np.concatenate((inputs, position)))[None]
        seen, least = (
            torch.from_numpy((each - centre) / spread)[None] for each in (picture.planes[:, row, column], least)
        )
        with torch.no_grad():
            expected_points, expected = network(features, seen, least)
        scale = 1 + expected.abs().max().item()
        np.testing.assert_allclose(points, expected_points[0], atol=0.004 * scale)
        np.testing.assert_allclose(outputs, expected[0], atol=0.004 * scale)


def test_the_mixture_costs_what_training_counts():
    """The integer cumulative frequencies against the float code length: under 0.002 bits a pixel."""
    network = torch_network()
    weights, _ = check(network.weights())
    picture, s = surroundings("mild", 80, 90), make_scratch()
    corners = [(PAD + 1, PAD), (PAD + 30, PAD + 41), (PAD + 72, PAD + 74), (PAD + 5, PAD + 60)]
    with torch.no_grad():
        expected = network.bits(*data.describe([(picture, *corner, 1) for corner in corners], *data.TILE)).numpy()
    got = []
    for top, left in corners:
        for row in range(top, top + data.TILE[0]):
            for column in range(left, left + data.TILE[1]):
                describe(picture, row, column, (row - PAD) % PERIOD, 1, weights, s)
                for c in range(3):
                    mixture.fill_mixture(0, c, run_head(0, c, weights, s), s)
                    x = int(picture.planes[c, row, column])
                    freq = cumulative_frequency(x + 1, s) - cumulative_frequency(x, s)
                    got.append(mixture.PRECISION - np.log2(freq))
                    note_colour(0, c, x, s)
    got = np.reshape(got, (-1, 3))
    np.testing.assert_allclose(got, expected, atol=0.04)
    assert abs(got.sum(1).mean() - expected.sum(1).mean()) < 0.002


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3 * K, max_size=3 * K), st.floats(0.6, 300),
    st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-300, 600), st.integers(0, 2),
)  # fmt: skip
def test_cumulative_frequencies_rise(outputs, spread, point, centre, c):
    """From 0 to the whole, by at least 1 a grey level, whatever a head says."""
    s = make_scratch()
    s.outputs[0, : 3 * K], s.centre[0], s.spread[0] = outputs, centre, spread
    mixture.fill_mixture(0, c, np.float32(point), s)
    found = [cumulative_frequency(x, s) for x in range(SYMBOLS + 1)]
    assert found[0] == 0 and found[-1] == 1 << mixture.PRECISION
    assert np.diff(found).min() >= 1
    costs = mixture.PRECISION - np.log2(np.diff(found))
    assert costs.min() >= mixture.LEAST_BITS and costs.max() < 16.01


@pytest.mark.parametrize("scale", [-7.5, -2, 0, 3])
def test_a_single_component_is_a_logistic(scale):
    """Beside the uniform distribution."""
    s, spread = make_scratch(), np.float32(2.5)
    s.outputs[0, :K] = [20, -80, -80, -80, -80]
    s.outputs[0, 2 * K : 3 * K] = scale
    s.centre[0, 1], s.spread[0] = 100.25, spread
    mixture.fill_mixture(0, 1, np.float32(0), s)
    edges = np.arange(1, SYMBOLS) - 0.5
    expected = 1 / (1 + np.exp(np.clip((100.25 - edges) / (spread * np.exp(scale)).astype(np.float64), -99, 99)))
    expected = expected * (1 - mixture.UNIFORM) + mixture.UNIFORM * np.arange(1, SYMBOLS) / SYMBOLS
    found = [cumulative_frequency(x, s) / 2**mixture.PRECISION for x in range(1, SYMBOLS)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(st.floats(-80, 80, width=32))
def test_exp(x):
    np.testing.assert_allclose(exp(np.float32(x)), np.exp(np.float64(np.float32(x))), rtol=2e-6)


@given(st.floats(2.0**-120, 2.0**120, width=32))
def test_log(x):
    np.testing.assert_allclose(log(np.float32(x)), np.log(np.float64(np.float32(x))), rtol=1e-6, atol=2e-7)


def test_arithmetic_is_that_of_these_numbers():
    """Golden bits: a machine on which one differs decodes nothing. Of numbers that round in each operation."""
    values = np.float32([0.001, 0.3, 1, 2.7182817, 77.77, 12345.678])
    found = [int(np.float32(log(v)).view(np.int32)) for v in values]
    found += [int(np.float32(exp(v)).view(np.int32)) for v in np.float32([-30.3, -1.1, 0, 0.7, 20])]
    assert found == GOLDEN
    weights, picture = golden_weights(), surroundings("gradient")
    *_, points, outputs = compiled_outputs(picture, PAD + 7, PAD + 8, 7, 1, weights)
    assert [int(bits) for bits in points.astype(np.float32).view(np.int32)] == GOLDEN_POINTS
    assert int(outputs.astype(np.float32).view(np.int32).astype(np.int64).sum()) == GOLDEN_OUTPUTS


def golden_weights():
    """Weights by integer arithmetic alone."""
    arrays = []
    for n, (shape, dtype) in enumerate(LAYOUT):
        k = np.arange(np.prod(shape), dtype=np.int64) + 7919 * n
        values = (k * 2654435761 >> 9) % 2001 - 1000
        scale = {np.int16: 0.5, np.int32: 256.0, np.float32: 1 / 4096}[dtype]
        arrays.append((values * scale).astype(dtype).reshape(shape))
    arrays[1][:], arrays[6][:] = 14, 12
    return check(Weights(*arrays))[0]


GOLDEN = [
    -1059255211,
    -1080419384,
    0,
    1065353216,
    1082872312,
    1092009131,
    698096129,
    1051356692,
    1065353216,
    1073799507,
    1307007044,
]
GOLDEN_POINTS = [1050477680, -1096996800, 1096218680]
GOLDEN_OUTPUTS = -2117009782


@pytest.mark.parametrize("c", range(3))
def test_gradients(c):
    """Of the code length by the heads' weights: those written out against PyTorch's."""
    network, picture = rounded_network(), surroundings("mild")
    planes = picture.planes
    weights, _ = check(network.weights())
    a = adaptation.start_adaptation(weights)
    adapted, gradients = a.weights, a.gradients
    row, column = PAD + 6, PAD + 7
    s = make_scratch()
    describe(picture, row, column, UNKNOWN, 0, adapted, s)
    for colour in range(3):
        mixture.fill_mixture(0, colour, run_head(0, colour, adapted, s), s)
        if colour == c:
            adaptation.add_colour_gradient(c, int(planes[c, row, column]), s.spread[0], s, a)
        note_colour(0, colour, planes[colour, row, column], s)
    adaptation.adapt_after_pixel(0, s, a)
    adaptation.sum_gradients(a)
    position = np.zeros(2 * (PERIOD + 1), np.float32)
    position[[PERIOD, 2 * PERIOD + 1]] = 1
    inputs = torch.from_numpy(np.concatenate((s.inputs[0], position)))[None]
    pixel = torch.from_numpy(planes[:, row, column].astype(np.float32))[None]
    least = torch.from_numpy(s.least[:1])
    bits = network.bits(inputs, torch.from_numpy(s.centre[:1]), torch.from_numpy(s.spread[:1]), pixel, least)[0, c]
    (bits * np.log(2)).backward()
    for name in ("head_in", "head_bias", "head_out", "head_out_bias"):
        expected = getattr(network, name).grad.numpy()
        np.testing.assert_allclose(getattr(gradients, name), expected, atol=8e-3 * np.abs(expected).max(), rtol=1e-2)
    seen = (network.head_seen.grad * network.later[..., None]).reshape(KNOWN, -1).numpy()
    np.testing.assert_allclose(gradients.head_seen, seen, atol=2e-3 * np.abs(expected).max(), rtol=1e-2)


def test_a_step_is_adams():
    weights = small_network().weights
    a = adaptation.start_adaptation(weights)
    adapted, gradients = a.weights, a.gradients
    assert all((getattr(adapted, name) == getattr(weights, name)).all() for name in Weights._fields)
    parameter = torch.nn.Parameter(torch.from_numpy(a.flat[0].copy()))
    optimiser = torch.optim.Adam([parameter], lr=0.0, eps=1e-4)
    rng = np.random.default_rng(0)
    for i in range(70):
        optimiser.param_groups[0]["lr"] = float(adaptation.RATE) * min(1, (i + 1) / float(adaptation.WARM_UP))
        gradient = rng.normal(size=len(a.flat[0])).astype(np.float32)
        a.flat[1][:] = 64 * gradient
        adaptation.take_adam_step(64, a)
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
    np.testing.assert_allclose(a.flat[0], parameter.detach(), atol=1e-6)
    assert not a.flat[1].any()
    assert np.shares_memory(adapted.head_in, a.flat[0]) and np.shares_memory(gradients.head_in, a.flat[1])


def test_files(tmp_path):
    network, path = small_network(), tmp_path / "context.npz"
    save(path, network.weights, steps=3)
    weights, identity = load(path)
    assert identity == network.identity and all(map(np.array_equal, weights, network.weights))
    assert open_network(path, identity).identity == identity
    with pytest.raises(UserError, match="requires the context network"):
        open_network(path, "00" * 8)
    with pytest.raises(UserError, match=r"absent\.npz.*model/context_train\.py cifar"):
        open_network(tmp_path / "absent.npz", dataset="cifar")
    for wrong in (
        network.weights._replace(first=network.weights.first[:-1]),
        network.weights._replace(first=np.full_like(network.weights.first, 1 << 14)),
        network.weights._replace(residual_bias=np.full_like(network.weights.residual_bias, -(1 << 31))),
        network.weights._replace(first_shift=np.zeros_like(network.weights.first_shift)),
        network.weights._replace(head_bias=network.weights.head_bias.astype(np.float64)),
        network.weights._replace(head_bias=np.full_like(network.weights.head_bias, np.nan)),
        network.weights._replace(head_bias=np.full_like(network.weights.head_bias, 1e4)),
    ):
        save(path, wrong)
        with pytest.raises(UserError, match=r"context\.npz: "):
            load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="corrupt"):
        load(path)


def test_the_order_of_bytes_in_a_file_is_not_the_machines():
    network = small_network()
    other = Weights(*(array.astype(array.dtype.newbyteorder()) for array in network.weights))
    weights, identity = check(other)
    assert identity == network.identity and all(map(np.array_equal, weights, network.weights))
    assert all(array.dtype.isnative for array in weights)


def test_a_network_trained_here_is_said_to_be_used(tmp_path, capsys):
    path = tmp_path / "model" / "params" / "imagenetcrop" / NAME
    _, shipped = open_network(output=tmp_path)
    assert capsys.readouterr().out == ""
    save(path, small_network().weights)
    assert open_network(output=tmp_path).identity == small_network().identity
    assert str(path) in capsys.readouterr().out
    assert open_network(wanted=shipped, output=tmp_path).identity == shipped
    assert capsys.readouterr().out == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1e-3, 0.1, 1.0, 30.0]))
def test_a_rounded_layer_never_overflows_and_is_fine(seed, size):
    """Sums within 31 bits for the worst inputs, and as good as 1 part in 2,000 of the largest weight of a row."""
    rng = np.random.default_rng(seed)
    rows, bias = rng.normal(0, size, (5, 96)) * rng.choice([0.01, 1, 4], (5, 1)), rng.normal(0, size, 5)
    whole, shift, (added,) = round_layer(rows, [bias], MAX_UNIT, UNIT_BITS)
    assert (np.abs(whole.astype(np.int64)).sum(1) * MAX_UNIT + np.abs(added)).max() < 1 << 31
    step = 2.0 ** -(shift + UNIT_BITS - UNIT_BITS)
    np.testing.assert_allclose(whole * step[:, None], rows, atol=max(step.max(), np.abs(rows).max() / 2000))
    np.testing.assert_allclose(added * step / 2**UNIT_BITS, bias, atol=step.max())
