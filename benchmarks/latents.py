"""Try whether latents earn anything under the context likelihood, at equal training time."""

import copy
import math
import time

import common
import numpy as np
import torch
from torch import nn

from model import context_data
from model.context import HIDDEN
from model.context_training import ContextNetwork, average_in
from model.vae import Model
from utils import cli, datasets, paths
from utils.torch import rand
from utils.torch.modules import WnConv2d, init_mode

COLUMNS = ["dataset", "nz", "seconds", "steps", "recon", "KL", "bits/dim"]
WIDTH, BLOCKS, NPROCESSING = 32, 4, 2  # of the networks of the latents, as in the checkpoints that ship
PIXELS = 4096  # a step
WARM_UP = 0.3  # of the time, over which the KL is weighed in

DESCRIPTION = f"""Try whether latents earn anything under the context likelihood, at equal training time.

Trains the context network alone (nz = 0), and as the likelihood p(x|z_1) of a model with latents, whose generative
network gives {HIDDEN} features a pixel that are added to the first layer of the context network's trunk. Each trial
has the same processor time on one thread. The learning rates fall to zero over it by a cosine, and the KL is weighed
in over its first {WARM_UP:.0%}. A row is of the first test images, with averaged weights: the terms of the bound."""


class Trial(nn.Module):
    """forward(images) gives (reconstruction, KL), bits/dim of each of images, uint8 [N, H, W, C]."""

    def __init__(self, dataset, nz):
        super().__init__()
        self.network, self.model = ContextNetwork(), None
        if nz:
            zchannels = 1 if dataset == "mnist" else 8
            xs = datasets.model_shape(dataset)
            self.model = Model(xs, nz, zchannels, NPROCESSING, 3, BLOCKS, WIDTH, conditional_scale=True)
            self.model.gen_mu = nn.Sequential(WnConv2d(WIDTH, 4 * HIDDEN, 3, init_scale=0.1), nn.PixelShuffle(2))
            self.model.gen_std = nn.Identity()

    def forward(self, images):
        features, kl = (0, torch.zeros(len(images))) if self.model is None else self.latents(images)
        bits = self.network.bits(*context_data.describe_images(images), features)[:, : images.shape[3]]
        dims = images[0].size
        return bits.reshape(len(images), -1).sum(1) / dims, kl / dims

    def latents(self, images):
        """What the latents say of each pixel, [pixels, HIDDEN], and their KL, [N] bits."""
        model, nats = self.model, 0.0
        given = torch.from_numpy(datasets.to_channels_first(images))
        for i in range(model.nz):
            mu, scale = model.infer(i, given)
            z = rand.sample(mu, scale)
            nats += rand.log_density(z, mu, scale).sum((1, 2, 3))
            if i:
                nats -= rand.log_density(given, *model.generate(i, z)).sum((1, 2, 3))
            else:
                h = model.gen_mu(model.gen_res0(model.gen_res1(model.gen_in(z))))
            given = z
        nats -= rand.log_density(given, torch.zeros_like(given), torch.ones_like(given)).sum((1, 2, 3))
        edge = (h.shape[-1] - images.shape[2]) // 2  # MNIST's padding
        h = h[..., edge : h.shape[-2] - edge, edge : h.shape[-1] - edge]
        return h.permute(0, 2, 3, 1).flatten(0, 2), nats / math.log(2)


def measure(dataset, nz, train, test, seconds):
    """A row of the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    trial, generator = Trial(dataset, nz), np.random.default_rng(0)
    count = max(1, PIXELS // (train.shape[1] * train.shape[2]))
    if nz:
        with torch.no_grad(), init_mode():
            trial(train[:100])
    average = copy.deepcopy(trial)
    rates = {"network": 3e-3, "model": 2e-3}
    groups = [{"params": list(part.parameters()), "rate": rates[name]} for name, part in trial.named_children()]
    optimiser = torch.optim.Adam(groups, fused=True)
    steps, began = 0, time.process_time()
    while (done := (time.process_time() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * done))
        recon, kl = trial(train[np.sort(generator.choice(len(train), count, replace=False))])
        optimiser.zero_grad()
        (recon.mean() + min(1, done / WARM_UP) * kl.mean()).backward()
        torch.nn.utils.clip_grad_norm_(trial.parameters(), 1.0)
        optimiser.step()
        steps += 1
        average_in(average, trial, steps)
    with torch.no_grad():
        torch.manual_seed(1)
        parts = [average(test[i : i + 50]) for i in range(0, len(test), 50)]
    recon, kl = (torch.cat(part).double().mean().item() for part in zip(*parts, strict=True))
    return dataset, nz, seconds, steps, recon, kl, recon + kl


@cli.script
def main(argv=None):
    """Measure all rows."""
    parser = common.parser(DESCRIPTION, "latents")
    parser.add_argument("--dataset", choices=tuple(datasets.SHAPES), default="cifar", help="what to train on")
    parser.add_argument(
        "--nz", type=cli.whole_number(0, 8), nargs="+", default=[0, 1], help="latent layers, a row each"
    )
    parser.add_argument("--seconds", type=cli.whole_number(1), default=480, help="processor time of a trial")
    parser.add_argument("--images", type=cli.whole_number(1), default=200, help="test images, the first")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    args = parser.parse_args(argv)
    seconds, images = (2, 2) if args.quick else (args.seconds, args.images)
    train = datasets.load(args.dataset, "train", args.data)
    test = datasets.load(args.dataset, "test", args.data)[:images]
    rows = (measure(args.dataset, nz, train, test, seconds) for nz in args.nz)
    common.report("latents", args.output, COLUMNS, rows, len(args.nz))


if __name__ == "__main__":
    main()
