"""Try 8-bit integers in the residual layers of the exact networks: what they add to the rate, how long they take."""

import functools
import math
import warnings
from unittest import mock

import common
import numpy as np
import torch
import torch.nn.functional as F

from model import checkpoints, exact, make_exact
from model.exact import STREAM, STREAM_LIMIT, ExactModel
from model.vae import architecture
from utils import cli, integer_tables, paths
from utils.fixed_point import FRACTION
from utils.torch.integers import EXACT, Layer, convolve, exact_arithmetic, largest_sums
from utils.torch.modules import ResNetLayer, fold_weight_norm

# {name: bits of activations in the first pass and in a second, bits of weights, networks with a second pass}
VARIANTS = {
    "8 x 8": (8, 0, 8, ()),
    "8 x 16": (8, 0, 16, ()),
    "7 x 8": (7, 0, 8, ()),
    "8 x 7": (8, 0, 7, ()),
    "10 x 8": (8, 2, 8, ("infer", "generate")),
    "15 x 8": (8, 7, 8, ("infer", "generate")),
    "15 x 8 at x": (8, 7, 8, ("infer0", "generate0")),
}
TIMED = ("8 x 8", "15 x 8 at x")  # of the networks
COLUMNS = {
    "rate": ["checkpoint", "images", "float32", *(f"{form} adds" for form in ("exact", *VARIANTS))],
    "kernels": ["kernel", "width", "size", "batch", "clock", "ms", "x", "8-bit weights", "7-bit weights"],
    "time": ["what", "batch", "clock", "form", "ms/image", "x", "same"],
}
SHAPES = [(width, size, batch) for width, batch in ((32, 100), (63, 100), (252, 20)) for size in (3, 5)]
LANES = {"mnist2": 100, "mnist8": 100, "cifar8": 20}
CHECKPOINTS = ["mnist_nz2", "mnist_nz8", "cifar_nz2", "cifar_nz8", "imagenetcrop_nz2", "imagenetcrop_nz4"]
BATCH = 50  # images at once, for the rates
SIDE = 16  # of the layers, as the networks have them
SHIFT = 16  # of the sums that quantized.conv2d rounds to 8 bits
CPU = torch.device("cpu")

DESCRIPTION = """Try 8-bit integers in the residual layers of the exact networks (model/exact.py).

rate: the negative ELBO of test images, bits/dim, of shipped checkpoints in float32, and what is added to it by the
exact form, and by exact forms whose residual layers have activations x weights of so many bits; first layers and heads
stay as they are. More than 8 bits of activations take two passes; "at x": in the networks next to the pixels alone.

kernels: PyTorch's convolutions of 8-bit integers, codes 0..255 times weights with a sign, beside float32 and convolve()
of the exact form; and whether their results are those of 64-bit integers, for random numbers and for the largest.
What oneDNN does depends on the processor: see ONEDNN_MAX_CPU_ISA=AVX2, which has it do without VNNI.

time: a residual layer with random weights, and all networks of full-size models, in float32, in the exact form, and
with oneDNN's 8-bit convolutions; "same": whether these give the integers of the exact form of the same numbers.

Times are the least of several, each kind in turn; "x" is over float32."""


# What 8 bits do to the rate


def record(folded, pixels):
    """The inputs of every convolution of a folded model: {convolution: (largest absolute value, tensor)}."""
    with make_exact.inputs_seen(folded, lambda x: (x.abs().max().item(), x.clone())) as seen:
        make_exact.bits_per_dim(folded, pixels)
    return seen


def narrow(model, folded, seen, variant):
    """The Fields of an exact form with narrow residual layers. seen: as of record(); variant: one of VARIANTS."""
    bits, second, weight_bits, twice = VARIANTS[variant]
    usual = make_exact.quantize

    def quantize(name, weight, bias, peak, values, two_passes):
        if ".res" not in name:
            return usual(name, weight, bias, peak, values.square().mean().item(), two_passes)
        low = second if name.startswith(twice) else 0
        return narrow_layer(weight, bias, peak, values, bits, low, weight_bits)

    arguments = architecture(model.state_dict()) | {"xs": model.xs}
    with mock.patch.object(make_exact, "quantize", quantize):
        return make_exact.quantize_all(folded, seen, "heads", arguments, "")


def narrow_layer(weight, bias, peak, values, bits, low, weight_bits):
    """The numbers of a layer, as make_exact.quantize() gives them: activations of `bits` and, in a second pass, `low`.

    values: inputs of the layer, on which what rounding costs and what clamping costs are weighed against each other.
    """
    best = None
    for unit in range(bits - 1):
        most = min(math.ceil(make_exact.MARGIN * max(1, peak) * 2**unit), 2**bits - 1 - 2**unit)
        error = ((values * 2**unit).round().clamp(-(2**unit), most) / 2**unit - values).square().mean().item()
        if best is None or error < best[0]:
            best = error, unit + low, most << low
    _, unit, most = best
    limits = low, -(1 << unit), most
    largest = 2 ** (weight_bits - 1) - 1
    sums = largest_sums(weight, bias * 2.0 ** (unit - low), *limits)
    room = EXACT - 1 - largest_sums(np.full_like(weight[:1], 0.5), 0.5, *limits)
    scale = np.minimum(room / (sums + 1e-12), (largest + 0.5) / (np.abs(weight).max((1, 2, 3)) + 1e-12))
    exponent = np.frexp(scale)[1] - 1
    weight = np.clip(np.rint(weight * 2.0 ** exponent[:, None, None, None]), -largest, largest)
    return weight, np.rint(bias * 2.0 ** (unit - low + exponent)), unit - low + exponent, (unit, low, most)


@torch.inference_mode()
def rate(name, data, count):
    """A row of the table of rates."""
    path, dataset = paths.PRETRAINED / f"{name}.pt", name.rpartition("_")[0]
    model, identity = checkpoints.load(path)
    folded = fold_weight_norm(model)
    seen = record(folded, make_exact.sample_images(dataset, "train", data, make_exact.CALIBRATION))
    forms = [exact.find(path, model, identity, dataset)]
    forms += [ExactModel(narrow(model, folded, seen, variant)) for variant in VARIANTS]
    batches = make_exact.sample_images(dataset, "test", data, count).split(BATCH)
    rates = [
        torch.cat([make_exact.bits_per_dim(form, pixels) for pixels in batches]).double().mean().item()
        for form in (folded, *(make_exact.in_floats(exact_form, folded) for exact_form in forms))
    ]
    return [name, sum(map(len, batches)), rates[0], *(each - rates[0] for each in rates[1:])]


# Convolutions of 8-bit integers: functions of codes, uint8 [B, H, W, in], made for a weight, int8 [out, in, k, k].


def onednn(weight, batch, offset=0, scale=None, bias=None):
    """With the sums of codes - offset times scale and plus bias, float32 [out]: float32 [B, H, W, out]."""
    ops, ones, edge = torch.ops.onednn, [1, 1], [weight.shape[-1] // 2] * 2
    scale, zeros = torch.ones(len(weight)) if scale is None else scale, torch.zeros(len(weight), dtype=torch.int64)
    shape = [batch, weight.shape[1], SIDE, SIDE]
    packed = ops.qconv_prepack(weight, scale, 1.0, offset, ones, edge, ones, 1, shape)

    def call(codes):
        sums = ops.qconv2d_pointwise(
            codes.permute(0, 3, 1, 2), 1.0, offset, packed, scale, zeros, bias, ones, edge, ones, 1,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums.permute(0, 2, 3, 1)

    return call


def int_mm(weight, batch):
    """By torch._int_mm() of a matrix of windows: int32 [B, H, W, out]."""
    size, edge = weight.shape[-1], weight.shape[-1] // 2
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()

    def call(codes):
        windows = F.pad(codes, (0, 0, edge, edge, edge, edge)).unfold(1, size, 1).unfold(2, size, 1)
        sums = torch._int_mm(windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, len(matrix)), matrix)
        return sums.view(*codes.shape[:3], -1)

    return call


def quantized(engine, weight, batch):
    """By torch.ops.quantized.conv2d(), which gives no more than the sums / 2^SHIFT + 128: uint8 [B, H, W, out]."""
    warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)  # its tensors are deprecated
    torch.backends.quantized.engine = engine
    ones, edge = [1, 1], [weight.shape[-1] // 2] * 2
    scale, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(weight, scale, zeros, 0)
    packed = torch.ops.quantized.conv2d_prepack(weight, None, ones, edge, ones, 1)

    def call(codes):
        torch.backends.quantized.engine = engine
        codes = torch._make_per_tensor_quantized_tensor(codes.permute(0, 3, 1, 2), 1.0, 0)
        return torch.ops.quantized.conv2d(codes, packed, 2.0**SHIFT, 128).int_repr().permute(0, 2, 3, 1)

    return call


MAKERS = {"onednn.qconv2d_pointwise": onednn, "torch._int_mm": int_mm} | {
    f"quantized.conv2d ({engine})": functools.partial(quantized, engine)
    for engine in ("x86", "fbgemm")
    if engine in torch.backends.quantized.supported_engines
}


def verdict(make, largest, width, size, batch):
    """ "exact" or "wrong": a kernel's results for random weights up to `largest`, and for the largest possible sums."""
    shape = width, width, size, size
    # As many weights as float32 has room for, of one sign in each filter.
    extreme = largest * (torch.arange(math.prod(shape[1:])).view(shape[1:]) < EXACT // (255 * largest)).to(torch.int8)
    extreme = (
        extreme.repeat(width, 1, 1, 1) * torch.tensor([1, -1], dtype=torch.int8).repeat(width)[:width, None, None, None]
    )
    images = batch, SIDE, SIDE, width
    random = (
        torch.randint(-largest, largest + 1, shape, dtype=torch.int8),
        torch.randint(0, 256, images, dtype=torch.uint8),
    )
    for weight, codes in (random, (extreme, torch.full(images, 255, dtype=torch.uint8))):
        found = make(weight, batch)(codes)
        expected = F.conv2d(codes.permute(0, 3, 1, 2).double(), weight.double(), padding=size // 2).permute(0, 2, 3, 1)
        if found.dtype == torch.uint8:
            expected = (expected / 2**SHIFT).round().add(128).clamp(0, 255)
        if not torch.equal(found.double(), expected):
            return "wrong"
    return "exact"


@torch.inference_mode()
def kernels(shapes, seconds, clock):
    """The rows of the table of kernels."""
    for width, size, batch in shapes:
        torch.manual_seed(0)
        weight = torch.randint(-127, 128, (width, width, size, size), dtype=torch.int8)
        codes = torch.randint(0, 256, (batch, SIDE, SIDE, width), dtype=torch.uint8)
        floats, stream = codes.permute(0, 3, 1, 2).float().contiguous(), (torch.randn(codes.shape) * 2**STREAM).round()
        last = weight.float().contiguous(memory_format=torch.channels_last)
        layer = Layer(last, torch.zeros(width), torch.ones(width), 4, 0, -16, 239, STREAM_LIMIT)
        calls = {
            "float32": functools.partial(F.conv2d, floats, weight.float(), padding=size // 2),
            "convolve()": functools.partial(convolve, layer, stream, STREAM),
        }
        calls |= {name: functools.partial(make(weight, batch), codes) for name, make in MAKERS.items()}
        with exact_arithmetic(CPU):
            took = common.least(calls, seconds, clock)
        for name, taken in took.items():
            verdicts = [verdict(MAKERS[name], most, width, size, batch) if name in MAKERS else "" for most in (127, 63)]
            yield [name, width, size, batch, clock, 1e3 * taken, taken / took["float32"], *verdicts]


# Networks with them


class Narrow:
    """A layer of 8-bit activations and weights and the ELU before it, for batches of one size.

    Called with integers that have STREAM fraction bits, float32 [B, H, W, in]; gives the same integers as convolve()
    does after the ELU. The ELU and the rounding to codes are one table, of all integers that are not clamped.
    """

    def __init__(self, layer, batch):
        elu = integer_tables.elu(STREAM).double()
        above = torch.arange(1, (layer.most << STREAM - layer.unit) + 1)
        self.layer, self.least, self.most = layer, 1 - len(elu), len(above)
        values = torch.cat([elu.flip(0), above]).mul_(2.0 ** (layer.unit - STREAM)).round_()
        values = values.clamp_(layer.least, layer.most) / 2**layer.low
        high = values.round()
        if layer.low:
            halves = (
                (high, None, None),
                ((values - high) * 2**layer.low, torch.full_like(layer.factor, 2.0**-layer.low), None),
            )
        else:
            halves = ((high, layer.factor, layer.bias * layer.factor),)
        weight = layer.weight.to(torch.int8).contiguous()
        self.passes = []
        for half, scale, bias in halves:
            offset = -int(half.min())
            self.passes.append(((half + offset).to(torch.uint8), onednn(weight, batch, offset, scale, bias)))

    def __call__(self, stream):
        index = stream.clamp(self.least, self.most).sub_(self.least).to(torch.int32).view(-1)
        sums, *low = (call(table.index_select(0, index).view(stream.shape)).round_() for table, call in self.passes)
        if low:
            sums = sums.add_(low[0]).add_(self.layer.bias).mul_(self.layer.factor).round_()
        return sums.clamp_(-self.layer.bound, self.layer.bound)


def residual(conv1, conv2, stream):
    """What a residual layer makes of the stream, where conv1 and conv2 begin with the ELU."""
    return conv2(conv1(stream)).add_(stream).clamp_(-STREAM_LIMIT, STREAM_LIMIT)


class NarrowModel(ExactModel):
    """An ExactModel whose residual layers are Narrow, for batches of one size."""

    def __init__(self, fields, batch):
        super().__init__(fields)
        for networks in self._networks.values():
            for i, network in enumerate(networks):
                blocks = [[tuple(Narrow(part, batch) for part in pair) for pair in block] for block in network.blocks]
                networks[i] = network._replace(blocks=blocks)

    def _residual(self, conv1, conv2, stream):
        return conv2(conv1(stream))


def compare(what, batch, forms, same, seconds, clock):
    """Rows of the table of times. forms: {name: function}; same: {name: whether integers are as they should be}."""
    took = common.least(forms, seconds, clock)
    for name, taken in took.items():
        verdict = {True: "yes", False: "no"}.get(same.get(name), "")
        yield [what, batch, clock, name, 1e3 * taken / batch, taken / took["float32"], verdict]


@torch.inference_mode()
def layer_times(width, size, batch, seconds, clock):
    """The rows of a residual layer."""
    torch.manual_seed(0)
    floats = fold_weight_norm(ResNetLayer(width, size, 0.0))
    x = torch.randn(batch, width, SIDE, SIDE)
    stream = (x.permute(0, 2, 3, 1) * 2**STREAM).round().contiguous()
    apply_elu = functools.partial(ExactModel._apply_elu, exact_elu())
    with make_exact.inputs_seen(floats, torch.clone) as seen:
        floats(x)
    forms, same = {"float32": lambda: floats(x)}, {}
    for low in (0, 7):
        layers = []
        for convolution, values in seen.items():
            weight, bias = (part.double().numpy() for part in (convolution.weight, convolution.bias))
            numbers = narrow_layer(weight, bias, values.abs().max().item(), values, 8, low, 8)
            weight, bias, exponent, (unit, low, most) = numbers
            weight = torch.from_numpy(weight).float().contiguous(memory_format=torch.channels_last)
            bias, factor = (torch.from_numpy(part).float() for part in (bias, np.ldexp(1.0, STREAM - exponent)))
            layers.append(Layer(weight, bias, factor, unit, low, -(1 << unit), most, STREAM_LIMIT))
        usual = [lambda s, layer=layer: convolve(layer, apply_elu(s), STREAM) for layer in layers]
        parts = [Narrow(layer, batch) for layer in layers]
        forms |= {} if low else {"exact": functools.partial(residual, *usual, stream)}
        forms[f"{8 + low} x 8"] = functools.partial(residual, *parts, stream)
        with exact_arithmetic(CPU):
            same[f"{8 + low} x 8"] = torch.equal(residual(*usual, stream), residual(*parts, stream))
    with exact_arithmetic(CPU):
        yield from compare(f"layer {width} {size}x{size}", batch, forms, same, seconds, clock)


@functools.cache
def exact_elu():
    """What ExactModel._apply_elu() needs of an ExactModel."""
    return mock.Mock(_elu=integer_tables.elu(STREAM).float())


@torch.inference_mode()
def network_times(name, batch, seconds, clock):
    """The rows of all networks of a full-size model."""
    model = common.unfolded(name)
    folded = fold_weight_norm(model)
    seen = record(folded, torch.randint(0, 256, (4, *model.xs), dtype=torch.uint8))
    x, z = torch.randint(0, 256, (batch, *model.xs)), torch.randn(batch, *model.zs)
    fixed = (z * 2**FRACTION).long()

    def forward(network, z):
        return [network.infer(i, z if i else x) + network.generate(i, z) for i in range(model.nz)]

    forms, same = {"float32": functools.partial(forward, folded, z)}, {}
    forms["exact"] = functools.partial(forward, common.form(model, "exact"), fixed)
    for variant in TIMED:
        fields = narrow(model, folded, seen, variant)
        forms[variant] = functools.partial(forward, NarrowModel(fields, batch), fixed)
        pairs = zip(forms[variant](), forward(ExactModel(fields), fixed), strict=True)
        same[variant] = all(all(map(torch.equal, ours, theirs)) for ours, theirs in pairs)
    yield from compare(name, batch, forms, same, seconds, clock)


def times(shapes, lanes, seconds, clock):
    """The rows of the table of times."""
    for shape in shapes:
        yield from layer_times(*shape, seconds, clock)
    for name, batch in lanes.items():
        yield from network_times(name, batch, seconds, clock)


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "integers_{rate,kernels,time}")
    common.add_clock(parser)
    parser.add_argument(
        "--tables", choices=tuple(COLUMNS), nargs="+", default=list(COLUMNS), help="which (default: all)"
    )
    parser.add_argument("--checkpoints", choices=CHECKPOINTS, nargs="+", default=CHECKPOINTS, help="of the rates")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets, for the rates")
    parser.add_argument("--images", type=cli.whole_number(1), default=400, help="test images, for the rates")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to go on measuring each time")
    args = parser.parse_args()
    shapes, lanes = SHAPES, LANES
    if args.quick:
        args.images, args.seconds, shapes, lanes = 2, 0.0, [(4, 3, 2)], {"mnist1": 2}
    rows = {
        "rate": (rate(name, args.data, args.images) for name in args.checkpoints),
        "kernels": kernels(shapes, args.seconds, args.clock),
        "time": times(shapes, lanes, args.seconds, args.clock),
    }
    for table in args.tables:
        common.report(f"integers_{table}", args.output, COLUMNS[table], rows[table], None)


if __name__ == "__main__":
    main()
