"""The exact networks: equal to a reference in NumPy's integers, on every setting, and refused where not provable."""

import functools
import hashlib
import json
import math
import os
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from conftest import ROOT, SETTINGS, assert_one_line_error, run_main, small_model

from model import exact, make_exact
from model.exact import FRACTION, STREAM, ExactModel
from model.make_exact import bits_per_dim, in_floats
from utils import integer_tables
from utils.cli import UserError
from utils.torch import integers
from utils.torch.modules import fold_weight_norm

GREY = {"nz": 2, "two_passes": "all"}
COLOUR = {"nz": 3, "xs": (3, 32, 32), "zchannels": 2, "conditional_scale": True, "colour_transform": True}


def blobs(count, channels, seed=0):
    """Smooth images, uint8 [count, channels, 32, 32]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    cy, cx, size = rng.uniform(5, 27, (3, count, channels, 1, 1))
    noise = rng.integers(0, 40, (count, channels, 32, 32))
    return torch.from_numpy((200 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (4 * size)) + noise).astype(np.uint8))


@functools.cache
def networks(two_passes="heads", **options):
    """(float model, exact model)."""
    model = small_model(**options)
    return model, make_exact.make(model, blobs(16, model.xs[0]), "0123456789abcdef", two_passes)


@pytest.fixture(params=[GREY, COLOUR], ids=["grey", "colour"])
def pair(request):
    return networks(**request.param)


def random_inputs(model, count, seed=0):
    """(levels, latents)."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (count, *model.xs), generator=generator, dtype=torch.uint8)
    latents = (torch.randn(count, *model.zs, generator=generator, dtype=torch.float64) * 2 * 2**FRACTION).long()
    return levels, latents


def outputs(model, levels, latents):
    """Everything that the networks say: {name: tensor}."""
    found = {}
    for i in range(model.nz):
        found[f"infer {i} mu"], found[f"infer {i} scale"] = model.infer(i, levels if i == 0 else latents)
        found[f"generate {i} mu"], found[f"generate {i} scale"] = model.generate(i, latents)
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, expected[name]), name


def digest(model, count=3):
    total = hashlib.sha256()
    for tensor in outputs(model, *random_inputs(model, count)).values():
        total.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return total.hexdigest()


class Reference:
    """The networks in NumPy's 64-bit integers and Decimal alone, straight from the arrays of a file; slow."""

    def __init__(self, fields):
        self.fields, self.options = fields, fields.architecture
        width, k, z = (self.options[name] for name in ("reswidth", "kernel_size", "zchannels"))
        channels, nz, depth = 4 * self.options["xs"][0], self.options["nz"], self.options["resdepth"]
        depths = [depth // nz + (i < depth % nz) for i in range(nz)]
        self.taken = dict.fromkeys(("weights", "biases", "exponents", "inputs"), 0)
        pixel_head = channels * (2 if self.options["conditional_scale"] else 1)
        large, small = (5, self.options["nprocessing"]), (k, depths[0])
        self.infer = [self.network(width, channels, 5, [large, small], 2 * z)]
        self.infer += [self.network(width, z, k, [(k, n)], 2 * z) for n in depths[1:]]
        self.generate = [self.network(width, z, k, [small, large], pixel_head)]
        self.generate += [self.network(width, z, k, [(k, n)], 2 * z) for n in depths[1:]]

    def network(self, width, inputs, kernel_size, blocks, head):
        first = self.layer(width, inputs, kernel_size, first=True)
        blocks = [[(self.layer(width, width, k), self.layer(width, width, k)) for _ in range(n)] for k, n in blocks]
        return first, [block for block in blocks if block], self.layer(head, width, self.options["kernel_size"])

    def layer(self, out_channels, in_channels, k, first=False):
        def take(name, *shape):
            start = self.taken[name]
            self.taken[name] += math.prod(shape)
            return getattr(self.fields, name).ravel()[start : self.taken[name]].reshape(shape).astype(np.int64)

        weight = take("weights", out_channels, in_channels, k, k)
        bias, exponent, inputs = (
            take("biases", out_channels),
            take("exponents", out_channels),
            take("inputs", 3).tolist(),
        )
        return weight, bias, exponent, inputs, -inputs[2] if first else -(1 << inputs[0])

    def run(self, network, values, fraction):
        first, blocks, head = network
        stream = self.elu(self.convolve(first, values, fraction, STREAM))
        for block in blocks:
            for conv1, conv2 in block:
                hidden = self.elu(self.convolve(conv1, self.elu(stream), STREAM, STREAM))
                stream = np.clip(stream + self.convolve(conv2, hidden, STREAM, STREAM), -(2**23), 2**23)
            stream = self.elu(stream)
        return self.convolve(head, stream, STREAM, FRACTION)

    @staticmethod
    def convolve(layer, values, fraction, out_fraction):
        weight, bias, exponent, (unit, low, most), least = layer
        k = weight.shape[-1]
        values = np.clip(divide(values, fraction - unit), least, most)
        high = divide(values, low)
        padding = [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)]
        sums = []
        for half in (high, values - (high << low)):
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(half, padding), (k, k), (2, 3))
            sums.append(np.einsum("bchwij,ocij->bohw", windows, weight))
        total = sums[0] + divide(sums[1], low) + bias[:, None, None]
        limit = 2**23 if out_fraction == STREAM else 2**30
        total = np.stack([divide(total[:, c], e - out_fraction) for c, e in enumerate(exponent.tolist())], 1)
        return np.clip(total, -limit, limit)

    @staticmethod
    def elu(x):
        values, where = np.unique(x, return_inverse=True)
        return np.array([elu(int(value)) for value in values])[where].reshape(x.shape)

    def outputs(self, levels, latents):
        levels, latents = levels.numpy().astype(np.int64), np.clip(latents.numpy(), -(2**30), 2**30)
        odd = 2 * np.clip(levels, 0, 255) - 255
        b, c, h, w = odd.shape
        unshuffled = odd.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, -1)
        found = {}
        for i in range(self.options["nz"]):
            out = self.run(self.infer[i], latents if i else unshuffled, FRACTION if i else 0)
            mu, std = np.split(out, 2, 1)
            found |= {f"infer {i} mu": mu, f"infer {i} scale": scales("posterior", std)}
            out = self.run(self.generate[i], latents, FRACTION)
            if i:
                mu, std = np.split(out, 2, 1)
                found |= {f"generate {i} mu": mu, f"generate {i} scale": scales("latent", std)}
                continue
            if self.options["conditional_scale"]:
                mu, std = (shuffle(half) for half in np.split(out, 2, 1))
            else:
                mu, std = shuffle(out), self.fields.pixel_std.astype(np.int64)
            found |= {"generate 0 mu": mu, "generate 0 scale": scales("pixel", std)}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


def divide(values, bits):
    """values / 2^bits, rounded to the nearest integer and halves to the even one."""
    if bits <= 0:
        return values << -bits
    quotient, half = values >> bits, 1 << (bits - 1)
    remainder = values - (quotient << bits)
    return quotient + ((remainder > half) | ((remainder == half) & (quotient % 2 == 1)))


def shuffle(x):
    b, c, h, w = x.shape
    return x.reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


@functools.cache
def elu(x):
    with localcontext() as context:
        context.prec = 25
        return x if x >= 0 else round(((Decimal(x) / 2**STREAM).exp() - 1) * 2**STREAM)


def scales(kind, std):
    values, where = np.unique(std, return_inverse=True)
    return np.array([scale_number(kind, int(value)) for value in values])[where].reshape(std.shape)


@functools.cache
def scale_number(kind, std):
    """The number of the scale nearest in the logarithm, as the model defines the scale."""
    with localcontext() as context:
        context.prec = 40
        x = Decimal(std) / 2**FRACTION
        if kind == "posterior":
            scale = Decimal("0.1") + Decimal("0.9") / (1 + (-x - 2).exp())
        elif kind == "latent":
            scale = Decimal("0.1") + Decimal("0.9") * (1 + (x + (Decimal(1).exp() - 1).ln()).exp()).ln()
        else:
            scale = Decimal(2) / 255 / 8 + (1 + x.exp()).ln()
        return min(exact.SCALES - 1, max(0, round((scale.ln() / Decimal(2).ln() + 12) * 256)))


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


@pytest.mark.parametrize("options", [GREY, COLOUR], ids=["grey", "colour"])
def test_as_good_as_the_float_network(options):
    model, ours = networks(**options)
    pixels = blobs(8, model.xs[0], seed=1)
    float_rate, exact_rate = bits_per_dim(fold_weight_norm(model), pixels), bits_per_dim(in_floats(ours), pixels)
    assert (exact_rate - float_rate).abs().max() < 0.03
    assert (exact_rate - float_rate).mean().abs() < 0.003
    assert not torch.equal(exact_rate, float_rate)


def test_single_passes_are_given_up_where_they_cost_too_much(monkeypatch):
    model, pixels = small_model(), blobs(8, 1)
    monkeypatch.setattr(make_exact, "TOLERANCE", math.inf)
    cheap = make_exact.make(model, pixels)
    assert (cheap.fields.inputs[:, 1] > 0).sum() == 2 * model.nz
    monkeypatch.setattr(make_exact, "TOLERANCE", -math.inf)
    thorough = make_exact.make(model, pixels)
    assert (thorough.fields.inputs[:, 1] > 0).all()
    assert cheap.identity != thorough.identity


def test_activations_beyond_the_fixed_point_range_are_refused():
    model = small_model()
    with torch.no_grad():
        model.infer_res0[0].res6layer1.conv2.b += 1e7
    with pytest.raises(ValueError, match="too large for the integers of float32"):
        make_exact.make(model, blobs(2, 1))


def test_levels_and_shapes_are_the_models():
    model, ours = networks(**COLOUR)
    assert (ours.xs, ours.zs, ours.nz) == (model.xs, model.zs, model.nz)
    pixels = blobs(2, 3).numpy()
    assert np.array_equal(ours.to_levels(pixels), model.to_levels(pixels))
    assert np.array_equal(ours.to_pixels(ours.to_levels(pixels)), pixels)


def test_elu_table_is_correctly_rounded():
    table = integer_tables.elu(STREAM)
    assert (table[-1], table[-2]) == (-(2**STREAM), 1 - 2**STREAM)
    some = [*range(50), *np.random.default_rng(0).integers(0, len(table), 2000).tolist(), len(table) - 2]
    assert [int(table[k]) for k in some] == [elu(-k) for k in some]


@pytest.mark.parametrize("kind", ["posterior", "latent", "pixel"])
def test_scale_thresholds_are_where_the_nearest_scale_changes(kind):
    table = integer_tables.scale_thresholds(FRACTION, exact.SCALES_PER_OCTAVE, exact.LEAST_SCALE_LOG2, exact.SCALES)[
        kind
    ]
    assert len(table) == exact.SCALES - 1
    assert bool((table.diff() >= 0).all())
    reached = [s for s in range(1, exact.SCALES) if abs(int(table[s - 1])) < exact.VALUE_LIMIT]
    for s in [*reached[:5], *reached[5:-5:97], *reached[-5:]]:
        threshold = int(table[s - 1])
        assert scale_number(kind, threshold) >= s > scale_number(kind, threshold - 1)


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
    return {"header": json.dumps(json.loads(exact.header(fields)) | changes)}


DAMAGES = {
    "newer": lambda f: damage_header(f, format=exact.FORMAT + 1),
    "no architecture": lambda f: damage_header(f, architecture=None),
    "odd sides": lambda f: damage_header(f, architecture=f.architecture | {"xs": [1, 31, 31]}),
    "wider": lambda f: damage_header(f, architecture=f.architecture | {"reswidth": 4096}),
    "deeper": lambda f: damage_header(f, architecture=f.architecture | {"nz": 4096, "resdepth": 4096}),
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
    arrays = {name: getattr(fields, name) for name in exact.Fields._fields[2:]}
    arrays |= damage_header(fields)
    np.savez(path, **arrays)
    exact.load(path)
    np.savez(path, **arrays | DAMAGES[damage](fields))
    with pytest.raises(UserError, match=r"damaged.exact.npz: .*model/make_exact.py makes it") as caught:
        exact.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [GREY, COLOUR, COLOUR | {"nz": 1, "zchannels": 3}], ids=str)
def test_counts_of_check_arrays_are_those_of_the_networks(options):
    fields = networks(**options)[1].fields
    exact.check_arrays(fields[2:], fields.architecture)
    with pytest.raises(ValueError, match="weights are not as many"):
        exact.check_arrays((fields.weights[1:], *fields[3:]), fields.architecture)


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


def test_command(checkpoint, mnist, tmp_path):
    to = tmp_path / "made.exact.npz"
    done = run_main(make_exact.main, "mnist", "--checkpoint", checkpoint, "--data", mnist, "--to", to, "--compare", 10)
    assert done.returncode == 0, done.stderr
    assert str(to) in done.stdout
    assert exact.load(to).zs == (1, 16, 16)
    done = run_main(make_exact.main, "mnist", "--checkpoint", checkpoint, "--data", tmp_path / "none", "--to", to)
    assert_one_line_error(done, "none")


PRINT_DIGEST = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
from model import exact
from test_exact import digest
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
