"""The context network in PyTorch, for training. Its inputs come from the compiled code (model.context.features)."""

import numpy as np
import torch
from torch import nn

from model.context.features import CUT, INPUTS, PERIOD
from model.context.mixture import SCALE_LIMIT, UNIFORM
from model.context.products import pair_inputs
from model.context.weights import (
    COEFFICIENTS,
    GATE,
    HEAD,
    HIDDEN,
    INPUT_BITS,
    KNOWN,
    LAYOUT,
    MAX_INPUT,
    MAX_UNIT,
    OUTPUTS,
    TRUNK,
    UNIT_BITS,
    WIDTH,
    K,
    Weights,
    round_layer,
)

FEATURES = INPUTS + 2 * (PERIOD + 1)  # the inputs, and the position in a block as two one-hot vectors


class TorchContextNetwork(nn.Module):
    """The network of model.context.network and the likelihood of model.context.mixture, in float32."""

    later: torch.Tensor  # [KNOWN, 3]: 1 where a colour's head sees it

    def __init__(self) -> None:
        super().__init__()

        def normal(*shape, std):
            return nn.Parameter(torch.randn(shape) * std)

        def zeros(*shape):
            return nn.Parameter(torch.zeros(shape))

        self.first, self.first_bias = normal(INPUTS, TRUNK, std=INPUTS**-0.5), zeros(TRUNK)
        self.first.data[:, HIDDEN:] = 0  # the linear prediction is that of the centre
        self.position = zeros(2 * (PERIOD + 1), TRUNK)  # rows, then columns
        self.residual, self.residual_bias = normal(2, TRUNK, HIDDEN, std=0.5 * HIDDEN**-0.5), zeros(2, HIDDEN)
        self.head_in, self.head_bias = normal(TRUNK, 3 * HEAD, std=(2 / HIDDEN) ** 0.5), zeros(3 * HEAD)
        self.head_seen = normal(KNOWN, 3, HEAD, std=0.1)
        self.head_out = normal(3, HEAD, OUTPUTS, std=0.02)
        start = torch.zeros(3, OUTPUTS)
        start[:, K : 2 * K] = torch.linspace(-0.5, 0.5, K)
        start[:, 2 * K : 3 * K] = torch.tensor([-0.5, -1.0, -1.5, -1.0, -0.5])
        start[1, COEFFICIENTS], start[2, COEFFICIENTS], start[2, COEFFICIENTS + 1] = 0.9, 0.2, 0.7
        self.head_out_bias = nn.Parameter(start)
        later = torch.arange(KNOWN)[:, None] <= 2 * torch.arange(3)
        self.register_buffer("later", later.float(), persistent=False)

    def forward(
        self, inputs: torch.Tensor, seen: torch.Tensor, least: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The heads' outputs for B pixels.

        inputs: [B, FEATURES]; seen, least: [B, 3], the colours, and their predictions by least squares, less the
        centres, in units of the spread.
        Returns (point [B, 3], outputs [B, 3, OUTPUTS]) as model.context.network.run_head() does.
        """
        x, position = inputs[:, :INPUTS], inputs[:, INPUTS:]
        trunk = self.first_bias + position @ self.position + x @ self.first
        hidden, linear = torch.relu(trunk[:, :HIDDEN]), trunk[:, HIDDEN:]
        for i in range(2):
            both = torch.cat((hidden, linear), 1)
            hidden = hidden + torch.relu(torch.addmm(self.residual_bias[i], both, self.residual[i]))
        known = torch.stack(((least - linear).clamp(-CUT, CUT), seen - linear), 2).flatten(1)  # [B, KNOWN + 1]
        head_seen = (self.head_seen * self.later[..., None]).flatten(1)
        heads = torch.addmm(self.head_bias, torch.cat((hidden, linear), 1), self.head_in)
        heads = torch.relu(heads + known[:, :KNOWN] @ head_seen)
        outputs = torch.baddbmm(self.head_out_bias[:, None], heads.view(-1, 3, HEAD).transpose(0, 1), self.head_out)
        outputs = outputs.transpose(0, 1)
        coefficients = outputs[..., COEFFICIENTS : COEFFICIENTS + 2] * self.later[1:4:2].T
        shift = (coefficients * known[:, None, 1:4:2]).sum(-1)
        return linear + shift + torch.sigmoid(outputs[..., GATE]) * (known[:, ::2] - shift), outputs

    def bits(
        self, inputs: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor, pixels: torch.Tensor,
        least: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """The code length of B pixels: [B, 3] bits, under discretized mixtures of logistics and a uniform.

        inputs: [B, FEATURES]; centre: [B, 3]; spread: [B]; pixels, least: [B, 3], grey levels in the order of the
        planes, and their predictions by least squares.
        """
        seen = (pixels - centre) / spread[:, None]
        point, outputs = self(inputs, seen, (least - centre) / spread[:, None])
        logits, means, scales = outputs[..., : 3 * K].unflatten(-1, (3, K)).unbind(-2)
        away = (seen - point)[..., None] - means
        inverse, half = torch.exp(-scales.clamp(-SCALE_LIMIT, SCALE_LIMIT)), (0.5 / spread)[:, None, None]
        upper = torch.sigmoid((away + half) * inverse).masked_fill((pixels == 255)[..., None], 1)
        lower = torch.sigmoid((away - half) * inverse).masked_fill((pixels == 0)[..., None], 0)
        mass = (torch.softmax(logits, -1) * (upper - lower)).sum(-1)
        return -torch.log2((1 - UNIFORM) * mass + UNIFORM / 256)

    def weights(self) -> Weights:
        """These weights, laid out for the compiled network, those of the trunk rounded."""
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in LAYOUT._asdict().items()}
        own = {name: value.detach().double().cpu().numpy() for name, value in self.named_parameters()}
        added = [own["first_bias"], *np.split(own["position"], 2)]
        first, arrays["first_shift"], added = round_layer(own["first"].T, added, MAX_INPUT, INPUT_BITS)
        arrays["first"], (arrays["first_bias"], arrays["row"], arrays["column"]) = pair_inputs(first), added
        layers = np.swapaxes(own["residual"], 1, 2)
        whole, shift, (bias,) = round_layer(layers, [own["residual_bias"]], MAX_UNIT, UNIT_BITS)
        arrays["residual"][:, :, :HIDDEN] = pair_inputs(whole)
        arrays |= {"residual_shift": shift, "residual_bias": bias}
        own["head_seen"] = (own["head_seen"] * self.later.cpu().numpy()[..., None]).reshape(KNOWN, WIDTH)
        heads = [name for name in own if name.startswith("head")]
        return Weights(**arrays | {name: own[name].astype(np.float32) for name in heads})
