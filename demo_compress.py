"""Compress photographs of your own: python demo_compress.py photo.jpg

Any 8-bit grey, RGB or palette image of up to 2^27 pixels, with or without alpha (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM),
and its metadata. Without an image, the two photographs that scikit-learn ships. Compresses with the context
network and with Bit-Swap, writes the smallest file, decodes it, compares, and prints the sizes next to those of other
compressors (JPEG XL requires the package pillow-jxl-plugin). A file is never more than 64 bytes larger than the raw
pixels and the compressed metadata.

Writes, next to the image, or under demo/ without one:
  <name>.bitswap           the compressed image; demo_decompress.py turns it into a PNG file
  <name>.comparison.png    the image, where its bits go, and the sizes as a bar chart
"""

import contextlib
import functools
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec import bit_map, competitors, container, models
from codec import header as file_header
from codec.conventional import METHODS
from codec.header import Context, Conventional, payload_size
from model.context.weights import open_network
from utils import cli, figures, images, paths
from utils.errors import UserError

EXAMPLES = ("china", "flower")
CORNER = 64  # pixels a side
NAMES = {"context": "context", "bitswap": "Bit-Swap", "conventional": ".bitswap"}  # what the tables call our files


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    add, most = parser.add_argument, file_header.MAX_LANES
    add("images", nargs="*", metavar="IMAGE", help="what to compress")
    add("-o", "--to", metavar="OUT.bitswap", help="write this, of one image, or into this folder")
    add("--force", action="store_true", help="overwrite existing files")
    coders = "an image that this coder cannot make smaller than its raw pixels is coded without a model"
    add("--coder", choices=("smallest", "context", "bitswap"), default="smallest", help=coders)
    add("--static", action="store_true", help="do not adapt the context network: half the time, a larger file")
    metadata = "leave out the metadata: colour profile, EXIF data, XMP data, gamma, resolution, text"
    add("--pixels-only", action="store_true", help=metadata)
    add("--no-comparison", action="store_true", help="leave out the other compressors and the chart")
    needed = "which decoding will need (default: one trained here, or the shipped one)"
    add("--context", help=f"a context network, {needed}")
    add("--checkpoint", help=f"a checkpoint for Bit-Swap, {needed}")
    lanes = f"blocks that Bit-Swap codes side by side, up to {most} (default: by the image's size)"
    add("--lanes", type=cli.whole_number(1, most), help=lanes)
    add("--gpu", type=cli.whole_number(-1), default=-1, help="index of the GPU for Bit-Swap, -1 for the CPU")
    args = parser.parse_args(argv)
    if args.to and len(args.images) != 1 and not os.path.isdir(args.to):
        parser.error("-o requires one image, or a folder")
    return args


def example(name):
    """One of scikit-learn's photographs."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise UserError("the examples come with a package: pip install scikit-learn; or name an image") from None
    return images.Picture("RGB", load_sample_image(f"{name}.jpg"))


def compile_for(picture, found, args):
    """Open the models and compile what codes a picture, so that the times of compress() leave that out."""
    corner = picture._replace(pixels=picture.pixels[:CORNER, :CORNER], metadata=())
    if picture.alpha is not None:
        corner = corner._replace(alpha=picture.alpha[:CORNER, :CORNER])
    with cli.progress("compile") as progress:
        for way in progress(container.WAYS if args.coder == "smallest" else (args.coder,)):
            with contextlib.suppress(UserError):  # compress() raises it again
                container.decode(container.encode(corner, way, found, lanes=1, adapting=not args.static), found)


def compress(picture, target, found, args):
    """Compress a picture, write it, read it again, decode that and compare; only then it appears under its name.

    found: the models.Models. Returns ({way: bytes of its file}, the way that was written, its file).
    """
    files, began = {}, time.perf_counter()
    options = {"lanes": args.lanes, "adapting": not args.static, "every": not args.no_comparison}
    with cli.progress("compress") as progress:
        for way, data in container.encode_each(picture, args.coder, found, progress=progress, **options):
            files[way] = data
            took, began = time.perf_counter() - began, time.perf_counter()
            if way != "conventional":
                print(f"{NAMES[way]}: compressed in {took:.1f} s")
    way, data = min(files.items(), key=lambda item: len(item[1]))
    with paths.replacing(target, "w+b") as file:
        file.write(data)
        file.flush()
        file.seek(0)
        began = time.perf_counter()
        try:
            with cli.progress("decompress") as progress:
                decoded = container.decode(file.read(), found, progress)
            if not images.same(picture, decoded):
                raise UserError("other pixels than those of the image")
        except UserError as error:
            raise UserError(f"{target} is not written, because it would not decode: {error}") from error
    print(f"decoded in {time.perf_counter() - began:.1f} s: identical")
    return {way: len(data) for way, data in files.items()}, way, data


def contents(coding):
    """What a file consists of, in words."""
    if isinstance(coding, Context):
        how = "which adapted to it" if coding.adapting else "as it is"
        return f"coded with the context network, {how}, in strips: {len(coding.words)}"
    methods = " and ".join(sorted({METHODS[method].name for method, _ in coding.parts}))
    if isinstance(coding, Conventional):
        return f"coded by {methods} alone"
    initial = sum(length for _, length in coding.parts)
    net, side = payload_size(coding) - initial, coding.side
    return (
        f"{cli.counted(coding.blocks, 'block')} of {side}x{side} by Bit-Swap: {net:,} bytes\n"
        f"the rest by {methods}: {initial:,} bytes, which are the initial bits of lanes: {len(coding.words)}"
    )


def measure(picture, ours, others):
    """{name: bytes} of our files and of the other compressors that can code the picture, the smallest first."""
    sizes = {NAMES[way]: size for way, size in ours.items()}
    pixels = picture.pixels if picture.alpha is None else np.concatenate((picture.pixels, picture.alpha), axis=2)
    for name, compressor in competitors.COMPRESSORS.items() if others else ():
        with contextlib.suppress(ValueError):  # more pixels a side than WebP can hold
            sizes[name] = compressor(pixels) // 8 + len(picture.palette)
    sizes["raw"] = picture.raw_bytes
    return dict(sorted(sizes.items(), key=lambda item: item[1]))


def table(picture, sizes):
    """The sizes as a table."""
    lines = [f"{'':10}{'bytes':>13}  {'bits/dim':>8}  {'ratio':>6}"]
    for name, size in sizes.items():
        lines.append(f"{name:10}{size:13,}  {8 * size / picture.dims:8.3f}  {picture.raw_bytes / size:6.2f}")
    return "\n".join(lines)


def draw(name, picture, bits, way, sizes):
    """A figure: the picture, the bits of each of its pixels, and the sizes of the files."""
    width, height = picture.size
    shown = min(max(height / width, 0.4), 1.6)  # of the panels, in units of their width
    figure = figures.sheet(9.6, 3 * shown + 0.8)
    panel, heat, bars = figure.subplots(1, 3, width_ratios=(1, 1.1, 0.85))
    thumbnail = images.to_pillow(picture).convert("RGB")
    thumbnail.thumbnail((1200, 1200))
    panel.imshow(thumbnail)
    shown_name = cli.printable(name)
    shown_name = shown_name if len(shown_name) < 30 else f"{shown_name[:14]}…{shown_name[-13:]}"
    panel.set_title(f"{shown_name}, {width}×{height}", parse_math=False)
    most = float(np.percentile(bits, 99.5))  # a few pixels need many times as many bits as the others
    shades = heat.imshow(bits, cmap="viridis", vmin=0, vmax=most)  # gets lighter, in grey as in colour
    figure.colorbar(shades, ax=heat, shrink=0.8, label="bits/pixel", extend="max")
    heat.set_title(f"where its bits go ({NAMES[way]})")
    for each in (panel, heat):
        each.set_axis_off()
    sizes = dict(reversed(sizes.items()))
    colours = [figures.BLUE if compressor in NAMES.values() else figures.LIGHT_GREY for compressor in sizes]
    bars.barh(list(sizes), list(sizes.values()), color=colours, height=0.7)
    for y, size in enumerate(sizes.values()):
        bars.text(size, y, f" {size / 1000:,.1f} kB, {8 * size / picture.dims:.2f}", va="center", fontsize=7)
    bars.set_xlim(0, 1.5 * max(sizes.values()))
    bars.set_title("size of the file, and bits/dim")
    bars.set_xticks([])
    bars.tick_params(left=False)
    bars.spines["bottom"].set_visible(False)
    return figure


def write_chart(chart, picture, coding, found, name, way, sizes):
    """Draw the figure and write it. Returns whether that worked. It is an extra: a failure is one line of warning."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters that the font lacks: they are drawn as boxes
            figure = draw(name, picture, bit_map.bits_per_pixel(picture, coding, found), way, sizes)
            with paths.replacing(chart) as file:
                figure.savefig(file, format="png", dpi=200)
    except Exception as error:  # its settings, fonts and cache may make Matplotlib raise any
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: no chart: {reason}", file=sys.stderr)
        return False
    return True


def compress_one(source, files, picture, found, args, compiled):
    """Compress one picture, print a report and draw it.

    files: of files_of(). compiled: the kinds of pictures that there is code for already.
    """
    width, height = picture.size
    print(f"\n{source}: {width}x{height}, {picture.kind}")
    kind = picture.kind, min(width, height) >= CORNER
    if kind not in compiled:
        compile_for(picture, found, args)
        compiled.add(kind)
    target, *charts = files
    ours, way, data = compress(picture, target, found, args)
    header, _ = file_header.unpack(data)
    print(contents(header.coding))
    if header.alpha:
        print(f"the alpha plane: {header.sizes[1]:,} bytes, {contents(header.alpha)}")
    if header.metadata:
        print(f"metadata: {header.sizes[2]:,} bytes")
    if way != "conventional":
        ours.pop("conventional", None)
    sizes = measure(picture, ours, not args.no_comparison)
    print(f"\n{table(picture, sizes)}")
    if args.images:
        given = os.path.getsize(source)
        print(f"the file given: {given:,} bytes")
        if given < len(data) and source.lower().endswith((".jpg", ".jpeg")):
            print("A JPEG has left out detail, and the .bitswap file holds every decoded pixel: leave a JPEG as it is")
    drawn = [c for c in charts if write_chart(c, picture, header.coding, found, Path(source).name, way, sizes)]
    print("wrote " + ", ".join(map(str, [target, *drawn])))


def files_of(source, args):
    """The files to write for an image: the compressed one, and the chart unless --no-comparison is given."""
    target = cli.target(source, args.to, ".bitswap")
    return [target] if args.no_comparison else [target, Path(os.path.splitext(target)[0] + ".comparison.png")]


def refuse_to_mix(written):
    """Raise UserError if a file that is written for one image is also read, or written for another.

    written: {image: files_of()}.
    """
    users = {os.path.realpath(source): source for source in written}
    for source, files in written.items():
        for path in files:
            if (user := users.setdefault(os.path.realpath(path), source)) != source:
                raise UserError(
                    f"{user} and {source} both need {path}; compress one at a time, with another name by -o"
                )


@cli.script
def main(argv=None):
    """Compress every image, or the examples. A failure does not stop the remaining images."""
    args = arguments(argv)
    if args.gpu != -1:
        cli.device(args.gpu)  # reports a missing one before the work
    # Each model is opened once to encode, and decodes what it encoded.
    network = functools.cache(lambda: open_network(args.context))
    codec = functools.cache(lambda: models.open_blocks(checkpoint=args.checkpoint, gpu=args.gpu))
    shape = None if args.checkpoint else models.SHIPPED.blocks
    found = models.Models(lambda wanted: network(), lambda wanted: codec(), shape)
    compiled, failed = set(), []
    for name in () if args.images else EXAMPLES:
        files = files_of(paths.ROOT / "demo" / name, args)
        paths.check_writable(files[0])
        compress_one(name, files, example(name), found, args, compiled)
    written = {source: files_of(source, args) for source in args.images}
    refuse_to_mix(written)
    for source, files in written.items():
        try:
            if source.lower().endswith(".bitswap"):
                raise UserError(f"{source} is compressed already; demo_decompress.py decompresses it")
            for path in files:
                cli.refuse_to_overwrite(path, args.force, source)
            paths.check_writable(files[0])
            compress_one(source, files, images.read(source, args.pixels_only), found, args, compiled)
        except UserError as error:
            if len(args.images) == 1:
                raise
            failed.append(str(error))
    if failed:
        raise UserError(f"{len(failed)} of {len(args.images)} images not compressed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
