"""Draw what a model and each of its latent layers hold: python samples.py mnist --nz 8

On the left are test images next to their reconstructions. The column "from z3" shows what z3 alone tells of an image:
z3 is inferred from the image, then z2 and z1 are drawn from the model, then the mean of the pixels is shown. On the
right are means of the pixels for latents drawn from the prior.

Under each column are the bits that its layer adds to the negative ELBO, the mean over test images. Under the images are
the bits of the pixels given z1. All these add up to the negative ELBO, which the title tells.

Models with a colour transform count modulo 256, which shows as spots of a wrong colour where a mean is near 0 or 255.

Writes OUTPUT/plots/samples_<dataset>_nz<k>.png.
"""

from pathlib import Path

import numpy as np

from utils import cli, datasets, figures, paths, results

TESTED = 256  # test images that the bits are the mean of
COLUMNS = 6  # of images from the prior
GAP = 2  # pixels around each image
PIXELS, DOTS = 60, 180  # pixels of images and of the figure per inch
MARGIN = 0.4  # inches above and below the images, for text


def reconstructions(model, x):
    """Reconstructions of levels x [B, *xs] from z_1, ..., z_nz, each on its own: a list of levels on [-1, 1]."""
    from utils.torch import rand

    found, z = [], x
    for k in range(model.nz):
        z = below = rand.sample(*model.infer(k, z))
        for i in range(k, 0, -1):
            below = rand.sample(*model.generate(i, below))
        found.append(model.generate(0, below)[0])
    return found


def measure(model, pixels):
    """Bits an image, the mean over pixels uint8 [B, *xs]: those of x given z_1, then those of each layer, [1 + nz]."""
    from model.vae import log_likelihoods

    logrecon, logdec, logenc = log_likelihoods(model, pixels)
    layers = (logenc - logdec).sum(2).mean(1)
    return [-logrecon.mean().item(), *layers.tolist()]


def tile(rows):
    """Put images, uint8 [rows, columns, C, H, W], on one sheet [..., ..., 3] with GAP white pixels around each."""
    padded = np.pad(rows, [(0, 0)] * 3 + [(GAP, GAP)] * 2, constant_values=255)
    count, columns, channels, height, width = padded.shape
    sheet = padded.transpose(0, 3, 1, 4, 2).reshape(count * height, columns * width, channels)
    return np.broadcast_to(sheet, (*sheet.shape[:2], 3))


def draw(title, rebuilt, prior, bits):
    """The figure. rebuilt: images and reconstructions, uint8 [rows, 1 + nz, C, H, W]. prior: [rows, COLUMNS, ...].
    bits: of each of the 1 + nz columns.
    """
    left, right = tile(rebuilt), tile(prior)
    between = np.full((len(left), rebuilt.shape[-1] // 2, 3), 255, np.uint8)
    sheet = np.concatenate((left, between, right), 1)
    height, width = (side / PIXELS for side in sheet.shape[:2])
    figure = figures.sheet(width, height + 2 * MARGIN)
    figure.set_layout_engine("none")  # pixels of images are whole numbers of dots
    axes = figure.add_axes((0, MARGIN / (height + 2 * MARGIN), 1, height / (height + 2 * MARGIN)))
    axes.imshow(sheet, interpolation="nearest")
    axes.axis("off")
    axes.text(GAP, -14, title, va="bottom")
    middles = (np.arange(len(bits)) + 0.5) * left.shape[1] / len(bits)
    for k, (middle, cost) in enumerate(zip(middles, bits, strict=True)):
        axes.text(middle, 0, f"from z{k}" if k else "image", ha="center", va="bottom", fontsize=7)
        below = f"z{k}" if k else "x given z1"
        axes.text(middle, len(sheet), f"{below}\n{cost:,.0f} bits", ha="center", va="top", fontsize=7)
    middle = sheet.shape[1] - right.shape[1] / 2
    axes.text(middle, 0, "drawn from the prior", ha="center", va="bottom", fontsize=7)
    return figure


@cli.script
def main(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("dataset", choices=sorted(datasets.NAMES), help="the dataset that the model was trained on")
    cli.add_model_arguments(parser)
    parser.add_argument("--rows", type=cli.whole_number(1, TESTED), default=8, help="test images to draw, one to a row")
    parser.add_argument("--seed", type=cli.SEED, default=0, help="of the choice of images and of everything random")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--gpu", type=cli.whole_number(-1), help="index of the GPU, -1 for the CPU (default: any GPU)")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which plots/ is written")
    parser.add_argument("-o", "--to", type=Path, metavar="FILE", help="the PNG file to write in place of that")
    args = parser.parse_args(argv)
    import torch

    from model import checkpoints
    from model.logs import to_pixels
    from model.vae import for_inference, sample_latents

    model = checkpoints.open_for(args.dataset, args).model
    target = args.to or Path(args.output) / "plots" / f"samples_{args.dataset}_nz{model.nz}.png"
    paths.check_writable(target)
    test = datasets.load(args.dataset, "test", args.data)
    chosen = np.random.default_rng(args.seed).permutation(len(test))[:TESTED]
    device = next(model.parameters()).device
    model = for_inference(model)
    torch.manual_seed(args.seed)
    with torch.inference_mode():
        tested = torch.from_numpy(datasets.to_channels_first(test[chosen])).to(device)
        images = tested[: args.rows]
        rebuilt = [to_pixels(model, each) for each in reconstructions(model, model.to_levels(images))]
        *_, z1 = sample_latents(model, len(images) * COLUMNS)
        prior = to_pixels(model, model.generate(0, z1)[0])
        bits = measure(model, tested)
    columns = torch.stack([images, *rebuilt], 1)
    rate = sum(bits) / np.prod(test[:1].shape)
    title = f"{results.DATASETS[args.dataset]}, nz = {model.nz}: {sum(bits):,.0f} bits an image, {rate:.3f} bits/dim"
    prior = prior.view(-1, COLUMNS, *model.xs)
    figure = draw(title, columns.cpu().numpy(), prior.cpu().numpy(), bits)
    with paths.replacing(target) as file:
        figure.savefig(file, format="png", dpi=DOTS)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
