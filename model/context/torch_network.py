"""The context network in PyTorch, for training. Its inputs come from the compiled code (model.context.features)."""

import numpy as np
import torch
from torch import nn

from model.context.features import INPUTS, PERIOD
from model.context.mixture import SCALE_LIMIT, UNIFORM
from model.context.weights import HEAD, HIDDEN, OUTPUTS, SHAPES, K, Weights

FEATURES = INPUTS + 2 * (PERIOD + 1)  # the inputs, and the position in a block as two one-hot vectors


class TorchContextNetwork(nn.Module):
    """The network of model.context.network and the likelihood of model.context.mixture, in float32."""

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

    def forward(self, inputs: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The heads' outputs for B pixels.

        inputs: [B, FEATURES]; seen: [B, 3], the colours less the centres, in units of the spread.
        Returns (point [B, 3], outputs [B, 3, OUTPUTS]) as model.context.network.run_head() does.
        """
        x, position = inputs[:, :INPUTS], inputs[:, INPUTS:]
        h = torch.relu(self.first_bias + position @ self.position + x @ self.first)
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
        self, inputs: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor, pixels: torch.Tensor
    ) -> torch.Tensor:
        """The code length of B pixels: [B, 3] bits, under discretized mixtures of logistics and a uniform.

        inputs: [B, FEATURES]; centre: [B, 3]; spread: [B]; pixels: [B, 3], 0..255 in the order of the planes.
        """
        seen = (pixels - centre) / spread[:, None]
        point, outputs = self(inputs, seen)
        logits, means, scales = outputs[..., : 3 * K].unflatten(-1, (3, K)).unbind(-2)
        away = (seen - point)[..., None] - means
        inverse, half = torch.exp(-scales.clamp(-SCALE_LIMIT, SCALE_LIMIT)), (0.5 / spread)[:, None, None]
        upper = torch.sigmoid((away + half) * inverse).masked_fill((pixels == 255)[..., None], 1)
        lower = torch.sigmoid((away - half) * inverse).masked_fill((pixels == 0)[..., None], 0)
        mass = (torch.softmax(logits, -1) * (upper - lower)).sum(-1)
        return -torch.log2((1 - UNIFORM) * mass + UNIFORM / 256)

    def weights(self) -> Weights:
        """These weights, laid out for the compiled network."""
        arrays = {name: np.zeros(shape, np.float32) for name, shape in SHAPES._asdict().items()}
        own = {name: value.detach().float().cpu().numpy() for name, value in self.named_parameters()}
        arrays["first"][:, :HIDDEN], arrays["first"][:, HIDDEN : HIDDEN + 3] = own["first"], own["linear"]
        for name in ("first_bias", "residual", "residual_bias"):
            arrays[name][..., :HIDDEN] = own[name]
        arrays["row"][:, :HIDDEN], arrays["column"][:, :HIDDEN] = np.split(own["position"], 2)
        arrays["head_seen"][:] = (own["head_seen"] * self.later.cpu().numpy()[..., None]).reshape(2, -1)
        for name in ("head_in", "head_bias", "head_out", "head_out_bias"):
            arrays[name][:] = own[name]
        return Weights(**arrays)
