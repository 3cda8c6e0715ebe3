"""Building blocks of the ResNet VAE: weight-normalised convolutions, residual blocks, weight averaging."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_initialising: Any = None  # or what to call with a number of images whenever so many have passed a layer
_CACHED = 1 << 18  # numbers
CHUNK = 128  # images that pass a layer at once while it is initialised, so that Ctrl-C need not wait for thousands


@contextlib.contextmanager
def init_mode(advance: Callable[[int], object] = lambda images: None) -> Iterator[None]:
    """Inside this context a forward pass initialises every WnConv2d it goes through from the data it sees.

    advance: is called with a number of images whenever so many have passed a layer, those of a batch once for each.
    """
    global _initialising
    _initialising = advance
    try:
        yield
    finally:
        _initialising = None


class WnConv2d(nn.Module):
    """A 'same' convolution with weight normalisation and data-dependent initialisation.

    The weight is v * g / |v|, the norm over all but the output channel, with g = softplus(gain) or, if loggain
    is off, g = gain (Salimans and Kingma, Weight Normalization, 2016). Inside init_mode() gain and b are set so
    that the outputs of each channel have mean 0 and, before the softplus, standard deviation init_scale.

    Parameters: v [out, in, k, k], gain [out], b [out].
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, init_scale: float = 1.0, loggain: bool = True
    ) -> None:
        super().__init__()
        self.init_scale = init_scale
        self.loggain = loggain
        self.v = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        if not self.v.is_meta:  # there, PyTorch would load its compiler to draw no numbers, which takes seconds
            nn.init.normal_(self.v, std=0.05)
        self.gain = nn.Parameter(torch.zeros(out_channels) if loggain else torch.ones(out_channels))
        self.b = nn.Parameter(torch.zeros(out_channels))

    def weight(self) -> torch.Tensor:
        """The normalised weight, [out, in, k, k]."""
        gain = F.softplus(self.gain) if self.loggain else self.gain
        norm = torch.linalg.vector_norm(self.v, dim=(1, 2, 3)) + 1e-10
        return self.v * (gain / norm).view(-1, 1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _initialising:
            return self._convolve(x)
        self._initialise(torch.cat([self._convolve(chunk) for chunk in x.split(CHUNK)]))
        outputs = []
        for chunk in x.split(CHUNK):
            outputs.append(self._convolve(chunk))
            _initialising(len(chunk))
        return torch.cat(outputs)

    def _convolve(self, x):
        # Channels last is what CPUs and tensor cores convolve fastest; x follows the weight. A copy, as of a layer with
        # one input channel contiguous() would return the weight as it is. The parameter keeps the published layout.
        weight = self.weight().clone(memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.b, padding=self.v.shape[-1] // 2)

    @torch.no_grad()
    def _initialise(self, out):
        std, mean = torch.std_mean(out, dim=(0, 2, 3))
        scale = self.init_scale / (std + 1e-10)
        self.gain.copy_(torch.log(scale).clamp(min=-10) if self.loggain else scale)
        self.b.sub_(mean * scale)


class ELU(nn.Module):
    """elu() as a module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return elu(x, inplace=True)


def elu(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """x where it is positive, exp(x) - 1 elsewhere (Clevert, Unterthiner, Hochreiter, arXiv 1511.07289).

    On CPUs PyTorch's own may take longer than the convolution before it, as its expm1 is slow with AVX-512
    (docs/benchmarks.md). This is another way to compute it, which near 0 is off by up to 2e-7.

    inplace: whether x may be overwritten, which saves memory on GPUs.
    """
    return _Elu.apply(x) if x.device.type == "cpu" else F.elu(x, inplace=inplace)


class _Elu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.wide = x.dtype.itemsize >= 4
        out = _fast_elu(x) if ctx.wide else _elu_in_float32(x)
        # The output, which the next layer keeps as well, unless it is too rough for the gradient, out + 1 below 0.
        ctx.save_for_backward(out if ctx.wide else x)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.elu_backward(gradient, 1, 1, 1, ctx.wide, ctx.saved_tensors[0])


def _fast_elu(x: torch.Tensor) -> torch.Tensor:
    exp_less_1 = x.clamp(max=0).neg_().sigmoid_().reciprocal_().sub_(2)  # 1 / sigmoid(-x) = 1 + exp(x)
    return torch.maximum(x, exp_less_1, out=exp_less_1)


def _elu_in_float32(x: torch.Tensor) -> torch.Tensor:
    """A few images at a time, so that what is computed in float32 stays in the cache."""
    out, few = torch.empty_like(x), max(1, _CACHED // max(1, x[:1].numel()))
    for part, into in zip(x.split(few), out.split(few), strict=True):
        into.copy_(_fast_elu(part.float()))
    return out


class ResNetLayer(nn.Module):
    """x + conv2(dropout(ELU(conv1(ELU(x))))); conv2 starts at zero, so the layer starts as the identity."""

    def __init__(self, channels: int, kernel_size: int, dropout_p: float) -> None:
        super().__init__()
        self.conv1 = WnConv2d(channels, channels, kernel_size)
        self.dropout = nn.Dropout(dropout_p)
        self.conv2 = WnConv2d(channels, channels, kernel_size, init_scale=0.0, loggain=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = elu(self.conv1(elu(x)), inplace=True)
        return x + self.conv2(self.dropout(hidden))


class ResNetBlock(nn.Sequential):
    """`layers` residual layers one after another, named as in the published checkpoints."""

    def __init__(self, channels: int, kernel_size: int, layers: int, dropout_p: float) -> None:
        super().__init__()
        for j in range(1, layers + 1):
            self.add_module(f"res{channels}layer{j}", ResNetLayer(channels, kernel_size, dropout_p))


class Convolution(nn.Conv2d):
    """A plain convolution, computed in the type of its weight whatever the type of its input."""

    output: torch.dtype | None = None  # the type of the output, where it is another

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(self.output or self.weight.dtype)


def fold_weight_norm(module: Any) -> Any:
    """An inference copy of a module: weight normalisation folded into plain convolutions, gradients off.

    The copy keeps no link to the original; fold again after training on.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, WnConv2d):
                out_channels, in_channels, k, _ = conv.v.shape
                shape = in_channels, out_channels, k
                plain = nn.utils.skip_init(Convolution, *shape, padding=k // 2, device=conv.v.device)
                plain.weight = nn.Parameter(conv.weight().detach(), requires_grad=False)
                plain.bias = nn.Parameter(conv.b.detach(), requires_grad=False)
                setattr(parent, name, plain)
    return folded


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, step: int, decay: float = 0.999, head_start: int = 1) -> None:
    """Move the exponential moving average of a model's parameters one step towards the model, in place.

    step: optimiser steps taken so far, from 1. The decay rises as (head_start + step) / (10 + step) until it reaches
    `decay`, so that the average of a short run does not remember the initial weights.
    """
    decay = min(decay, (head_start + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
