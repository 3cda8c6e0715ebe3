"""The hierarchical ResNet VAE of Bit-Swap (Kingma, Abbeel, Ho 2019, section 4 and appendix D).

The latent variables form a Markov chain: q(z_1|x) q(z_2|z_1) ... and p(x|z_1) p(z_1|z_2) ... p(z_nz), where the
prior p(z_nz) is Logistic(0, 1) and every conditional is an element-wise logistic.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from utils.colour import add_green, subtract_green
from utils.torch import rand
from utils.torch.modules import ELU, Convolution, ResNetBlock, WnConv2d, fold_weight_norm

ARITHMETIC = 2  # raised whenever models compute other floats than before; older bitstreams then no longer decode


class LatentVariableModel(Protocol):
    """What sampling and coding ask of a model that computes in floats: Model, or any other nn.Module that has these.

    For shapes and meaning see Model; a latent may be of any shape, [B, *zs].
    """

    xs: tuple[int, ...]  # the shape of an image
    zs: tuple[int, ...]  # of a latent
    nz: int  # latents

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mu, scale) of q(z_{i+1} | z_i), or of q(z_1 | x) for i = 0, given the levels x."""

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(mu, scale) of p(z_i | z_{i+1}), or of p(x | z_1) for i = 0, the levels spread over [-1, 1]."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As nn.Module has it."""


class Model(nn.Module):
    """Networks for every conditional of the chain.

    xs: image shape (C, H, W), H and W even. nz: latent layers. zchannels: channels of each latent, which has
    shape [zchannels, H/2, W/2]. nprocessing: 5x5 residual layers next to x. kernel_size: of all other layers.
    resdepth: residual layers dealt round-robin over the latent layers. reswidth: channels of all of them.
    conditional_scale: predict the scale of p(x|z_1) from z_1 rather than learning one per pixel.
    colour_transform: model red and blue relative to green (utils.colour); beyond the paper, and recorded in the
    state dict, so that whatever loads a checkpoint knows.

    Parameter names and shapes are those of the paper's published checkpoints.
    """

    def __init__(
        self,
        xs: Sequence[int],
        nz: int,
        zchannels: int,
        nprocessing: int,
        kernel_size: int,
        resdepth: int,
        reswidth: int,
        dropout_p: float = 0.0,
        conditional_scale: bool = False,
        colour_transform: bool = False,
    ) -> None:
        super().__init__()
        self.xs: tuple[int, ...] = tuple(xs)
        self.zs: tuple[int, ...] = (zchannels, xs[1] // 2, xs[2] // 2)
        self.nz = nz
        if colour_transform:
            self.register_buffer("colour_transform", torch.tensor(True))
        k = kernel_size
        c = nz**-0.5  # keeps the initial KL of the whole chain independent of its length

        def residual(kernel_size, layers):
            if layers == 0:
                return nn.Identity()
            return nn.Sequential(ResNetBlock(reswidth, kernel_size, layers, dropout_p), ELU())

        def embed(channels):
            return nn.Sequential(WnConv2d(channels, reswidth, k), ELU())

        def latent_head(scale):
            return WnConv2d(reswidth, zchannels, k, init_scale=scale)

        def pixel_head():
            return nn.Sequential(WnConv2d(reswidth, 4 * xs[0], k, init_scale=0.1), nn.PixelShuffle(2))

        def posterior_scale(layer):
            return math.sqrt(2) * c if layer == nz - 1 else c

        depths = [resdepth // nz + (i < resdepth % nz) for i in range(nz)]
        deep = range(1, nz)

        self.infer_in = nn.Sequential(nn.PixelUnshuffle(2), WnConv2d(4 * xs[0], reswidth, 5), ELU())
        self.infer_res0 = residual(5, nprocessing)
        self.infer_res1 = residual(k, depths[0])
        self.infer_mu = latent_head(posterior_scale(0))
        self.infer_std = latent_head(posterior_scale(0))

        self.deepinfer_in = nn.ModuleList(embed(zchannels) for _ in deep)
        self.deepinfer_res = nn.ModuleList(residual(k, depths[i]) for i in deep)
        self.deepinfer_mu = nn.ModuleList(nn.Sequential(latent_head(posterior_scale(i))) for i in deep)
        self.deepinfer_std = nn.ModuleList(nn.Sequential(latent_head(posterior_scale(i))) for i in deep)

        self.deepgen_in = nn.ModuleList(embed(zchannels) for _ in deep)
        self.deepgen_res = nn.ModuleList(residual(k, depths[i]) for i in deep)
        self.deepgen_mu = nn.ModuleList(nn.Sequential(latent_head(c)) for _ in deep)
        self.deepgen_std = nn.ModuleList(nn.Sequential(latent_head(c)) for _ in deep)

        self.gen_in = embed(zchannels)
        self.gen_res1 = residual(k, depths[0])
        self.gen_res0 = residual(5, nprocessing)
        self.gen_mu = pixel_head()
        self.gen_std: nn.Module | nn.Parameter
        self.gen_std = pixel_head() if conditional_scale else nn.Parameter(torch.zeros(self.xs))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> "Model":
        """Build the model that a checkpoint was saved from, in evaluation mode; dropout is not recorded and is 0.

        Raises ValueError, saying what does not fit, where the state dict is not of this family of models.
        """
        try:
            model = cls(**architecture(state_dict)).float()  # whatever an application's default type is
            model.load_state_dict(state_dict)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
            raise ValueError(f"not the parameters of a Bit-Swap model ({what})") from None
        return model.eval()

    def to_levels(self, pixels: Any) -> Any:
        """The levels x that the model describes, from pixels: uint8 [..., *xs], NumPy or PyTorch; mostly the same."""
        return subtract_green(pixels) if hasattr(self, "colour_transform") else pixels

    def to_pixels(self, levels: Any) -> Any:
        """The inverse of to_levels()."""
        return add_green(levels) if hasattr(self, "colour_transform") else levels

    def infer(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of the posterior q(z_{i+1} | z_i), or q(z_1 | x) for i = 0.

        given: [B, *zs] floats; for i = 0 the levels x, [B, *xs], integers or floats in 0..255.
        Returns (mu, scale), each float32 [B, *zs].
        """
        if i == 0:
            h = self.infer_in(to_unit_range(given))
            h = self.infer_res1(self.infer_res0(h))
            mu, std = self.infer_mu(h), self.infer_std(h)
        else:
            h = self.deepinfer_res[i - 1](self.deepinfer_in[i - 1](given))
            mu, std = self.deepinfer_mu[i - 1](h), self.deepinfer_std[i - 1](h)
        return mu.float(), 0.1 + 0.9 * torch.sigmoid(std.float() + 2)  # not float32 already under autocast

    def generate(self, i: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters of the likelihood p(z_i | z_{i+1}), or p(x | z_1) for i = 0.

        given: z_{i+1}, [B, *zs] floats.
        Returns (mu, scale): float32 [B, *zs], or for i = 0 [B, *xs] on the pixel scale [-1, 1], where the
        scale has no batch axis unless the model has a conditional scale.
        """
        if i == 0:
            h = self.gen_res0(self.gen_res1(self.gen_in(given)))
            std = self.gen_std(h) if isinstance(self.gen_std, nn.Module) else self.gen_std
            return self.gen_mu(h).float(), (2 / 255) / 8 + F.softplus(std.float())
        h = self.deepgen_res[i - 1](self.deepgen_in[i - 1](given))
        mu, std = self.deepgen_mu[i - 1](h), self.deepgen_std[i - 1](h)
        return mu.float(), 0.1 + 0.9 * F.softplus(std.float() + math.log(math.e - 1))


def for_inference(model: Model, precision: str = "float32") -> Model:
    """An inference copy of a Model: weight normalisation folded, gradients off, the weights converted once.

    precision: of utils.cli.PRECISIONS. bfloat16 is for the bodies of the networks: the first convolutions, which see
    x and the latents, and the last, which give mu and std, stay in float32. For a latent, 8 significant bits are too
    few.
    """
    folded = fold_weight_norm(model)
    if precision == "bfloat16":
        for name, module in folded.named_modules():
            if isinstance(module, Convolution):
                part = name.partition(".")[0].rpartition("_")[2]
                dtype = torch.bfloat16 if part.startswith("res") else torch.float32
                module.to(dtype).to(memory_format=torch.channels_last)  # which bfloat16 is fastest in
                if part == "in":
                    module.output = torch.bfloat16
    return folded


def to_unit_range(x: torch.Tensor) -> torch.Tensor:
    """Map grey levels 0..255 to [-1, 1], as float32."""
    return (x.float() - 127.5) / 127.5


def sample_latents(model: LatentVariableModel, count: int) -> Iterator[torch.Tensor]:
    """Draw latents down the generative chain: yields z_nz, ..., z_1, float32 [count, *zs], on the model's device."""
    z = torch.zeros(count, *model.zs, device=next(model.parameters()).device)
    z = rand.sample(z, torch.ones_like(z))  # the prior
    yield z
    for i in reversed(range(1, model.nz)):
        z = rand.sample(*model.generate(i, z))
        yield z


def log_likelihoods(
    model: Model, pixels: torch.Tensor, sample: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = rand.sample
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The terms of the evidence lower bound at one sample of every latent, in bits per image.

    pixels: uint8 [B, *xs]. sample: draws z from (mu, scale).
    Returns logrecon [B], log p(x|z_1); logdec [nz, B, zchannels], log p(z_i|z_{i+1}) and, last, log p(z_nz);
    logenc [nz, B, zchannels], log q(z_i|...), each summed over space.
    The bound (paper, equation 2) is logrecon + sum(logdec - logenc).
    """
    logenc, logdec = [], []
    given = x = model.to_levels(pixels)
    for i in range(model.nz):
        mu, scale = model.infer(i, given)
        z = sample(mu, scale)
        logenc.append(rand.log_density(z, mu, scale).sum((2, 3)))
        mu, scale = model.generate(i, z)
        if i == 0:
            logrecon = rand.discretized_log_likelihood(to_unit_range(x), mu, scale).sum((1, 2, 3))
        else:
            logdec.append(rand.log_density(given, mu, scale).sum((2, 3)))
        given = z
    logdec.append(rand.log_density(given, torch.zeros_like(given), torch.ones_like(given)).sum((2, 3)))
    bit = math.log(2)  # in nats
    return logrecon / bit, torch.stack(logdec) / bit, torch.stack(logenc) / bit


def architecture(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read the constructor arguments of Model off the parameter names and shapes.

    Raises KeyError or IndexError where the names are not those of a Model.
    """
    reswidth, channels4, _, _ = state_dict["infer_in.1.v"].shape
    zchannels, _, kernel_size, _ = state_dict["infer_mu.v"].shape

    def count(pattern):
        return len({match[0] for match in map(re.compile(pattern).match, state_dict) if match})

    return {
        # A conditional scale is convolutional, so such a model fits any size; the paper's images are 32x32.
        "xs": tuple(state_dict["gen_std"].shape) if "gen_std" in state_dict else (channels4 // 4, 32, 32),
        "nz": 1 + count(r"deepinfer_in\.\d+\."),
        "zchannels": zchannels,
        "nprocessing": count(r"infer_res0\.0\.[^.]*\."),
        "kernel_size": kernel_size,
        "resdepth": count(r"infer_res1\.0\.[^.]*\.") + count(r"deepinfer_res\.\d+\.0\.[^.]*\."),
        "reswidth": reswidth,
        "conditional_scale": "gen_std" not in state_dict,
        "colour_transform": "colour_transform" in state_dict,
    }
