"""Training the context network (model.context) on photographs: imagenetcrop_train.py --likelihood=context.

Every step takes tiles of 8x16 pixels anywhere in the photographs and lowers the code length of their pixels, each
given the true ones above and to the left. A part of the tiles comes from photographs that were made smaller, which
rids them of the traces of JPEG's blocks; for these, and for some of the others, the network is not told where in a
block a pixel is.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from model import context
from model.context import HEAD, HIDDEN, INPUTS, OUTPUTS, PAD, PERIOD, SCALE_LIMIT, K, Weights
from model.context_mixture import UNIFORM
from utils import cli, datasets, paths
from utils.compiled import compiled
from utils.errors import UserError

TILE = (8, 16)
VALIDATION = 40  # photographs
SMALLER = 0.3  # of the tiles come from photographs made smaller
NO_BLOCKS = 0.15  # of the others do not know the blocks
EMA = 0.999
SAVE_SECONDS = 60
FEATURES = INPUTS + 2 * (PERIOD + 1)  # the position in a block follows, as two one-hot vectors


class ContextNetwork(nn.Module):
    """The network of model.context in PyTorch, in float32."""

    def __init__(self):
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

    def forward(self, inputs, seen):
        """What follows from the features of B pixels.

        inputs: [B, FEATURES]; seen: [B, 3], the colours less the centres in units of the spread.
        Returns (point [B, 3], outputs [B, 3, OUTPUTS]) as model.context.head() gives them.
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

    def bits(self, inputs, centre, spread, pixels):
        """The code length of pixels [B, 3], 0..255 in the order of the planes: [B, 3] bits.

        centre: [B, 3]; spread: [B]. A discretized mixture of logistics, the outer bins open, mixed with a uniform.
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

    def weights(self):
        """These weights as model.context takes them."""
        arrays = {name: np.zeros(shape, np.float32) for name, shape in context.SHAPES._asdict().items()}
        own = {name: value.detach().numpy() for name, value in self.named_parameters()}
        arrays["first"][:, :HIDDEN], arrays["first"][:, HIDDEN : HIDDEN + 3] = own["first"], own["linear"]
        for name in ("first_bias", "residual", "residual_bias"):
            arrays[name][..., :HIDDEN] = own[name]
        arrays["row"][:, :HIDDEN], arrays["column"][:, :HIDDEN] = np.split(own["position"], 2)
        arrays["head_seen"][:] = (own["head_seen"] * self.later.numpy()[..., None]).reshape(2, -1)
        for name in ("head_in", "head_bias", "head_out", "head_out_bias"):
            arrays[name][:] = own[name]
        return Weights(**arrays)


# Tiles


class Photographs:
    """Planes of photographs, one after the other: flat uint8, with where each begins and its shape, int64 [N, 2]."""

    def __init__(self, images):
        planes = [context.from_pixels(image) for image in images]
        self.shapes = np.array([each.shape[1:] for each in planes])
        self.starts = np.cumsum([0] + [each.size for each in planes])[:-1]
        self.flat = np.concatenate([each.ravel() for each in planes])

    def draw(self, generator, count):
        """Corners of tiles, each as likely as any other: int64 [count, 3], photograph, row and column in the planes."""
        inner = (self.shapes - (PAD + 1, 2 * PAD) - TILE + 1).prod(1)
        which = generator.choice(len(inner), count, p=inner / inner.sum())
        # Not the first row, which sees others above itself than from_pixels() puts there.
        last = self.shapes[which] - (0, PAD) - TILE
        return np.column_stack((which, generator.integers((PAD + 1, PAD), last, endpoint=True)))


@compiled
def _describe(flat, starts, shapes, tiles, blocks, inputs, centre, spread, pixels):
    s = np.empty(INPUTS, np.float32)
    inputs[:] = 0
    n = 0
    for t in range(len(tiles)):
        which, top, left = tiles[t]
        height, width = shapes[which]
        planes = flat[starts[which] : starts[which] + 3 * height * width].reshape(3, height, width)
        for y in range(top, top + TILE[0]):
            for x in range(left, left + TILE[1]):
                spread[n] = context.features(planes, y, x, s, centre[n])
                inputs[n, :INPUTS] = s
                inputs[n, INPUTS + ((y - PAD) % PERIOD if blocks[t] else PERIOD)] = 1
                inputs[n, INPUTS + PERIOD + 1 + ((x - PAD) % PERIOD if blocks[t] else PERIOD)] = 1
                for c in range(3):
                    pixels[n, c] = planes[c, y, x]
                n += 1


def describe(photographs, tiles, blocks):
    """What bits() takes of the pixels of tiles, as draw() gives them. blocks: bool per tile, whether it has blocks."""
    count = len(tiles) * TILE[0] * TILE[1]
    arrays = [np.empty((count, *shape), np.float32) for shape in ((FEATURES,), (3,), (), (3,))]
    _describe(photographs.flat, photographs.starts, photographs.shapes, tiles, blocks, *arrays)
    return [torch.from_numpy(array) for array in arrays]


def load_photographs(root):
    """The training photographs and those for validation: two lists of uint8 [H, W, 3]. Raises UserError."""
    opened = datasets.open_photographs(Path(root or paths.DATA) / context.DATASET / "train")
    images = []
    for i, (height, width) in enumerate(opened.sizes):
        if opened.decoded is not None:
            images.append(opened.pixels[opened.ends[i] - 3 * height * width : opened.ends[i]].reshape(height, width, 3))
        else:
            images.append(datasets.decode(opened.folder / opened.names[i].decode()))
    images = [image for image in images if min(image.shape[:2]) >= 2 * PERIOD]
    order = np.random.default_rng(0).permutation(len(images))  # the same split in every run
    held = min(VALIDATION, len(images) // 2)
    if not held:
        raise UserError(f"{opened.folder} holds {len(images)} photographs; training takes two or more")
    return [images[i] for i in order[held:]], [images[i] for i in order[:held]]


def make_smaller(image, generator):
    """A photograph at 0.4 to 0.8 of its size, but of no side under 32 pixels."""
    factor = generator.uniform(0.4, 0.8)
    size = [max(2 * PERIOD, round(side * factor)) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


# The loop


def batch(photographs, smaller, generator, pixels):
    """Draw a batch of so many pixels: what bits() takes."""
    tiles = pixels // (TILE[0] * TILE[1])
    few = generator.binomial(tiles, SMALLER)
    parts = [
        describe(photographs, photographs.draw(generator, tiles - few), generator.random(tiles - few) >= NO_BLOCKS),
        describe(smaller, smaller.draw(generator, few), np.zeros(few, bool)),
    ]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@torch.no_grad()
def validate(network, sets):
    """The mean code length of each set of pixels, in bits/dim."""
    return [network.bits(*pixels).double().mean().item() for pixels in sets]


def train(args):
    """Train, or go on training, and write the averaged weights as args.output/model/params/imagenetcrop/context.npz.

    args: steps, batch (pixels), lr, seed, data, output, resume. A run that is cut off goes on with resume as if it
    had not been: what is random in a step follows from its number.
    """
    target = paths.params(context.DATASET, args.output) / context.NAME
    full = target.with_name("context.resume")
    identity = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed}
    state = _load_state(full, identity) if args.resume else None
    images, held = load_photographs(args.data)
    generator = np.random.default_rng(1)
    photographs = Photographs(images)
    smaller = Photographs([make_smaller(image, generator) for image in images])
    sets = []
    for photos, blocks in ((Photographs(held), True), (Photographs([make_smaller(i, generator) for i in held]), False)):
        tiles = photos.draw(np.random.default_rng(2), 512)
        sets.append(describe(photos, tiles, np.full(len(tiles), blocks)))
    torch.manual_seed(args.seed)
    network, average = ContextNetwork(), ContextNetwork()
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), lr=args.lr, fused=True)
    step, curve, spent = 0, [], 0.0
    if state is not None:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, curve, spent = state["step"], state["curve"], state["seconds"]
    count = sum(p.numel() for p in network.parameters())
    print(f"context network: {count:,} parameters, {len(images)} photographs, {args.steps:,} steps of {args.batch:,} "
          f"pixels" + (f", resumed at step {step:,}" if step else ""))  # fmt: skip
    began = saved = time.monotonic()

    def save():
        seconds = spent + time.monotonic() - began
        context.save(
            target, average.weights(), steps=step, seconds=seconds, **identity_record(identity),
            curve=np.array(curve, np.float64).reshape(-1, 3),
        )  # fmt: skip
        with paths.replacing(full) as file:
            torch.save({
                "network": network.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
                "step": step, "curve": curve, "seconds": seconds, "identity": identity,
            }, file)  # fmt: skip

    bar = tqdm(total=args.steps, initial=step, unit="step", dynamic_ncols=True, desc="context network")
    running = None
    try:
        while step < args.steps:
            for group in optimiser.param_groups:
                group["lr"] = args.lr * 0.5 * (1 + math.cos(math.pi * step / args.steps))
            pixels = batch(photographs, smaller, np.random.default_rng((args.seed, step)), args.batch)
            loss = network.bits(*pixels).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # without, some runs end in NaN
            optimiser.step()
            step += 1
            decay = min(EMA, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            value = loss.item()
            if not math.isfinite(value):
                raise UserError(f"the loss is {value} at step {step}; go on with --resume and a lower --lr")
            running = value if running is None else 0.99 * running + 0.01 * value
            bar.update()
            if step % args.test_every == 0 or step == args.steps:
                curve.append((step, *validate(average, sets)))
                bar.write(f"step {step:,}: validation {curve[-1][1]:.4f} bits/dim, made smaller {curve[-1][2]:.4f}")
            if step % 20 == 0:
                bar.set_postfix_str(f"{running:.4f} bits/dim")
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
    except KeyboardInterrupt:
        save()
        raise
    finally:
        bar.close()
    save()
    print(f"wrote {target}")


def identity_record(identity):
    """A run's settings under the names that its checkpoint records them by."""
    return {f"setting_{name}": value for name, value in identity.items()}


def _load_state(path, identity):
    if not path.exists():
        print(f"{path} does not exist: starting from the beginning")
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
    except Exception as error:  # torch.load raises whatever the corruption happens to provoke
        raise UserError(f"{path} is not a full checkpoint ({type(error).__name__}); start without --resume") from None
    if saved != identity:
        raise UserError(f"{path} is of another run, {saved}; use its settings or leave out --resume")
    return state


def main(argv=None):
    """The command line of --likelihood=context."""
    parser = cli.parser(
        "Train the context likelihood on photographs.\n\nWrites, under --output:\n"
        "  model/params/imagenetcrop/context.npz     the averaged weights, with the curve of validation\n"
        "  model/params/imagenetcrop/context.resume  everything that --resume needs"
    )
    whole = cli.whole_number
    parser.add_argument("--likelihood", choices=("context",), default="context", help=cli.argparse.SUPPRESS)
    parser.add_argument(
        "--steps", type=whole(1), default=100_000, help="optimiser steps, over which the rate falls to 0"
    )
    parser.add_argument("--batch", type=whole(512), default=4096, help="pixels a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of everything random")
    parser.add_argument("--test-every", type=whole(1), default=1000, help="steps between validations")
    parser.add_argument("--resume", action="store_true", help="go on from the last full checkpoint, if there is one")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    cli.script(train)(parser.parse_args(argv))
