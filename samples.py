"""Draw what a model and each of its latent layers hold: python samples.py mnist --nz 8

On the left are test images next to their reconstructions. The column "from z3" shows what z3 alone tells of an image:
z3 is inferred from the image, then z2 and z1 are drawn from the model, then the mean of the pixels is shown. On the
right are means of the pixels for latents drawn from the prior.

Under each column are the bits that its layer adds to the negative ELBO, the mean over test images. Under the images are
those of x given z1. The title gives their sum, the negative ELBO.

Models with a colour transform count modulo 256, which shows as spots of a wrong colour where a mean is near 0 or 255.

Writes OUTPUT/plots/samples_<dataset>_nz<k>.{pdf,png}.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils import cli, datasets, figures, paths, results

TESTED = 256  # test images that the bits are the mean of
ROWS, COLUMNS = 8, 6  # test images to draw; columns of images from the prior


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


def draw(title, rebuilt, prior, bits):
    """The figure. rebuilt: images and reconstructions, uint8 [rows, 1 + nz, C, H, W]. prior: [rows, COLUMNS, ...].
    bits: of each of the 1 + nz columns.
    """
    images = np.concatenate([rebuilt, np.full_like(rebuilt[:, :1], 255), prior], 1)  # with an empty column between
    figure = figures.sheet(0.55 * images.shape[1], 0.6 + 0.55 * len(images))
    axes = figure.subplots(*images.shape[:2])
    for panel, image in zip(axes.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        panel.imshow(image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for k, cost in enumerate(bits):
        axes[0, k].set_title(f"from z{k}" if k else "image")
        axes[-1, k].set_xlabel((f"z{k}" if k else "x") + f"\n{cost:,.0f} bits")
    axes[0, -COLUMNS // 2].set_title("drawn from the prior")
    figure.suptitle(title, fontsize=8)
    return figure


@cli.script
def main(argv=None):
    parser = cli.parser(__doc__)
    parser.add_argument("dataset", choices=sorted(datasets.NAMES), help="the dataset that the model was trained on")
    cli.add_model_arguments(parser)
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--gpu", type=cli.whole_number(-1), help="index of the GPU, -1 for the CPU (default: any GPU)")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which plots/ is written")
    args = parser.parse_args(argv)
    import torch

    from model import checkpoints
    from model.logs import to_pixels
    from model.vae import for_inference, sample_latents

    paths.check_folder_writable(args.output / "plots")
    model = for_inference(checkpoints.open_for(args.dataset, args).model)
    test = datasets.load(args.dataset, "test", args.data)
    chosen = np.random.default_rng(0).permutation(len(test))[:TESTED]
    torch.manual_seed(0)
    with torch.inference_mode():
        tested = torch.from_numpy(datasets.to_channels_first(test[chosen])).to(next(model.parameters()).device)
        images = tested[:ROWS]
        rebuilt = [to_pixels(model, each) for each in reconstructions(model, model.to_levels(images))]
        *_, z1 = sample_latents(model, len(images) * COLUMNS)
        prior = to_pixels(model, model.generate(0, z1)[0]).view(-1, COLUMNS, *model.xs)
        bits = measure(model, tested)
    rate = sum(bits) / np.prod(test[:1].shape)
    title = f"{results.DATASETS[args.dataset]}, nz = {model.nz}: {sum(bits):,.0f} bits an image, {rate:.3f} bits/dim"
    figure = draw(title, torch.stack([images, *rebuilt], 1).cpu().numpy(), prior.cpu().numpy(), bits)
    written = figures.save(figure, args.output / "plots" / f"samples_{args.dataset}_nz{model.nz}")
    print("wrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
