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
from utils.torch.modules import WnConv2d

FORMAT = 1  # of the files
STREAM = 14  # fraction bits of the residual stream, and of all that enters an ELU
STREAM_LIMIT = 1 << 23  # so that float32 holds the sum of two
VALUE_LIMIT = 1 << 30  # of latent values, mu and std
# The arrays of a file, with their types.
ARRAYS = {"weights": np.int16, "biases": np.int32, "exponents": np.int8, "inputs": np.int32, "pixel_std": np.int32}


class Fields(NamedTuple):
    """The content of a file: the numbers of every layer, one layer after the other in the order of walk()."""

    architecture: dict[str, Any]  # the arguments of Model
    checkpoint: str  # identity of the float parameters
    weights: np.ndarray
    biases: np.ndarray  # one per output channel, as in Layer
    exponents: np.ndarray  # likewise
    inputs: np.ndarray  # [layers, 3]: unit, low and most, as in Layer; for least see input_least()
    pixel_std: np.ndarray  # [*xs], FRACTION fraction bits; empty if p(x|z_1) has a conditional scale


class LayerStack(NamedTuple):
    """The layers of one conditional: input; blocks of residual layers (pairs); head, which gives mu and std."""

    input: Layer
    blocks: list[list[tuple[Layer, Layer]]]
    head: Layer


class ExactModel:
    """Integer networks with the interface of a Model: infer, generate, to_levels, to_pixels, xs, zs and nz.

    fields: as make_exact.make() computes them. device: where the networks run.
    Raises ValueError if the fields do not describe networks or a convolution cannot be proved to be exact, and
    UserError if the convolutions of this machine turn out not to be.
    """

    def __init__(self, fields: Fields, device: str | torch.device = "cpu") -> None:
        self.fields, self.device = fields, torch.device(device)
        with torch.device("meta"):  # names and shapes without any numbers
            model = Model(**fields.architecture)
        self.xs, self.zs, self.nz = model.xs, model.zs, model.nz
        self.to_levels, self.to_pixels = model.to_levels, model.to_pixels
        self._networks = unpack(fields, model, self.device)
        self._elu = torch.from_numpy(fixed_point.elu_table(STREAM)).to(self.device, torch.float32)
        scales = fixed_point.scale_thresholds()
        self._thresholds = {kind: torch.from_numpy(table).to(self.device) for kind, table in scales.items()}
        if fields.pixel_std.size:
            self._pixel_scale = self._scale("pixel", torch.from_numpy(fields.pixel_std.astype(np.int64)))

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
                hidden = self._apply_elu(convolve(conv1, self._apply_elu(stream), STREAM))
                stream = convolve(conv2, hidden, STREAM).add_(stream).clamp_(-STREAM_LIMIT, STREAM_LIMIT)
            stream = self._apply_elu(stream)
        return convolve(network.head, stream, STREAM).to(torch.int64).permute(0, 3, 1, 2)

    def _apply_elu(self, x):
        """ELU of integers with STREAM fraction bits: the larger of x and of exp(x) - 1 for the negative part of x."""
        index = x.neg().clamp_(0, len(self._elu) - 1).to(torch.int32)
        return torch.maximum(x, self._elu.index_select(0, index.view(-1)).view(x.shape))


def walk(model: Model, visit: Callable[[str, list[Any]], Any]) -> dict[str, list[LayerStack]]:
    """Arrange visit(name, convolutions) for every layer of a model: {"infer": [LayerStack], "generate": [...]}.

    convolutions: the layer's WnConv2d, or nn.Conv2d of a folded model; a head may have two, for mu and std.
    """
    kinds = nn.Conv2d, WnConv2d

    def convolutions(*parts):
        return [m for part in parts if isinstance(part, nn.Module) for m in part.modules() if isinstance(m, kinds)]

    def network(name, first, residual, mu, std):
        entry = visit(f"{name}.in", convolutions(first))
        blocks = [[visit(f"{name}.res", [convolution]) for convolution in convolutions(part)] for part in residual]
        pairs = [list(zip(layers[::2], layers[1::2], strict=True)) for layers in blocks if layers]
        return LayerStack(entry, pairs, visit(f"{name}.head", convolutions(mu, std)))

    def networks(name, *parts):
        return [network(f"{name}{i}", *each) for i, each in enumerate(zip(*parts, strict=True))]

    m = model
    return {
        "infer": networks(
            "infer",
            [m.infer_in, *m.deepinfer_in],
            [(m.infer_res0, m.infer_res1), *zip(m.deepinfer_res)],
            [m.infer_mu, *m.deepinfer_mu],
            [m.infer_std, *m.deepinfer_std],
        ),
        "generate": networks(
            "generate",
            [m.gen_in, *m.deepgen_in],
            [(m.gen_res1, m.gen_res0), *zip(m.deepgen_res)],
            [m.gen_mu, *m.deepgen_mu],
            [m.gen_std, *m.deepgen_std],
        ),
    }


def input_least(name: str, unit: int, most: int) -> int:
    """The lower bound of a layer's input: -1, the lower bound of ELU, or in a first layer -most."""
    return -most if name.endswith(".in") else -(1 << unit)


def unpack(fields: Fields, model: Model, device: torch.device) -> dict[str, list[LayerStack]]:
    """The layers that the fields describe, proved and checked.

    model: one of which only the shapes are used. Raises ValueError if the fields do not fit it.
    """
    shapes: list[tuple[int, ...]] = []
    walk(model, lambda _, parts: shapes.append((sum(len(p.v) for p in parts), *parts[0].v.shape[1:])))
    sizes, channels = [math.prod(shape) for shape in shapes], [shape[0] for shape in shapes]
    pixel_std = (0,) if isinstance(model.gen_std, nn.Module) else model.xs
    expected = (sum(sizes),), (sum(channels),), (sum(channels),), (len(shapes), 3), pixel_std
    for (name, dtype), array, shape in zip(ARRAYS.items(), fields[2:], expected, strict=True):
        if array.shape != shape or array.dtype.newbyteorder("=") != dtype:
            raise ValueError(f"{name}: {array.dtype} {list(array.shape)} does not fit the architecture")

    def split(array, counts):
        return np.split(array.astype(np.int64), np.cumsum(counts)[:-1])

    each = (split(fields.weights, sizes), split(fields.biases, channels), split(fields.exponents, channels))
    layers = iter(zip(shapes, *each, fields.inputs.tolist(), strict=True))
    checked = set()

    def visit(name, _):
        shape, weight, bias, exponent, (unit, low, most) = next(layers)
        if not (0 <= unit <= 24 and 0 <= low <= 24 and 0 < most <= EXACT and np.abs(exponent).max() <= 64):
            raise ValueError(f"{name}: numbers out of range")
        bound, fraction = (VALUE_LIMIT, FRACTION) if name.endswith("head") else (STREAM_LIMIT, STREAM)
        weight = torch.from_numpy(weight.reshape(shape)).to(device, torch.float32)
        layer = Layer(
            weight.contiguous(memory_format=torch.channels_last),
            torch.from_numpy(bias).to(device, torch.float32),
            torch.from_numpy(np.ldexp(1.0, fraction - exponent)).to(device, torch.float32),
            unit, low, input_least(name, unit, most), most, bound,
        )  # fmt: skip
        prove(name, layer)
        if shape not in checked:
            check(name, layer, device)
            checked.add(shape)
        return layer

    return walk(model, visit)


def save(path: str | Path, exact: ExactModel) -> None:
    """Write an ExactModel as an .npz file, whole or not at all."""
    parts = {"format": FORMAT, "architecture": exact.fields.architecture, "checkpoint": exact.fields.checkpoint}
    arrays = dict(zip(ARRAYS, exact.fields[2:], strict=True))
    npz.save(path, header=json.dumps(parts, sort_keys=True), **arrays)


def load(path: str | Path, device: str | torch.device = "cpu") -> ExactModel:
    """Read an ExactModel that save() wrote.

    Raises UserError if the file is absent, damaged or something else, or if convolutions are not exact on this machine.
    """
    remedy = "model/make_exact.py makes it from a checkpoint"
    text, *arrays = npz.load(path, ("header", *ARRAYS), remedy)
    try:
        parts = json.loads(str(text))
        if parts["format"] != FORMAT:
            raise ValueError(f"format {parts['format']!r}, and this program reads format {FORMAT}")
        a = parts["architecture"]
        fields = Fields(a | {"xs": tuple(a["xs"])}, parts["checkpoint"], *arrays)
        # Before any network is built: a damaged header must not describe one that is larger than its file.
        if fields.inputs.shape != (4 * (a["nz"] + a["nprocessing"] + a["resdepth"]), 3):
            raise ValueError("its layers are not those of its architecture")
        return ExactModel(fields, device)
    except UserError:
        raise
    except Exception as error:  # a damaged header makes Model() raise all sorts of exceptions
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not the exact form of a model ({reason}); {remedy}") from None


def find(checkpoint: Checkpoint) -> ExactModel | None:
    """The exact form that was made for a checkpoint, on the device of its model, or None."""
    for file in filter(Path.exists, checkpoint.exact_files()):
        exact = load(file, next(checkpoint.model.parameters()).device)
        if exact.fields.checkpoint == checkpoint.identity:
            return exact
    return None
