"""Compress test sets with gzip, bz2, LZMA, PNG and WebP: the benchmark of Kingma, Abbeel, Ho 2019, section 5.

The default is every dataset whose test set is in DATA. The images are those of the compression experiments:
EXPERIMENTS times NDATAPOINTS of a test set, none twice; of photographs (imagenetcrop) 100, cropped to multiples of 32
pixels, and their mean rate. Results are in bits per dimension of the images themselves (MNIST: 28x28, not padded).

    gzip, bz2, LZMA        compress the raw bytes of an experiment's images, or of a photograph, as one stream
    PNG, WebP, JPEG XL     compress every image as a file of its own; of PNG only the compressed pixels are counted
                           (the payload of the IDAT chunks)

The settings are the published ones: PNG with optimize=True, WebP with quality=100. JPEG XL is measured as well if the
package pillow-jxl-plugin is installed.

Reads   DATA/<dataset>/test.npy, or DATA/imagenetcrop/test/. If one that was named is absent, MNIST and CIFAR-10 are
        downloaded and kept there
Writes  OUTPUT/plots/<dataset>/benchmark.csv   one row for each compressor
        and a table for each dataset on stdout
"""

import functools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec import command, competitors
from utils import cli, datasets, paths, photographs, progress
from utils.errors import UserError
from utils.tables import write_csv

HEADER = ("dataset", "compressor", "bits_per_dim", "experiments", "ndatapoints", "seed")


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=f"of {', '.join(datasets.NAMES)}")
    datasets.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which plots/ is written")
    args = parser.parse_args(argv)
    for name in set(args.datasets).difference(datasets.NAMES):
        parser.error(f"{name} is none of {', '.join(datasets.NAMES)}")
    return args


def measure(dataset, args):
    """Compress a test set: (rates {compressor: bits/dim}, experiments and images in each)."""
    if dataset == datasets.PHOTOGRAPHS:
        chosen = photographs.choose(datasets.find_photographs("test", args.data), None, args.seed)
        dims = np.array([photograph.pixels.size for photograph in chosen])
        return {name: (bits / dims).mean() for name, bits in command.other_bits(chosen).items()}, (len(chosen), 1)
    chains = datasets.choose(dataset, args)
    bar = functools.partial(progress.bar, desc=dataset, unit="experiment")
    return competitors.measure(chains, bar), chains.shape[:2]


@cli.script
def main(argv=None):
    """Draw the images, compress them, write the rates of each dataset and print a table."""
    args = arguments(argv)
    folders = {name: datasets.find_folder(name, "test", args.data) for name in datasets.NAMES}
    names = args.datasets or [name for name, folder in folders.items() if datasets.has_split(folder, "test")]
    if not names:
        raise UserError(f"there is no test set in {args.data}; name one, e.g. mnist, and it is downloaded")
    files = {name: args.output / "plots" / name / "benchmark.csv" for name in names}
    paths.check_folder_writable(*(file.parent for file in files.values()))
    for dataset, file in files.items():
        rates, (experiments, count) = measure(dataset, args)
        print(f"\n{dataset}, {experiments} x {count} test images:{command.comparison(rates)}")
        rows = [(dataset, name, rate, experiments, count, args.seed) for name, rate in rates.items()]
        print(f"\nwrote {write_csv(file, HEADER, rows)}")


if __name__ == "__main__":
    main()
