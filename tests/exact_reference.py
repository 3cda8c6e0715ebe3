"""Shared by the tests of exact networks: small ones, and the same computed in NumPy's integers and Decimal alone."""

import functools
import hashlib
import math
from decimal import Decimal, localcontext

import numpy as np
import torch
from conftest import small_model

from model import make_exact
from model.exact import FRACTION, STREAM
from utils.fixed_point import SCALES

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
        return min(SCALES - 1, max(0, round((scale.ln() / Decimal(2).ln() + 12) * 256)))
