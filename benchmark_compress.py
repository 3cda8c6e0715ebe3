"""Compress a test set with gzip, bz2, LZMA, PNG and WebP: the benchmark of Kingma, Abbeel, Ho 2019, section 5.

The images are the very ones that the compression experiment draws: EXPERIMENTS times NDATAPOINTS of the test set,
none twice. Results are in bits per dimension of the images themselves (MNIST: 28x28, not padded).

    gzip, bz2, LZMA        compress the raw bytes of an experiment's images as one stream
    PNG, WebP, JPEG XL     compress every image as a file of its own; of PNG only the compressed pixels are counted
                           (the payload of the IDAT chunks)

Reads   DATA/<dataset>/test.npy; where it is absent, MNIST and CIFAR-10 are downloaded and kept there
Writes  OUTPUT/plots/<dataset>/benchmark.csv   one row for each compressor
        and the table on stdout
"""

import csv
import functools
from pathlib import Path

from tqdm import tqdm

from codec import conventional
from utils import cli, datasets, paths


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", choices=tuple(datasets.SHAPES), default="mnist", help="whose test set")
    datasets.add_arguments(parser)
    parser.add_argument("--jxl", action="store_true", help="JPEG XL, too; needs pillow-jxl-plugin or imagecodecs")
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which plots/ is written")
    return parser.parse_args(argv)


def write(path, rates, args, experiments, ndatapoints):
    """Write the table {compressor: bits/dim} as CSV."""
    header = ["dataset", "compressor", "bits_per_dim", "experiments", "ndatapoints", "seed"]
    try:
        with paths.whole(path, "w") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(header)
            for name, rate in rates.items():
                table.writerow([args.dataset, name, rate, experiments, ndatapoints, args.seed])
    except OSError as error:
        raise cli.UserError(f"{path} cannot be written ({error.strerror or error}); see --output") from None


@cli.script
def main():
    """Draw the images, compress them, print the table and write it."""
    args = arguments()
    images = datasets.load(args.dataset, "test", args.data)
    chains = datasets.sample_chains(len(images), args.experiments, args.ndatapoints, args.seed)
    experiments, ndatapoints = chains.shape
    bar = functools.partial(tqdm, desc=args.dataset, unit="experiment")
    rates = conventional.measure(images[chains], args.jxl, bar)

    height, width, channels = images.shape[1:]
    print(f"{args.dataset}, {experiments} x {ndatapoints} test images of {height}x{width}x{channels}, seed {args.seed}")
    print(f"\n{'compressor':10}  bits/dim\n{'-' * 20}")
    for name, rate in rates.items():
        print(f"{name:10}  {rate:8.4f}")
    print("\nPNG counts the payload of the IDAT chunks only.")
    path = args.output / "plots" / args.dataset / "benchmark.csv"
    write(path, rates, args, experiments, ndatapoints)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
