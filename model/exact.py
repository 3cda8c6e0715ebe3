"""The networks of a trained Model in integers, which give the same outputs on every machine.

Weights and activations are fixed-point numbers, and the convolutions those of utils.torch.integers, which are exact.
ELU and the scales go through the integer tables of utils.fixed_point. So nothing depends on how a machine rounds.
(Integer networks for this purpose: Ballé, Johnston, Minnen, "Integer networks for data compression with
latent-variable models", 2019.)
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.checkpoints import Checkpoint
from model.vae import Model
from utils import fixed_point, npz
from utils.errors import UserError
from utils.fixed_point import FRACTION
from utils.torch.integers import EXACT, Layer, check, convolve, exact_arithmetic, prove
from utils.torch.modules import fold_weight_norm

FORMAT = 1  # of the files
STREAM = 14  # fraction bits of the residual stream, and of all that enters an ELU
STREAM_LIMIT = 1 << 23  # so that float32 holds the sum of two
VALUE_LIMIT = 1 << 30  # of latent values, mu and std
# The arguments of Model in the header of a file, with their least and greatest values.
LIMITS = {
    "nz": (1, 64), "zchannels": (1, 1024), "nprocessing": (0, 64), "kernel_size": (1, 31), "resdepth": (0, 1024),
    "reswidth": (1, 8192),
}  # fmt: skip
FLAGS = ("conditional_scale", "colour_transform")


class NoExactFormError(UserError):
    """A checkpoint has no exact form, and none can be made."""


class Fields(NamedTuple):
    """The content of a file: the numbers of every layer, one layer after the other in the order of walk()."""

    architecture: dict[str, Any]  # the arguments of Model
    checkpoint: str  # identity of the float parameters
    weights: np.ndarray  # int16
    biases: np.ndarray  # int32, one per output channel, as in Layer
    exponents: np.ndarray  # int8, likewise
    inputs: np.ndarray  # int32 [layers, 3]: unit, low and most, as in Layer; for least see input_least()
    pixel_std: np.ndarray  # int32 [*xs], FRACTION fraction bits; empty if p(x|z_1) has a conditional scale


DTYPES = (np.int16, np.int32, np.int8, np.int32, np.int32)  # of the arrays


class Network(NamedTuple):
    """The layers of one conditional: input; blocks of residual layers (pairs); head, which gives mu and std."""

    input: Layer
    blocks: list[list[tuple[Layer, Layer]]]
    head: Layer


class ExactModel:
    """Integer networks with the seam of a Model: infer, generate, to_levels, to_pixels, xs, zs and nz.

    fields: as make_exact.make() computes them. device: where the networks run.
    Raises ValueError if the fields do not describe networks or a convolution cannot be proved to be exact, and
    ArithmeticError if the convolutions of this machine turn out not to be.
    """

    def __init__(self, fields: Fields, device: str | torch.device = "cpu") -> None:
        self.fields, self.device = fields, torch.device(device)
        model = skeleton(fields.architecture)
        self.xs, self.zs, self.nz = model.xs, model.zs, model.nz
        self.to_levels, self.to_pixels = model.to_levels, model.to_pixels
        self._networks = unpack(fields, model, self.device)
        self._elu = torch.from_numpy(fixed_point.elu_table(STREAM)).to(self.device, torch.float32)
        scales = fixed_point.scale_thresholds()
        self._thresholds = {kind: torch.from_numpy(table).to(self.device) for kind, table in scales.items()}
        if fields.pixel_std.size:
            self._pixel_scale = self._scale("pixel", torch.from_numpy(fields.pixel_std.astype(np.int64)))

    def to(self, device: str | torch.device) -> "ExactModel":
        """The same networks on another device."""
        return ExactModel(self.fields, device)

    @property
    def identity(self) -> str:
        """A digest of everything that decides the outputs: 16 hexadecimal digits.

        Two exact forms of one checkpoint give different outputs, and so have different identities.
        """
        digest = hashlib.sha256(json.dumps(self.fields.architecture, sort_keys=True).encode())
        for array in self.fields[2:]:
            digest.update(f"{array.shape}\n".encode() + array.astype("<i4").tobytes())
        return digest.hexdigest()[:16]

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of the posterior q(z_{i+1} | z_i), or q(z_1 | x) for i = 0.

        given: z_i, integers [B, *zs] with FRACTION fraction bits; for i = 0 the levels x, integers [B, *xs] in 0..255.
        Returns (mu, scale): int64 [B, *zs], mu with FRACTION fraction bits and scale an index into the table of
        scales, 0..SCALES-1. Values that are out of range are clamped.
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

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of the likelihood p(z_i | z_{i+1}), or p(x | z_1) for i = 0.

        given: z_{i+1}, integers [B, *zs] with FRACTION fraction bits.
        Returns (mu, scale) as infer() does; for i = 0 of shape [B, *xs], on the pixel scale [-1, 1], where the
        scale has no batch axis unless the model has a conditional scale.
        """
        with exact_arithmetic(self.device):
            out = self._run("generate", i, self._latent(given), FRACTION)
            if i == 0 and self.fields.pixel_std.size:
                return F.pixel_shuffle(out, 2), self._pixel_scale
            mu, std = out.chunk(2, 1)
            if i == 0:
                return F.pixel_shuffle(mu, 2), self._scale("pixel", F.pixel_shuffle(std, 2))
            return mu.contiguous(), self._scale("latent", std)

    def _latent(self, given):
        # These have more than the 24 bits of float32.
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
    """A folded Model of an architecture without any numbers: names and shapes only."""
    with torch.device("meta"):
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
    """The lower bound of a layer's input: -1, the lower bound of ELU, or in a first layer -most."""
    return -most if name.endswith(".in") else -(1 << unit)


def unpack(fields: Fields, model: Model, device: torch.device) -> dict[str, list[Network]]:
    """The Networks that the fields describe, proved and checked.

    model: a folded one, of which only the shapes are used. Raises ValueError if the fields do not fit it.
    """
    for name, array, dtype in zip(Fields._fields[2:], fields[2:], DTYPES, strict=True):
        if array.dtype.newbyteorder("=") != dtype:
            raise ValueError(f"{name} is of type {array.dtype}")
    if fields.pixel_std.shape != ((0,) if isinstance(model.gen_std, nn.Module) else model.xs):
        raise ValueError("pixel_std is not of the shape of an image")
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

    Raises UserError if the file is absent, damaged or something else, or if convolutions are not exact on this machine.
    """
    remedy = "model/make_exact.py makes it from a checkpoint"
    text, *arrays = npz.load(path, ("header", *Fields._fields[2:]), remedy)
    try:
        fields = Fields(*read_header(str(text)), *arrays)
        a = fields.architecture
        # Before any network is built: a damaged header must not describe one that is larger than its file.
        if fields.inputs.shape != (4 * (a["nz"] + a["nprocessing"] + a["resdepth"]), 3):
            raise ValueError("its layers are not those of its architecture")
        return ExactModel(fields, device)
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from None
    except ArithmeticError as error:
        raise UserError(f"{error}; use another device or another build of PyTorch") from None


def find(checkpoint: Checkpoint) -> ExactModel | None:
    """The exact form that was made for a checkpoint, on the device of its model, or None."""
    for file in filter(Path.exists, checkpoint.exact_files()):
        exact = load(file, next(checkpoint.model.parameters()).device)
        if exact.fields.checkpoint == checkpoint.identity:
            return exact
    return None


def read_header(text: str) -> tuple[dict[str, Any], str]:
    """(architecture, checkpoint) from the header of a file. Raises ValueError if it is not one."""
    parts = json.loads(text)
    if not isinstance(parts, dict) or set(parts) != {"format", "architecture", "checkpoint"}:
        raise ValueError("not the header of an exact network")
    if parts["format"] != FORMAT:
        raise ValueError(f"format {parts['format']!r}, and this program reads format {FORMAT}")
    found, checkpoint = parts["architecture"], parts["checkpoint"]
    try:
        values = [*(found[name] for name in LIMITS), *found["xs"]]
        limits = [*LIMITS.values(), *[(1, 4096)] * 3]
        sound = all(
            type(value) is int and least <= value <= most for value, (least, most) in zip(values, limits, strict=True)
        )
        _, height, width = found["xs"]
        sound = sound and height % 2 == width % 2 == 0 and found["kernel_size"] % 2 == 1 and type(checkpoint) is str
        sound = sound and len(found) == len(LIMITS) + 3 and all(type(found[name]) is bool for name in FLAGS)
    except (TypeError, KeyError, ValueError):  # it lacks one of them
        sound = False
    if not sound:
        raise ValueError("not the architecture of a Bit-Swap model")
    return found | {"xs": tuple(found["xs"])}, checkpoint
