"""Rates and times of lossless coders of photographs, on one core."""

import io
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import common

from utils import cli, figures
from utils.errors import UserError

COLUMNS = ["coder", "setting", "bits/dim", "encode us", "decode us"]  # microseconds a pixel
EFFORTS = 1, 3, 5, 7, 9
SIDE = 256  # pixels of a corner
STYLES = {"context network": figures.BLUE, "JPEG XL": figures.VERMILLION, "WebP": figures.GREEN, "PNG": "black"}

DESCRIPTION = """Rates and times of lossless coders of photographs, on one core: the context network, PNG, WebP, and
JPEG XL with its own programs cjxl and djxl (Debian's package libjxl-tools), if they are installed.

All code one image, in which the top left corners of the photographs lie below one another. Everything is decoded and
compared. Times include the files. Also writes OUTPUT/benchmarks/rate_time.png."""


def column_of(folder, count):
    """The corners of `count` photographs of a folder, below one another: uint8 [count SIDE, SIDE, 3]."""
    import numpy as np

    from utils import images

    corners = []
    for path in sorted(folder.iterdir()):
        pixels = images.read(path).pixels[:SIDE, :SIDE]
        if pixels.shape == (SIDE, SIDE, 3):
            corners.append(pixels)
        if len(corners) == count:
            return np.concatenate(corners)
    raise UserError(f"{folder} holds {len(corners)} RGB photographs of {SIDE} pixels a side or more, not {count}")


def with_pillow(name, **options):
    """(encode, decode) of a format of Pillow."""
    import numpy as np
    from PIL import Image

    from codec.conventional import save

    return lambda pixels: save(pixels, name, **options), lambda data: np.asarray(Image.open(io.BytesIO(data)))


def with_network(adapting):
    """(encode, decode) of the context codec."""
    from codec import container
    from utils.images import Picture

    def encode(pixels):
        return container.encode(Picture("RGB", pixels), "context", adapting=adapting)

    return encode, lambda data: container.decode(data).pixels


def with_cjxl(effort, folder):
    """(encode, decode) of JPEG XL's programs. folder: for their files."""
    import numpy as np
    from PIL import Image

    image, coded, decoded = (str(folder / name) for name in ("in.ppm", "coded.jxl", "out.ppm"))

    def run(*command):
        subprocess.run([*command, "--num_threads=0"], check=True, capture_output=True)

    def encode(pixels):
        Image.fromarray(pixels).save(image)
        run("cjxl", image, coded, "-d", "0", "-e", str(effort))
        return Path(coded).read_bytes()

    def decode(data):
        Path(coded).write_bytes(data)
        run("djxl", coded, decoded)
        return np.asarray(Image.open(decoded))

    return encode, decode


def coders(folder, quick):
    """(name, setting, encode, decode) of each coder."""
    yield "context network", "adapting", *with_network(True)
    yield "context network", "static", *with_network(False)
    yield "PNG", "optimize", *with_pillow("PNG", optimize=True)
    yield "WebP", "quality 100", *with_pillow("WebP", lossless=True, quality=100)
    if shutil.which("cjxl") and shutil.which("djxl"):
        for effort in EFFORTS[:1] if quick else EFFORTS:
            yield "JPEG XL", f"effort {effort}", *with_cjxl(effort, folder)


def measure(coder, pixels):
    """A row of the table."""
    import numpy as np

    name, setting, encode, decode = coder
    decode(encode(pixels[:64, :64]))  # compiles
    began = time.perf_counter()
    data = encode(pixels)
    encoded = time.perf_counter()
    found = decode(data)
    ended = time.perf_counter()
    assert np.array_equal(found, pixels), name
    times = (1e6 * seconds / (pixels.size / 3) for seconds in (encoded - began, ended - encoded))
    return [name, setting, 8 * len(data) / pixels.size, *times]


def draw(rows, output):
    """Rate by time, to encode and to decode."""
    figure = figures.sheet(6.75, 3)
    for axes, column in zip(figure.subplots(1, 2, sharey=True), (3, 4), strict=True):
        for name, colour in STYLES.items():
            points = [(row[column], row[2], row[1]) for row in rows if row[0] == name]
            if points:
                axes.plot(*zip(*((x, y) for x, y, _ in points), strict=True), "o-", color=colour, label=name)
            for x, y, setting in points:
                axes.annotate(setting, (x, y), fontsize=5, xytext=(3, 3), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_xlabel(f"microseconds a pixel to {COLUMNS[column].split()[0]}")
    figure.axes[0].set_ylabel("bits per dimension")
    figure.axes[0].legend(fontsize=6)
    common.save_figure(figure, output, "rate_time")


def main():
    parser = common.parser(DESCRIPTION, "rate_time")
    parser.add_argument("folder", type=Path, help="folder of photographs")
    parser.add_argument("--photographs", type=cli.whole_number(1, 10**4), default=16, help="how many")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before anything starts threads
    pixels = column_of(args.folder, args.photographs)
    with tempfile.TemporaryDirectory() as folder:
        every = list(coders(Path(folder), args.quick))
        rows = [measure(coder, pixels) for coder in every]
    common.report("rate_time", args.output, COLUMNS, rows, len(rows))
    draw(rows, args.output)


if __name__ == "__main__":
    cli.script(main)()
