"""Compress test sets with gzip, bz2, LZMA, PNG and WebP: the benchmark of Kingma, Abbeel, Ho 2019, section 5.

Without a data set, it measures all test sets that are in the folder. The images are those of the compression
experiments: EXPERIMENTS times NDATAPOINTS of a test set, none twice; of photographs (imagenetcrop) all, cropped to
multiples of 32 pixels, and their mean rate. Results are in bits per dimension of the images themselves (MNIST: 28x28,
not padded).

    gzip, bz2, LZMA        compress the raw bytes of an experiment's images, or of a photograph, as one stream
    PNG, WebP, JPEG XL     compress every image as a file of its own; of PNG only the compressed pixels are counted
                           (the payload of the IDAT chunks)

The settings are the published ones: PNG with optimize=True, WebP with quality=100. JPEG XL requires the package
pillow-jxl-plugin.

Reads   DATA/<dataset>/test.npy, or DATA/imagenetcrop/test/; MNIST and CIFAR-10 are downloaded to there if they are
        named and absent
Writes  OUTPUT/plots/<dataset>/benchmark.csv   one row for each compressor
        and the table on stdout
"""

import csv
import functools
from pathlib import Path

import numpy as np
from tqdm import tqdm

from codec import competitors
from utils import cli, datasets, paths, photographs


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help=f"of {', '.join(datasets.NAMES)}")
    datasets.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=paths.ROOT, help="folder under which plots/ is written")
    args = parser.parse_args(argv)
    for name in args.datasets:
        if name not in datasets.NAMES:
            parser.error(f"{name} is none of {', '.join(datasets.NAMES)}")
    return args


def list_present(data):
    """The data sets whose test sets are under a folder."""
    files = {name: Path(data) / name / "test.npy" for name in datasets.SHAPES}
    files[datasets.PHOTOGRAPHS] = Path(data) / datasets.PHOTOGRAPHS / "test"
    return [name for name, path in files.items() if path.exists()]


def measure(dataset, args):
    """Compress a data set: (rates {compressor: bits/dim}, the images in words, (experiments, images of each))."""
    jxl = competitors.has_jxl()
    if dataset == datasets.PHOTOGRAPHS:
        chosen = photographs.choose(Path(args.data) / dataset / "test", None, args.seed)
        bar = tqdm(chosen, desc=dataset, unit="photograph", dynamic_ncols=True)
        each = [competitors.measure(photograph.pixels[None, None], jxl) for photograph in bar]
        rates = {name: float(np.mean([rate[name] for rate in each])) for name in each[0]}
        return rates, f"{len(chosen)} photographs", (len(chosen), 1)
    images = datasets.load(dataset, "test", args.data)
    chains = datasets.sample_chains(len(images), args.experiments, args.ndatapoints, args.seed)
    bar = functools.partial(tqdm, desc=dataset, unit="experiment", dynamic_ncols=True)
    rates = competitors.measure(images[chains], jxl, bar)
    experiments, count = chains.shape
    height, width, channels = images.shape[1:]
    return rates, f"{experiments} x {count} test images of {height}x{width}x{channels}", chains.shape


def write(path, dataset, rates, counts, seed):
    """Write the rates {compressor: bits/dim} of a data set as CSV."""
    with paths.replacing(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["dataset", "compressor", "bits_per_dim", "experiments", "ndatapoints", "seed"])
        table.writerows([dataset, name, rate, *counts, seed] for name, rate in rates.items())


def table(rates):
    """All rates {dataset: {compressor: bits/dim}} as text, a column for each data set."""
    lines = [f"{'bits/dim':10}" + "".join(f"  {dataset:>12}" for dataset in rates)]
    for name in next(iter(rates.values())):
        lines.append(f"{name:10}" + "".join(f"  {column[name]:12.4f}" for column in rates.values()))
    return "\n".join(lines)


@cli.script
def main(argv=None):
    """Draw the images, compress them, write the rates of each data set and print the table."""
    args = arguments(argv)
    names = args.datasets or list_present(args.data)
    if not names:
        raise cli.UserError(f"there is no test set in {args.data}; name one, e.g. mnist, to download it")
    paths.check_folder_writable(*(args.output / "plots" / name for name in names))
    rates, described = {}, []
    for dataset in names:
        rates[dataset], images, counts = measure(dataset, args)
        described.append(f"{dataset}: {images}, seed {args.seed}")
        path = args.output / "plots" / dataset / "benchmark.csv"
        write(path, dataset, rates[dataset], counts, args.seed)
        print(f"wrote {path}")
    print("\n" + "\n".join(described) + f"\n\n{table(rates)}\n\nPNG counts the payload of the IDAT chunks only.")
    if not competitors.has_jxl():
        print("For JPEG XL: pip install pillow-jxl-plugin")


if __name__ == "__main__":
    main()
