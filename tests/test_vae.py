"""The model against numbers computed with the paper's own code (tests/golden)."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, small_model

from model.vae import Model, architecture, log_likelihoods, sample_latents
from utils.torch import rand
from utils.torch.modules import fold_weight_norm

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


def test_latents_are_drawn_down_the_generative_chain():
    model = small_model(3)
    with torch.no_grad():
        torch.manual_seed(0)
        drawn = list(sample_latents(model, 5))
        torch.manual_seed(0)
        z = rand.sample(torch.zeros(5, *model.zs), torch.ones(5, *model.zs))
        for i in (2, 1, 0):
            assert torch.equal(drawn.pop(0), z)
            if i:
                z = rand.sample(*model.generate(i, z))
    assert not drawn
