"""The context network (model.context) in PyTorch: what trains it, and what a model's likelihood is computed with."""

import math

import numpy as np
import torch
from torch import nn

from model import context, context_data
from model.context import HEAD, HIDDEN, INPUTS, OUTPUTS, PERIOD, SCALE_LIMIT, K, Weights
from model.context_mixture import UNIFORM

_AT_ONCE = 32  # images whose pixels are described together


class ContextNetwork(nn.Module):
    """The network of model.context in PyTorch, in float32."""

    later: torch.Tensor  # [2, 3]: 1 where green, red is known to a colour

    def __init__(self) -> None:
        super().__init__()

        def normal(*shape, std):
            return nn.Parameter(torch.randn(shape) * std)

        def zeros(*shape):
            return nn.Parameter(torch.zeros(shape))

        self.first, self.first_bias = normal(INPUTS, HIDDEN, std=INPUTS**-0.5), zeros(HIDDEN)
        self.position = zeros(2 * (PERIOD + 1), HIDDEN)  # rows, then columns
        self.linear = zeros(INPUTS, 3)
        self.residual, self.residual_bias = normal(2, HIDDEN, HIDDEN, std=0.5 * HIDDEN**-0.5), zeros(2, HIDDEN)
        self.head_in, self.head_bias = normal(HIDDEN, 3 * HEAD, std=(2 / HIDDEN) ** 0.5), zeros(3 * HEAD)
        self.head_seen = normal(2, 3, HEAD, std=0.1)
        self.head_out = normal(3, HEAD, OUTPUTS, std=0.02)
        start = torch.zeros(3, OUTPUTS)
        start[:, K : 2 * K] = torch.linspace(-0.5, 0.5, K)
        start[:, 2 * K : 3 * K] = torch.tensor([-0.5, -1.0, -1.5, -1.0, -0.5])
        start[1, 3 * K], start[2, 3 * K], start[2, 3 * K + 1] = 0.9, 0.2, 0.7
        self.head_out_bias = nn.Parameter(start)
        later = torch.tensor([[0.0, 1, 1], [0, 0, 1]])  # green is known to red and blue, red to blue
        self.register_buffer("later", later, persistent=False)

    def forward(
        self, inputs: torch.Tensor, seen: torch.Tensor, more: torch.Tensor | int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What follows from the features of B pixels.

        inputs: [B, FEATURES]; seen: [B, 3], the colours less the centres in units of the spread. more: [B, HIDDEN],
        added to the trunk's first layer.
        Returns (point [B, 3], outputs [B, 3, OUTPUTS]) as model.context.head() gives them.
        """
        x, position = inputs[:, :INPUTS], inputs[:, INPUTS:]
        h = torch.relu(self.first_bias + position @ self.position + x @ self.first + more)
        for i in range(2):
            h = h + torch.relu(torch.addmm(self.residual_bias[i], h, self.residual[i]))
        linear = x @ self.linear
        known = (seen - linear)[:, :2]
        head_seen = (self.head_seen * self.later[..., None]).flatten(1)
        hidden = torch.relu(torch.addmm(self.head_bias, h, self.head_in) + known @ head_seen)
        outputs = torch.baddbmm(self.head_out_bias[:, None], hidden.view(-1, 3, HEAD).transpose(0, 1), self.head_out)
        outputs = outputs.transpose(0, 1)
        coefficients = outputs[..., 3 * K : 3 * K + 2] * self.later.T
        return linear + (coefficients * known[:, None]).sum(-1), outputs

    def bits(
        self,
        inputs: torch.Tensor,
        centre: torch.Tensor,
        spread: torch.Tensor,
        pixels: torch.Tensor,
        more: torch.Tensor | int = 0,
    ) -> torch.Tensor:
        """The code length of pixels [B, 3], 0..255 in the order of the planes: [B, 3] bits.

        centre: [B, 3]; spread: [B]; more: as in forward(). A discretized mixture of logistics, the outer bins open,
        mixed with a uniform.
        """
        seen = (pixels - centre) / spread[:, None]
        point, outputs = self(inputs, seen, more)
        logits, means, scales = outputs[..., : 3 * K].unflatten(-1, (3, K)).unbind(-2)
        away = (seen - point)[..., None] - means
        inverse, half = torch.exp(-scales.clamp(-SCALE_LIMIT, SCALE_LIMIT)), (0.5 / spread)[:, None, None]
        upper = torch.sigmoid((away + half) * inverse).masked_fill((pixels == 255)[..., None], 1)
        lower = torch.sigmoid((away - half) * inverse).masked_fill((pixels == 0)[..., None], 0)
        mass = (torch.softmax(logits, -1) * (upper - lower)).sum(-1)
        return -torch.log2((1 - UNIFORM) * mass + UNIFORM / 256)

    def log_likelihood(self, images: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """log p(x | features) of small images, in nats: [B].

        images: uint8 [B, C, H, W]. features: [B, HIDDEN, H, W], of each pixel what is added to the trunk's first layer.
        """
        found = []
        with torch.autocast(features.device.type, enabled=False):
            for some, more in zip(images.split(_AT_ONCE), features.float().split(_AT_ONCE), strict=True):
                described = context_data.describe_images(some.permute(0, 2, 3, 1).cpu().numpy())
                more = more.permute(0, 2, 3, 1).flatten(0, 2)
                inputs, centre, spread, pixels = (part.to(more.device) for part in described)
                bits = self.bits(inputs, centre, spread, pixels, more)[:, : images.shape[1]]
                found.append(-math.log(2) * bits.reshape(len(some), -1).sum(1))
        return torch.cat(found)

    def weights(self) -> Weights:
        """These weights as model.context takes them."""
        arrays = {name: np.zeros(shape, np.float32) for name, shape in context.SHAPES._asdict().items()}
        own = {name: value.detach().float().cpu().numpy() for name, value in self.named_parameters()}
        arrays["first"][:, :HIDDEN], arrays["first"][:, HIDDEN : HIDDEN + 3] = own["first"], own["linear"]
        for name in ("first_bias", "residual", "residual_bias"):
            arrays[name][..., :HIDDEN] = own[name]
        arrays["row"][:, :HIDDEN], arrays["column"][:, :HIDDEN] = np.split(own["position"], 2)
        arrays["head_seen"][:] = (own["head_seen"] * self.later.cpu().numpy()[..., None]).reshape(2, -1)
        for name in ("head_in", "head_bias", "head_out", "head_out_bias"):
            arrays[name][:] = own[name]
        return Weights(**arrays)

    @torch.no_grad()
    def load_weights(self, weights: Weights) -> None:
        """Take over what weights() gave."""
        own = weights._asdict()
        own["linear"], own["position"] = own["first"][:, HIDDEN:], np.concatenate((own["row"], own["column"]))
        own["head_seen"] = own["head_seen"].reshape(2, 3, HEAD)
        for name, parameter in self.named_parameters():
            array = own[name][tuple(map(slice, parameter.shape))]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
