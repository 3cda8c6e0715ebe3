"""The exact networks: equal to a reference in NumPy's integers, on every setting, and refused where not provable."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, SETTINGS
from exact_reference import COLOUR, GREY, Reference, assert_same, blobs, digest, networks, outputs, random_inputs

from model import exact
from model.exact import ExactModel
from utils.errors import UserError


@pytest.fixture(params=[GREY, COLOUR], ids=["grey", "colour"])
def pair(request):
    return networks(**request.param)


def test_equals_the_reference(pair):
    inputs = random_inputs(pair[1], 2)
    assert_same(outputs(pair[1], *inputs), Reference(pair[1].fields).outputs(*inputs))


def test_wild_inputs_equal_the_reference(pair):
    levels, latents = random_inputs(pair[1], 2)
    levels = levels.long()
    levels[0], levels[1, 0, 5] = 255, 10**6
    latents[0] = torch.where(latents[0] > 0, 2**62, -(2**62))
    latents[1, 0, 3:9] = torch.iinfo(torch.int64).min
    assert_same(outputs(pair[1], levels, latents), Reference(pair[1].fields).outputs(levels, latents))


def test_activations_at_the_limit_equal_the_reference():
    fields = networks(**GREY)[1].fields
    inputs = fields.inputs.copy()
    inputs[:, 2] = np.maximum(inputs[:, 2] // 8, 1)  # so that most layers clamp much
    tampered = ExactModel(fields._replace(inputs=inputs))
    inputs = random_inputs(tampered, 2)
    assert_same(outputs(tampered, *inputs), Reference(tampered.fields).outputs(*inputs))


@pytest.mark.parametrize("count", [1, 7, 32])
def test_batches_layouts_threads_and_backends_agree(pair, count, monkeypatch):
    model = pair[1]
    levels, latents = random_inputs(model, 32)
    expected = {n: t[:count] if t.dim() == 4 else t for n, t in outputs(model, levels, latents).items()}
    levels, latents = levels[:count], latents[:count]
    assert_same(outputs(model, levels, latents), expected)
    channels_last = (x.contiguous(memory_format=torch.channels_last) for x in (levels, latents))
    assert_same(outputs(model, *channels_last), expected)
    torch.set_num_threads(2)
    try:
        assert_same(outputs(model, levels, latents), expected)
    finally:
        torch.set_num_threads(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(outputs(model, levels, latents), expected)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not torch._C._get_mkldnn_enabled()
    assert_same(outputs(model, levels, latents), expected)


def test_levels_and_shapes_are_the_models():
    model, ours = networks(**COLOUR)
    assert (ours.xs, ours.zs, ours.nz) == (model.xs, model.zs, model.nz)
    pixels = blobs(2, 3).numpy()
    assert np.array_equal(ours.to_levels(pixels), model.to_levels(pixels))
    assert np.array_equal(ours.to_pixels(ours.to_levels(pixels)), pixels)


def test_file_round_trip(pair, tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, pair[1])
    copy = exact.load(path)
    assert copy.fields.checkpoint == "0123456789abcdef"
    assert copy.identity == pair[1].identity
    assert copy.fields.architecture == pair[1].fields.architecture
    inputs = random_inputs(copy, 3)
    assert_same(outputs(copy, *inputs), outputs(pair[1], *inputs))


def damage_header(fields, **changes):
    parts = {"format": exact.FORMAT, "architecture": fields.architecture, "checkpoint": fields.checkpoint}
    return {"header": json.dumps(parts | changes)}


DAMAGES = {
    "newer": lambda f: damage_header(f, format=exact.FORMAT + 1),
    "no architecture": lambda f: damage_header(f, architecture=None),
    "another likelihood": lambda f: damage_header(f, architecture=f.architecture | {"likelihood": "context"}),
    "odd sides": lambda f: damage_header(f, architecture=f.architecture | {"xs": [1, 31, 31]}),
    "wider": lambda f: damage_header(f, architecture=f.architecture | {"reswidth": 4096}),
    "deeper": lambda f: damage_header(f, architecture=f.architecture | {"nz": 4096, "resdepth": 4096}),
    "as deep as allowed": lambda f: damage_header(f, architecture=f.architecture | {"nz": 64, "resdepth": 1024}),
    "larger": lambda f: damage_header(f, architecture=f.architecture | {"xs": [1, 4096, 4096]}),
    "even kernel": lambda f: damage_header(f, architecture=f.architecture | {"kernel_size": 2}),
    "not JSON": lambda f: {"header": "{"},
    "a number": lambda f: {"header": "3"},
    "fewer weights": lambda f: {"weights": f.weights[:-1]},
    "more biases": lambda f: {"biases": np.append(f.biases, np.int32(0))},
    "float weights": lambda f: {"weights": f.weights.astype(np.float32)},
    "huge exponents": lambda f: {"exponents": np.full_like(f.exponents, -128)},
    "strange exponents": lambda f: {"exponents": f.exponents.astype(np.int64)},
    "negative shift": lambda f: {"inputs": -f.inputs},
    "no layers": lambda f: damage_header(f, architecture=f.architecture | {"nz": 0}),
    "flat inputs": lambda f: {"inputs": f.inputs.ravel()},
    "no pixel scales": lambda f: {"pixel_std": f.pixel_std[:0]},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(damage, tmp_path):
    fields = networks(**GREY)[1].fields
    path = tmp_path / "damaged.exact.npz"
    arrays = dict(zip(exact.ARRAYS, fields[2:], strict=True))
    arrays |= damage_header(fields)
    np.savez(path, **arrays)
    exact.load(path)
    np.savez(path, **arrays | DAMAGES[damage](fields))
    with pytest.raises(UserError, match=r"damaged.exact.npz: .*model/make_exact.py makes it") as caught:
        exact.load(path)
    assert "\n" not in str(caught.value)


def test_loading_leaves_the_random_state_alone(tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(**GREY)[1])
    before = torch.random.get_rng_state()
    exact.load(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_truncated_and_absent_files_are_refused(tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(**GREY)[1])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for name in (path, tmp_path / "absent.npz"):
        with pytest.raises(UserError, match="makes it"):
            exact.load(name)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="makes it"):
        exact.load(path)


PRINT_DIGEST = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from model import exact
from exact_reference import digest
model = exact.load({path!r})
if {compiled}:
    model.infer = torch.compile(model.infer)
print(torch.__version__, digest(model))
"""


def run_elsewhere(path, environment=None, python=sys.executable, compiled=False):
    """Load a file in a fresh process: (PyTorch's version, digest of the outputs)."""
    code = PRINT_DIGEST.format(root=str(ROOT), tests=str(ROOT / "tests"), path=str(path), compiled=compiled)
    done = subprocess.run(
        [str(python), "-c", code],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("setting", [s if s == "least" else pytest.param(s, marks=pytest.mark.slow) for s in SETTINGS])
def test_other_instructions_agree(setting, tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(**COLOUR)[1])
    assert run_elsewhere(path, SETTINGS[setting])[1] == digest(networks(**COLOUR)[1])


@pytest.mark.slow
def test_compiled_networks_agree(tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(nz=1)[1])
    assert run_elsewhere(path, compiled=True)[1] == digest(networks(nz=1)[1])


@pytest.mark.slow
@pytest.mark.skipif("OTHER_PYTHON" not in os.environ, reason="OTHER_PYTHON names no Python with another PyTorch")
def test_another_pytorch_agrees(tmp_path):
    path = tmp_path / "some.exact.npz"
    exact.save(path, networks(**COLOUR)[1])
    version, theirs = run_elsewhere(path, python=os.environ["OTHER_PYTHON"])
    assert version != torch.__version__
    assert theirs == digest(networks(**COLOUR)[1])
