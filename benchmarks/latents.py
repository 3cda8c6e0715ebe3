"""Try whether latents earn anything under the context likelihood, at equal training time."""

import copy
import time

import common
import numpy as np
import torch

from model import context, context_data, training
from model.context_network import ContextNetwork
from model.context_training import average_in
from model.vae import Model, log_likelihoods
from utils import cli, datasets, distributed, paths
from utils.published import SETTINGS
from utils.torch.modules import fold_weight_norm, init_mode

COLUMNS = ["dataset", "nz", "near", "seconds", "steps", "recon", "KL", "bits/dim"]
WIDTH, BLOCKS, NPROCESSING = 32, 4, 2  # of the networks of the latents, as in the checkpoints that ship
PIXELS = 4096  # a step of the context network alone
BATCH = 16  # images, with latents
RATES = {"network": 3e-3, "latents": 2e-3}
GENTLE = 1e-3  # the rate of a context network that is trained already
WARM_UP = 0.3  # of the time, over which the KL is weighed in
CHUNK = 50  # images that are tested at once

DESCRIPTION = f"""Try whether latents earn anything under the context likelihood, at equal training time.

Trains the context network alone (nz = 0), and as the likelihood p(x|z_1) of a model with latents, whose generative
network gives it {context.HIDDEN} features a pixel: --likelihood=context --nz=... of the training scripts. Each trial
has the same processor time on one thread. The learning rates fall to zero over it by a cosine, the KL is weighed in
over its first {WARM_UP:.0%}, and every channel of a latent has one bit free, as in the paper. A row is of the first
test images, with averaged weights: the terms of the bound, per dimension of the images."""


def known_inputs(near):
    """1 for what a context network may see that knows its `near` nearest neighbours, else 0: [INPUTS, 1]."""
    known = torch.zeros(context.INPUTS, 1)
    for colour in range(3):
        known[colour * context.NEAR : colour * context.NEAR + near] = 1
    known[context.ERRORS - 1 :] = near == context.NEAR  # these are made of neighbours, too
    return known


@torch.no_grad()
def blind(network, known):
    """Keep a context network from all other inputs."""
    network.first *= known
    network.linear *= known


def begin(dataset, nz, start, images):
    """(module, context network) to be trained; images: uint8 [N, H, W, C], to initialise with."""
    if not nz:
        module = network = ContextNetwork()
    else:
        settings = SETTINGS[dataset]
        module = Model(settings.xs, nz, settings.zchannels, NPROCESSING, 3, BLOCKS, WIDTH, likelihood="context")
        network = module.context
    if start:
        network.load_weights(start)
    if nz:
        with torch.no_grad(), init_mode():
            log_likelihoods(module, torch.from_numpy(datasets.to_channels_first(images)))
    return module, network


def bound(module, images):
    """(reconstruction, KL) of images uint8 [N, H, W, C], each [N] in bits."""
    if isinstance(module, ContextNetwork):
        recon = module.bits(*context_data.describe_images(images))[:, : images.shape[3]].reshape(len(images), -1).sum(1)
        return recon, torch.zeros_like(recon)
    recon, dec, enc = log_likelihoods(module, torch.from_numpy(datasets.to_channels_first(images)))
    return -recon, (enc - dec).sum((0, 2))


def objective(module, images, weight, dtype, job):
    """What to call backward() of. weight: of the KL."""
    if isinstance(module, ContextNetwork):
        return bound(module, images)[0].mean() / images[0].size
    x = torch.from_numpy(datasets.to_channels_first(images))
    return training.forward(training.Likelihoods(module), module.xs, job, x, len(x), dtype=dtype, kl_weight=weight)[0]


def measure(dataset, nz, near, train, test, seconds, start, job):
    """A row of the table. start: context.Weights to start from, or None."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator, known = np.random.default_rng(0), known_inputs(near)
    module, network = begin(dataset, nz, start, train[:200])
    blind(network, known)
    count = BATCH if nz else max(1, PIXELS // (train.shape[1] * train.shape[2]))
    dtype = training.DTYPES[training.precision(job.device)]
    average, own = copy.deepcopy(module), set(network.parameters())
    groups = [
        {"params": list(own), "rate": GENTLE if start else RATES["network"]},
        {"params": [p for p in module.parameters() if p not in own], "rate": RATES["latents"]},
    ]
    optimiser = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    steps, began = 0, time.process_time()
    while (done := (time.process_time() - began) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = training.cosine(group["rate"], done, 1)
        images = train[np.sort(generator.choice(len(train), count, replace=False))]
        loss = objective(module, images, min(1, done / WARM_UP), dtype, job)
        optimiser.zero_grad()
        loss.backward()
        training.clip(module)
        optimiser.step()
        blind(network, known)
        steps += 1
        average_in(average, module, steps)
    average = fold_weight_norm(average)
    with torch.no_grad():
        torch.manual_seed(1)
        parts = [bound(average, test[i : i + CHUNK]) for i in range(0, len(test), CHUNK)]
    recon, kl = (torch.cat(part).double().mean().item() / test[0].size for part in zip(*parts, strict=True))
    return dataset, nz, near, seconds, steps, recon, kl, recon + kl


@cli.script
def main(argv=None):
    """Measure all rows."""
    parser = common.parser(DESCRIPTION, "latents")
    parser.add_argument("--dataset", choices=tuple(datasets.SHAPES), default="cifar", help="what to train on")
    parser.add_argument(
        "--nz", type=cli.whole_number(0, 8), nargs="+", default=[0, 1], help="latent layers, a row each"
    )
    parser.add_argument(
        "--near", type=cli.whole_number(1, context.NEAR), nargs="+", default=[context.NEAR],
        help="neighbours that the context network sees, rows for each; below the most it does without local errors",
    )  # fmt: skip
    parser.add_argument("--context", metavar="FILE", help="a context network that every trial starts from (.npz)")
    parser.add_argument("--seconds", type=cli.whole_number(1), default=480, help="processor time of a trial")
    parser.add_argument("--images", type=cli.whole_number(1), default=200, help="test images, the first")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    args = parser.parse_args(argv)
    seconds, images = (2, 2) if args.quick else (args.seconds, args.images)
    train = datasets.load(args.dataset, "train", args.data)
    test = datasets.load(args.dataset, "test", args.data)[:images]
    start = context.load(args.context, args.dataset)[0] if args.context else None
    job = distributed.start(gpu=-1)
    trials = [(nz, near) for near in args.near for nz in args.nz]
    rows = (measure(args.dataset, nz, near, train, test, seconds, start, job) for nz, near in trials)
    common.report("latents", args.output, COLUMNS, rows, len(trials))


if __name__ == "__main__":
    main()
