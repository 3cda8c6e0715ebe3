"""The networks of a trained Model in integers, which give the same outputs on every machine.

Weights and activations are fixed-point numbers, and the convolutions those of utils.torch.integers, which are exact.
ELU and the scales go through the integer tables of utils.integer_tables. So nothing depends on how a machine rounds.
(Integer networks for this purpose: Ballé, Johnston, Minnen, "Integer networks for data compression with
latent-variable models", 2019.)
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model import checkpoints
from model.context.weights import HIDDEN
from model.vae import Model
from utils import integer_tables, npz, paths
from utils.cli import UserError
from utils.fixed_point import FRACTION, LEAST_SCALE_LOG2, SCALES, SCALES_PER_OCTAVE
from utils.torch.integers import EXACT, Layer, check, convolve, exact_arithmetic, prove
from utils.torch.modules import fold_weight_norm

FORMAT = 1  # of the files
STREAM = 14  # fraction bits of the residual stream, and of all that enters an ELU
STREAM_LIMIT = 1 << 23  # so that float32 holds the sum of two
VALUE_LIMIT = 1 << 30  # of latent values, mu and std


class NoExactFormError(UserError):
    """A checkpoint has no exact form, and it cannot be made."""


class Fields(NamedTuple):
    """The content of a file: every layer's numbers, one layer after the other in the order of walk()."""

    architecture: dict[str, Any]  # the arguments of Model
    checkpoint: str  # identity of the float parameters
    weights: np.ndarray  # int16
    biases: np.ndarray  # int32, one per output channel, as in Layer
    exponents: np.ndarray  # int8, likewise
    inputs: np.ndarray  # int32 [layers, 3]: unit, low and most, as in Layer; for least see input_least()
    pixel_std: np.ndarray  # int32 [*xs], FRACTION fraction bits; empty where p(x|z_1) has a conditional scale


class Network(NamedTuple):
    """The layers of one conditional: input; blocks of pairs, the residual layers; head, which gives mu and std."""

    input: Layer
    blocks: list[list[tuple[Layer, Layer]]]
    head: Layer


class ExactModel:
    """Integer networks with the seam of a Model: infer, generate, to_levels, to_pixels, xs, zs and nz.

    fields: as make_exact.make() computes them. device: where the networks run. identity: a digest of the fields,
    16 hexadecimal digits; two exact forms of one checkpoint give different outputs, and so have different identities.
    Raises ValueError where the fields do not describe networks or a convolution is not proved to be exact, and
    ArithmeticError where those of this machine turn out not to be.
    """

    def __init__(self, fields: Fields, device: str | torch.device = "cpu") -> None:
        self.fields, self.device = fields, torch.device(device)
        model = skeleton(fields.architecture)
        self.xs, self.zs, self.nz = model.xs, model.zs, model.nz
        self.to_levels, self.to_pixels = model.to_levels, model.to_pixels
        self._networks = unpack(fields, model, self.device)
        self._elu = integer_tables.elu(STREAM).to(self.device, torch.float32)
        scales = integer_tables.scale_thresholds(FRACTION, SCALES_PER_OCTAVE, LEAST_SCALE_LOG2, SCALES)
        self._thresholds = {kind: table.to(self.device) for kind, table in scales.items()}
        if fields.pixel_std.size:
            self._pixel_scale = self._scale("pixel", torch.from_numpy(fields.pixel_std.astype(np.int64)))

    def to(self, device: str | torch.device) -> "ExactModel":
        """The same networks on another device."""
        return ExactModel(self.fields, device)

    @property
    def identity(self) -> str:
        """A digest of everything that the outputs follow from: 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.fields.architecture, sort_keys=True).encode())
        for array in self.fields[2:]:
            digest.update(f"{array.shape}\n".encode() + array.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of the posterior q(z_{i+1} | z_i), or q(z_1 | x) for i = 0.

        given: z_i, integers [B, *zs] with FRACTION fraction bits; for i = 0 the levels x, integers [B, *xs] in 0..255.
        Returns (mu, scale): int64 [B, *zs], mu with FRACTION fraction bits and scale by its number, 0..SCALES-1.
        Values that are out of range are clamped.
        """
        with exact_arithmetic(self.device):
            if i == 0:
                # The odd integers -255..255 are 255 times what the float network sees; its weights are divided by it.
                levels = given.to(self.device, torch.float32).clamp(0, 255)
                out = self._run("infer", 0, F.pixel_unshuffle(2 * levels - 255, 2), 0)
            else:
                out = self._run("infer", i, self._latent(given), FRACTION)
            mu, std = out.chunk(2, 1)
            return mu.contiguous(), self._scale("posterior", std)

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Parameters of the likelihood p(z_i | z_{i+1}), or p(x | z_1) for i = 0.

        given: z_{i+1}, integers [B, *zs] with FRACTION fraction bits.
        Returns (mu, scale) as infer() does; for i = 0 of shape [B, *xs], on the pixel scale [-1, 1], where the
        scale has no batch axis unless the model has a conditional scale; and of a context likelihood mu are its
        features, [B, HIDDEN, H, W], and scale is None.
        """
        with exact_arithmetic(self.device):
            out = self._run("generate", i, self._latent(given), FRACTION)
            if i == 0 and self.fields.pixel_std.size:
                return F.pixel_shuffle(out, 2), self._pixel_scale
            if i == 0 and self.fields.architecture.get("likelihood") == "context":
                return F.pixel_shuffle(out, 2), None
            mu, std = out.chunk(2, 1)
            if i == 0:
                return F.pixel_shuffle(mu, 2), self._scale("pixel", F.pixel_shuffle(std, 2))
            return mu.contiguous(), self._scale("latent", std)

    def _latent(self, given):
        # float64, as these have more than 24 bits.
        return given.to(self.device, torch.int64).clamp(-VALUE_LIMIT, VALUE_LIMIT).double()

    def _scale(self, kind, std):
        return torch.bucketize(std.to(self.device).contiguous(), self._thresholds[kind], right=True)

    def _run(self, kind, i, values, fraction):
        """The head's int64 [B, C, H, W] with FRACTION fraction bits, from values [B, C, H, W] with `fraction`."""
        network = self._networks[kind][i]
        values = values.permute(0, 2, 3, 1).contiguous()  # channels last from here on
        stream = self._apply_elu(convolve(network.input, values, fraction))
        for block in network.blocks:
            for conv1, conv2 in block:
                stream = self._residual(conv1, conv2, stream).add_(stream).clamp_(-STREAM_LIMIT, STREAM_LIMIT)
            stream = self._apply_elu(stream)
        return convolve(network.head, stream, STREAM).to(torch.int64).permute(0, 3, 1, 2)

    def _residual(self, conv1, conv2, stream):
        """What a residual layer adds to the stream."""
        hidden = self._apply_elu(convolve(conv1, self._apply_elu(stream), STREAM))
        return convolve(conv2, hidden, STREAM)

    def _apply_elu(self, x):
        """ELU of integers with STREAM fraction bits: the larger of x and of exp(x) - 1 for the negative part of x."""
        index = x.neg().clamp_(0, len(self._elu) - 1).to(torch.int32)
        return torch.maximum(x, self._elu.index_select(0, index.view(-1)).view(x.shape))


def skeleton(arguments: dict[str, Any]) -> Model:
    """A folded Model of an architecture; only its structure is of use."""
    with torch.random.fork_rng([]):
        return fold_weight_norm(Model(**arguments))


def walk(model: Model, visit: Callable[[str, list[nn.Conv2d]], Layer]) -> dict[str, list[Network]]:
    """Arrange visit(name, convolutions) for every layer of a folded model: {"infer": [Network], "generate": [...]}.

    convolutions: the layer's nn.Conv2d, of which a head may have two, for mu and std.
    """

    def convolutions(*parts):
        return [m for part in parts if isinstance(part, nn.Module) for m in part.modules() if isinstance(m, nn.Conv2d)]

    def network(name, first, residual, *head):
        entry, blocks = visit(f"{name}.in", convolutions(first)), []
        for b, part in enumerate(residual):
            layers = [visit(f"{name}.res{b}.{j}", [convolution]) for j, convolution in enumerate(convolutions(part))]
            if layers:
                blocks.append(list(zip(layers[::2], layers[1::2], strict=True)))
        return Network(entry, blocks, visit(f"{name}.head", convolutions(*head)))

    def deep(kind, *parts):
        layers = enumerate(zip(*parts, strict=True), start=1)
        return [network(f"{kind}{i}", first, [res], mu, std) for i, (first, res, mu, std) in layers]

    m = model
    infer = network("infer0", m.infer_in, [m.infer_res0, m.infer_res1], m.infer_mu, m.infer_std)
    infer = [infer, *deep("infer", m.deepinfer_in, m.deepinfer_res, m.deepinfer_mu, m.deepinfer_std)]
    generate = network("generate0", m.gen_in, [m.gen_res1, m.gen_res0], m.gen_mu, m.gen_std)
    generate = [generate, *deep("generate", m.deepgen_in, m.deepgen_res, m.deepgen_mu, m.deepgen_std)]
    return {"infer": infer, "generate": generate}


def input_least(name: str, unit: int, most: int) -> int:
    """Where a layer's input is clamped below: at -1, which ELU does not go beyond, or in a first layer at -most."""
    return -most if name.endswith(".in") else -(1 << unit)


def unpack(fields: Fields, model: Model, device: torch.device) -> dict[str, list[Network]]:
    """The Networks that the fields describe, proved and checked. Raises ValueError where they do not fit the model."""
    taken = dict.fromkeys(("weights", "biases", "exponents", "inputs"), 0)
    checked = set()

    def take(name, shape):
        start = taken[name]
        taken[name] += math.prod(shape)
        flat = getattr(fields, name).reshape(-1)[start : taken[name]]
        if len(flat) < math.prod(shape):
            raise ValueError(f"too few {name}")
        return flat.reshape(shape).astype(np.int64)

    def visit(name, convolutions):
        shapes = [tuple(convolution.weight.shape) for convolution in convolutions]
        shape = (sum(out for out, *_ in shapes), *shapes[0][1:])
        weight, bias, exponent = take("weights", shape), take("biases", shape[:1]), take("exponents", shape[:1])
        unit, low, most = take("inputs", (3,)).tolist()
        if not (0 <= unit <= 24 and 0 <= low <= 24 and 0 < most <= EXACT):
            raise ValueError(f"{name}: activations cannot have unit, low and most = {unit}, {low}, {most}")
        if np.abs(exponent).max() > 64:
            raise ValueError(f"{name}: exponents of up to {np.abs(exponent).max()}")
        bound, fraction = (VALUE_LIMIT, FRACTION) if name.endswith("head") else (STREAM_LIMIT, STREAM)
        layer = Layer(
            torch.from_numpy(weight).to(device, torch.float32).contiguous(memory_format=torch.channels_last),
            torch.from_numpy(bias).to(device, torch.float32),
            torch.from_numpy(np.ldexp(1.0, fraction - exponent)).to(device, torch.float32),
            unit, low, input_least(name, unit, most), most, bound,
        )  # fmt: skip
        prove(name, layer)
        if shape not in checked:
            check(name, layer, device)
            checked.add(shape)
        return layer

    found = walk(model, visit)
    for name, count in taken.items():
        if count != getattr(fields, name).size:
            raise ValueError(f"too many {name}")
    return found


def save(path: str | Path, exact: ExactModel) -> None:
    """Write an ExactModel as an .npz file, whole or not at all."""
    arrays = exact.fields._asdict()
    npz.save(path, header=header(exact.fields), **{name: arrays[name] for name in Fields._fields[2:]})


def header(fields: Fields) -> str:
    """What is not an array, as a line of JSON."""
    parts = {"format": FORMAT, "architecture": fields.architecture, "checkpoint": fields.checkpoint}
    return json.dumps(parts, sort_keys=True)


def load(path: str | Path, device: str | torch.device = "cpu") -> ExactModel:
    """Read an ExactModel that save() wrote.

    Raises UserError where the file is absent, corrupt or something else, and where convolutions are not exact here.
    """
    remedy = "model/make_exact.py makes it from a checkpoint"
    text, *arrays = npz.load(path, ("header", *Fields._fields[2:]), remedy)
    try:
        architecture, checkpoint = read_header(str(text))
        return ExactModel(Fields(architecture, checkpoint, *check_arrays(arrays, architecture)), device)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    except ArithmeticError as error:
        raise UserError(f"{error}; use another device or another build of PyTorch") from None


def find(
    path: str | Path, model: Model, identity: str, dataset: str, output: str | Path = paths.ROOT
) -> ExactModel | None:
    """The exact form of a checkpoint, beside it or in the cache, on the model's device; None where there is none.

    path, model, identity: as checkpoints.open_for() gives them.
    """
    for candidate in checkpoints.companions(path, ".exact.npz", cached(dataset, model, identity, output)):
        exact = load(candidate, next(model.parameters()).device)
        if exact.fields.checkpoint == identity:
            return exact
    return None


def cached(dataset: str, model: Model, identity: str, output: str | Path = paths.ROOT) -> Path:
    """Where an exact form is kept that does not lie beside its checkpoint."""
    return paths.bins(output) / f"{dataset}_nz{model.nz}_{identity}.exact.npz"


def read_header(text: str) -> tuple[dict[str, Any], str]:
    """(architecture, checkpoint) from the header of a file. Raises ValueError where it is not one."""
    parts = json.loads(text)
    if not isinstance(parts, dict) or set(parts) != {"format", "architecture", "checkpoint"}:
        raise ValueError("not the header of an exact network")
    if parts["format"] != FORMAT:
        raise ValueError(f"format {parts['format']!r}, and this program reads format {FORMAT}")
    arguments, checkpoint = parts["architecture"], parts["checkpoint"]
    least = {"nz": 1, "zchannels": 1, "nprocessing": 0, "kernel_size": 1, "resdepth": 0, "reswidth": 1}
    flags = {"conditional_scale", "colour_transform"}
    sound = (
        isinstance(arguments, dict)
        and set(arguments) - {"likelihood"} == {"xs", *least, *flags}
        and arguments.get("likelihood", "context") == "context"  # not recorded of the other
        and all(type(arguments[name]) is int and n <= arguments[name] <= 4096 for name, n in least.items())
        and all(type(arguments[name]) is bool for name in flags)
        and isinstance(arguments["xs"], list)
        and len(arguments["xs"]) == 3
        and all(type(n) is int and 1 <= n <= 4096 for n in arguments["xs"])
        and arguments["xs"][1] % 2 == arguments["xs"][2] % 2 == 0
        and arguments["kernel_size"] % 2 == 1
        and isinstance(checkpoint, str)
    )
    if not sound:
        raise ValueError("not the architecture of a Bit-Swap model")
    return arguments | {"xs": tuple(arguments["xs"])}, checkpoint


def check_arrays(arrays: list[np.ndarray], architecture: dict[str, Any]) -> list[np.ndarray]:
    """The arrays of a file as they are. Raises ValueError where their types or sizes do not fit an architecture.

    That is before any network is built: a damaged header must not have one of an absurd size built.
    """
    types = (np.int16, np.int32, np.int8, np.int32, np.int32)
    for name, array, dtype in zip(Fields._fields[2:], arrays, types, strict=True):
        if array.dtype.newbyteorder("=") != dtype:
            raise ValueError(f"{name} is of type {array.dtype}")
    a = SimpleNamespace(**architecture)
    area, channels = a.kernel_size**2, 4 * a.xs[0]
    inputs = 25 * channels + (2 * a.nz - 1) * area * a.zchannels
    residual = 4 * a.reswidth * (25 * a.nprocessing + area * a.resdepth)
    context = "likelihood" in architecture
    pixel_head = 4 * HIDDEN if context else (1 + a.conditional_scale) * channels
    heads = area * ((4 * a.nz - 2) * a.zchannels + pixel_head)
    if arrays[0].shape != (a.reswidth * (inputs + residual + heads),):
        raise ValueError("weights are not as many as the architecture has")
    if arrays[4].shape != ((0,) if a.conditional_scale or context else a.xs):
        raise ValueError("pixel_std is not of the shape of an image")
    # An input and a head for every network, four layers for a residual one of each direction.
    if arrays[3].shape != (4 * (a.nz + a.nprocessing + a.resdepth), 3):
        raise ValueError("inputs are not as many as the architecture has layers")
    return arrays
