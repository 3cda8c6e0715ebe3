"""Compare the context network with WebP and JPEG XL on whole image files."""

import itertools
from pathlib import Path

import common

from utils import cli, paths

COLUMNS = ["image", "width", "height", "adapting", "static", "WebP", "JPEG XL"]

DESCRIPTION = """Compare the context network with WebP and JPEG XL on whole image files.

Each compressed file is written to disk, read and decoded, and the pixels are compared. "adapting" and "static": the
context network, which may or may not adapt to the image. Rates are in bits/dim and count whole files. The last row is
the mean over the images. JPEG XL, lossless with effort 7, requires pillow-jxl-plugin. Images that are not RGB are
skipped. rate_time.py measures the time."""


def measure(path, network, scratch):
    """A row of the table, or None if the image is not RGB."""
    from codec import competitors, container, models
    from utils import images

    picture = images.read(path)
    if picture.mode != "RGB":
        return None
    rates, found = [], models.Models(context=lambda _: network)
    for adapting in (True, False):
        data = container.encode(picture, "context", found, adapting=adapting)
        with paths.replacing(scratch) as file:
            file.write(data)
        decoded = container.decode(container.read_file(scratch), found)
        assert images.same(decoded, picture), path
        rates.append(8 * len(data) / picture.pixels.size)
    rates.append(competitors.webp(picture.pixels) / picture.pixels.size)
    has_jxl = "JPEG XL" in competitors.COMPRESSORS
    rates.append(competitors.jxl(picture.pixels) / picture.pixels.size if has_jxl else float("nan"))
    return [path.name, *picture.size, *rates]


def rows(files, network, scratch):
    """A row for each image, then the means."""
    import numpy as np

    done = []
    for path in files:
        row = measure(path, network, scratch)
        if row is not None:
            done.append(row)
            yield row
    yield [f"mean of {len(done)}", "", "", *map(float, np.mean([row[3:] for row in done], axis=0))]


def main():
    parser = common.parser(DESCRIPTION, "photographs")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--context", help="a context network (default: one trained here, or else the one that ships)")
    args = parser.parse_args()
    from model.context import weights

    found = [sorted(each.iterdir()) if each.is_dir() else [each] for each in args.images]
    files = list(itertools.chain(*found))[: 1 if args.quick else None]
    network = weights.open_network(args.context)
    scratch = common.table_file(args.output, "photographs").with_suffix(".bitswap")
    common.report("photographs", args.output, COLUMNS, rows(files, network, scratch), len(files) + 1)
    scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.script(main)()
