"""Compare the context network with WebP and JPEG XL on whole image files: rates and times."""

import itertools
from pathlib import Path

import common

from utils import cli, paths

COLUMNS = ["image", "width", "height", "adapting", "static", "WebP", "JPEG XL", "encode s", "decode s", "static s"]

DESCRIPTION = """Compare the context network with WebP and JPEG XL on whole image files: rates and times.

Each compressed file is written to disk, read and decoded, and the pixels are compared. "adapting" and "static": the
context network, which does or does not adapt to the image. Rates are in bits/dim and count whole files. The last row
is the mean over the images. JPEG XL, lossless with effort 7, requires pillow-jxl-plugin. Images that are not RGB are
skipped."""


def measure(path, network, clock, scratch):
    """A row of the table, or None where the image is not RGB."""
    from codec import competitors, container, models
    from utils import images

    picture = images.read(path)
    if picture.mode != "RGB":
        return None
    width, height = picture.size
    seconds, rates, found = [], [], models.Models(context=lambda _: network)
    for adapting in (True, False):
        began = clock()
        data = container.encode(picture, "context", found, adapting=adapting)
        seconds.append(clock() - began)
        with paths.replacing(scratch) as file:
            file.write(data)
        began = clock()
        decoded = container.decode(container.read_file(scratch), found)
        seconds.append(clock() - began)
        assert images.same(decoded, picture), path
        rates.append(8 * len(data) / picture.pixels.size)
    rates.append(competitors.webp(picture.pixels) / picture.pixels.size)
    has_jxl = "JPEG XL" in competitors.COMPRESSORS
    rates.append(competitors.jxl(picture.pixels) / picture.pixels.size if has_jxl else float("nan"))
    return [path.name, width, height, *rates, *seconds[:3]]


def rows(files, network, clock, scratch):
    """A row for each image, then the means."""
    import numpy as np

    done = []
    for path in files:
        row = measure(path, network, clock, scratch)
        if row is not None:
            done.append(row)
            yield row
    yield [f"mean of {len(done)}", "", "", *map(float, np.mean([row[3:] for row in done], axis=0))]


def main():
    parser = common.parser(DESCRIPTION, "photographs")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--context", help="a context network (default: one trained here, or else the one that ships)")
    common.add_clock(parser)
    args = parser.parse_args()
    from model.context import weights

    found = [sorted(each.iterdir()) if each.is_dir() else [each] for each in args.images]
    files = list(itertools.chain(*found))[: 1 if args.quick else None]
    network = weights.open_network(args.context)
    scratch = common.table_file(args.output, "photographs").with_suffix(".bitswap")
    clock = common.CLOCKS[args.clock]
    common.report("photographs", args.output, COLUMNS, rows(files, network, clock, scratch), len(files) + 1)
    scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    cli.script(main)()
