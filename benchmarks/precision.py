"""Compare the rate of the shipped checkpoints in each form of their networks: float32, bfloat16 and exact."""

import common
import torch

from utils import cli, datasets, paths

COLUMNS = ["checkpoint", "images", "float32", "bfloat16", "exact", "bfloat16 - float32", "exact - float32"]
BATCH = 50

DESCRIPTION = """Compare the rate of the shipped checkpoints in each form of their networks.

The negative ELBO of test images, in bits/dim (per padded dimension for MNIST), at the same random numbers. Reads
DATA/<dataset>/test.npy, for imagenetcrop 32x32 patches of DATA/imagenetcrop/test."""


@torch.inference_mode()
def measure(path, dataset, data, count):
    """One row of the table."""
    from model import checkpoints, exact, make_exact
    from model.vae import for_inference
    from utils.cli import PRECISIONS

    model, identity = checkpoints.load(path)
    forms = [for_inference(model, precision) for precision in PRECISIONS]
    forms.append(make_exact.in_floats(exact.find(path, model, identity, dataset), model))
    batches = make_exact.sample_images(dataset, "test", data, count).split(BATCH)
    rates = [torch.cat([make_exact.bits_per_dim(form, pixels) for pixels in batches]) for form in forms]
    means = [rate.double().mean().item() for rate in rates]
    return [path.stem, len(rates[0]), *means, *(mean - means[0] for mean in means[1:])]


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "precision")
    parser.add_argument("--dataset", choices=tuple(datasets.NAMES), nargs="+", default=list(datasets.NAMES), help="of")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--images", type=cli.whole_number(1), default=400, help="test images of each data set")
    args = parser.parse_args()
    if args.quick:
        args.images = 4
    found = [(path, dataset) for dataset in args.dataset for path in sorted(paths.PRETRAINED.glob(f"{dataset}_nz*.pt"))]
    rows = (measure(path, dataset, args.data, args.images) for path, dataset in found)
    common.report("precision", args.output, COLUMNS, rows, len(found))


if __name__ == "__main__":
    main()
