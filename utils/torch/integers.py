"""Convolutions of integers in float32 that are exact, and so the same on every machine.

A float32 holds every integer up to 2^24. A float32 convolution of integers all of whose partial sums stay within that
is exact, whatever the order of summation: on every processor, for every batch size and number of threads. Where that
leaves too few bits, each activation is split into a high and a low half, both go through the same convolution, and
the results are added. Everything else here is exact as well: products with powers of two, sums of integers within
2^24, rounding to integers (halves to even) and clamping.

Numbers are fixed-point: an integer, and a number of fraction bits. Tensors hold the integers, in floating types.
"""

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from utils.errors import UserError

EXACT = 1 << 24  # float32 holds every integer up to here
_settings_lock = threading.RLock()


class Layer(NamedTuple):
    """A convolution of integers.

    The input has `unit` fraction bits and is clamped to least..most, least < 0 < most. Divided by 2^low it is split
    into an integer, the high half, and a fraction from -1/2 to 1/2, the low half; with low = 0 there is no low half.
    weight: float32 [out, in, k, k], integers. bias: float32 [out], integers in the units of the high half's sums.
    factor: float32 [out], the power of two that takes those sums to the fraction bits of the layer's output.
    bound: the output is clamped to -bound..bound.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    factor: torch.Tensor
    unit: int
    low: int
    least: int
    most: int
    bound: int


def convolve(layer: Layer, values: torch.Tensor, fraction: int) -> torch.Tensor:
    """Convolve integers [B, H, W, in] that have `fraction` fraction bits: integers, float32 [B, H, W, out]."""
    halves = (values * math.ldexp(1, layer.unit - fraction)).round_().clamp_(layer.least, layer.most).float()
    if layer.low:
        halves.mul_(math.ldexp(1, -layer.low))
        high = halves.round()
        halves = torch.cat((high, halves.sub_(high)))
    sums = _convolve(halves, layer.weight)
    if layer.low:
        sums = sums[: len(values)].add_(sums[len(values) :].round_())
    return sums.add_(layer.bias).mul_(layer.factor).round_().clamp_(-layer.bound, layer.bound)


def _convolve(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    sums = F.conv2d(values.permute(0, 3, 1, 2), weight, padding=weight.shape[-1] // 2)
    return sums.permute(0, 2, 3, 1).contiguous()


def largest_sums(weight: np.ndarray, bias: np.ndarray | float, low: int, least: int, most: int) -> np.ndarray:
    """Bounds [out] on the absolute sums in convolve(), in units in which float32 has to hold them: at most EXACT.

    weight, bias: as in Layer, of any type; low, least, most: likewise. No partial sum, in whatever order, is larger
    than the sum of the products of one sign; for inputs of either sign that is the L1 norm of the filter times the
    largest input.
    """
    positive, negative = ((sign * weight).clip(0).sum((1, 2, 3)) for sign in (1, -1))
    (high_most, high_least), (half, _) = largest_halves(low, least, most)
    high = np.maximum(positive * high_most + negative * high_least, negative * high_most + positive * high_least)
    if low == 0:
        return high + abs(bias)
    norm = positive + negative
    # The low half counts in units of 2^-low; rounded to whole units, it is added to the high half.
    return np.maximum(high + norm / 2 + 1 + abs(bias), norm * half)


def largest_halves(low: int, least: int, most: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How far the high half and the low half (in units of 2^-low) go up and down: ((up, down), (up, down))."""
    half = 1 << low >> 1
    return (most + half >> low, half - least >> low), (half, half)


def prove(name: str, layer: Layer) -> None:
    """Raise ValueError unless float32 holds every sum that convolve() makes, whatever its input."""
    weight, bias = (part.cpu().double().numpy() for part in (layer.weight, layer.bias))
    worst = largest_sums(weight, bias, layer.low, layer.least, layer.most).max()
    if not worst <= EXACT:
        raise ValueError(f"{name} is not proved exact: its sums may reach {worst:.0f}, and float32's limit is {EXACT}")


def check(name: str, layer: Layer, device: torch.device) -> None:
    """Raise UserError unless convolutions with the largest sums there can be agree with 64-bit integers.

    The proof assumes that the device sums products of float32; this tries one shape of convolution.
    """
    weight = layer.weight.cpu().numpy().astype(np.int64)
    out_channels, _, k, _ = weight.shape
    extreme = np.abs(weight).sum((1, 2, 3)).argsort()[-4:]
    filters = np.tile(weight[extreme].transpose(0, 2, 3, 1), (1, 15 // k + 1, 15 // k + 1, 1))
    halves = largest_halves(layer.low, layer.least, layer.most)[: 2 if layer.low else 1]
    inputs = np.concatenate([np.where(filters > 0, up, -down) for up, down in halves])
    inputs -= np.sign(inputs) * np.random.default_rng(0).integers(0, 2, inputs.shape)  # so that low bits matter too
    padded = np.pad(inputs, [(0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (1, 2))
    expected = windows.reshape(*inputs.shape[:3], -1) @ weight.reshape(out_channels, -1).T
    with exact_arithmetic(device):
        found = _convolve(torch.from_numpy(inputs).to(device, torch.float32), layer.weight)
    if not np.array_equal(found.cpu().numpy(), expected):
        raise UserError(
            f"{name} is not exact on this machine: its float32 convolutions ({device}) round; use another device or "
            "another build of PyTorch"
        )


@contextlib.contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Inside this context a float32 convolution multiplies and adds float32, and adds up the products themselves.

    That rules out TF32 and bfloat16, autocast, and the Winograd and FFT algorithms of NNPACK and cuDNN; without cuDNN
    PyTorch unfolds the input on a GPU and multiplies matrices. The settings are of the whole process, and restored;
    one thread at a time is in such a context.
    """
    backends: Any = torch.backends  # its annotations lack some of these
    precise = (backends.mkldnn.conv, backends.mkldnn.matmul, backends.cuda.matmul)
    settings = [(backends.cudnn, "enabled", False), *((part, "fp32_precision", "ieee") for part in precise)]
    with _settings_lock:
        before = [getattr(part, name) for part, name, _ in settings]
        try:
            for part, name, value in settings:
                setattr(part, name, value)
            autocast = torch.autocast(device.type, enabled=False)
            with torch.inference_mode(), backends.nnpack.flags(enabled=False), autocast:
                yield
        finally:
            for (part, name, _), value in zip(settings, before, strict=True):
                setattr(part, name, value)
