"""The model against numbers computed with the paper's own code (tests/golden)."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, small_model

from model.vae import PRECISIONS, Model, architecture, for_inference, log_likelihoods
from utils.colour import add_green, subtract_green
from utils.torch.modules import WnConv2d, fold_weight_norm, init_mode, update_ema

GOLDEN = ROOT / "tests" / "golden"
SHAPES = json.loads((GOLDEN / "state_dict_shapes.json").read_text())
CONFIGURATIONS = ["mnist_nz2", "cifar_nz4", "imagenetcrop_nz4"]


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(value) for key, value in file.items()}


def golden_model(vectors):
    prefix = "param/"
    return Model.from_state_dict({k[len(prefix) :]: v for k, v in vectors.items() if k.startswith(prefix)})


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("prepare", [lambda model: model, fold_weight_norm], ids=["as trained", "folded"])
@torch.no_grad()
def test_networks_equal_the_papers(name, prepare):
    vectors = golden(name)
    model = prepare(golden_model(vectors))
    for i in range(model.nz):
        below, above = vectors["x" if i == 0 else f"z/{i - 1}"], vectors[f"z/{i}"]
        for kind, outputs in (("infer", model.infer(i, below)), ("generate", model.generate(i, above))):
            for part, ours in zip(("mu", "scale"), outputs, strict=True):
                assert_close(ours, vectors[f"{kind}/{i}/{part}"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_likelihoods_equal_the_papers(name):
    vectors = golden(name)
    samples = iter(vectors["loss/zsamples"])
    terms = log_likelihoods(golden_model(vectors), vectors["x"], sample=lambda mu, scale: next(samples))
    for term, kind in zip(terms, ("logrecon", "logdec", "logenc"), strict=True):
        batch_axis = 0 if kind == "logrecon" else 1
        assert_close(term.mean(batch_axis), vectors[f"loss/{kind}"])


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_architecture_is_read_off_the_state_dict(name):
    vectors = golden(name)
    config = json.loads(bytes(vectors["config"].numpy()))
    found = architecture(golden_model(vectors).state_dict())
    assert found.pop("conditional_scale") == (config.pop("dataset") == "imagenetcrop")
    assert not found.pop("colour_transform")
    assert {key: list(value) if key == "xs" else value for key, value in found.items()} == config


@pytest.mark.parametrize("name", SHAPES)
def test_published_checkpoints_fit(name):
    published = SHAPES[name]["state_dict"]
    parameters = torch.zeros(1)
    model = Model.from_state_dict({key: parameters.expand(shape) for key, shape in published.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published
    assert sum(p.numel() for p in model.parameters()) == SHAPES[name]["parameters"]
    assert f"nz{model.nz}" == name.split("_")[1]


@pytest.mark.parametrize("nz", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("option", [{}, {"conditional_scale": True}, {"colour_transform": True}], ids=str)
def test_state_dict_round_trip(nz, option):
    model = small_model(nz, xs=(3, 32, 32), zchannels=2, **option)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = Model.from_state_dict(torch.load(file, weights_only=True))
    x = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(copy.to_levels(x), model.to_levels(x))
    assert torch.equal(copy.infer(0, x)[0], model.infer(0, x)[0])


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy], ids=["NumPy", "PyTorch"])
def test_colour_transform_is_reversible(library):
    levels = np.arange(256, dtype=np.uint8)
    pixels = library(np.stack(np.meshgrid(levels, levels[::5], levels, indexing="ij")).reshape(3, 256, -1))
    transformed = subtract_green(pixels)
    assert transformed[:, 200, 77 * 4].tolist() == [
        (int(pixels[0, 200, 308]) - int(pixels[1, 200, 308]) + 128) % 256,
        int(pixels[1, 200, 308]),
        (int(pixels[2, 200, 308]) - int(pixels[1, 200, 308]) + 128) % 256,
    ]
    assert (add_green(transformed) == pixels).all()


@pytest.mark.parametrize("damage", ["rename", "drop", "reshape", "foreign", "extra"])
def test_foreign_state_dicts_are_refused(damage):
    state = small_model().state_dict()
    if damage == "rename":
        state["infer_in.1.w"] = state.pop("infer_in.1.v")
    elif damage == "drop":
        del state["gen_mu.0.gain"]
    elif damage == "reshape":
        state["infer_mu.v"] = torch.zeros(5)
    elif damage == "foreign":
        state = {"layer1.weight": torch.zeros(3, 3)}
    else:
        state["another"] = torch.zeros(1)
    with pytest.raises(ValueError, match="not the parameters of a Bit-Swap model"):
        Model.from_state_dict(state)


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


@torch.no_grad()
def test_bodies_in_bfloat16_between_first_and_last_layers_in_float32():
    model = small_model(2, zchannels=2)
    x, z = torch.randint(0, 256, (5, *model.xs)), torch.randn(5, *model.zs)
    plain, short = (for_inference(model, precision) for precision in PRECISIONS)
    types = {name.partition(".")[0].rpartition("_")[2]: p.dtype for name, p in short.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == torch.bfloat16} == {"res", "res0", "res1"}
    for i in range(2):
        for ours, theirs in ((short.infer(i, z if i else x), plain.infer(i, z if i else x)),
                             (short.generate(i, z), plain.generate(i, z))):  # fmt: skip
            for a, b in zip(ours, theirs, strict=True):
                assert a.dtype == torch.float32
                torch.testing.assert_close(a, b, rtol=0.02, atol=0.02 * b.abs().max().item())
        assert not torch.equal(short.infer(i, z if i else x)[0], plain.infer(i, z if i else x)[0])


def test_ema_weighs_the_old_value_by_the_decay():
    average, model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(model.weight, 2.0)
    update_ema(average, model, step=10**6, decay=0.999)
    assert average.weight.item() == pytest.approx(0.999 * 1 + 0.001 * 2)
    update_ema(average, model, step=1, decay=0.999)
    assert average.weight.item() == pytest.approx(1.001 * 2 / 11 + 2 * 9 / 11)
