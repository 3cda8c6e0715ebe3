"""Compress photographs of your own: python demo_compress.py photo.jpg

Any 8-bit grey, RGB or palette image of any size, not cropped (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM). Without an image,
the two photographs that scikit-learn ships. Compresses with Bit-Swap and with the context network, writes what is
smallest, decodes it, compares, and prints the sizes beside those of other compressors: JPEG XL's, too, where the
package pillow-jxl-plugin is installed.

Only pixels are kept, exactly as they are stored: no EXIF data, hence no orientation, no colour profile, no text.
A file is never more than 64 bytes larger than the raw pixels.

Writes, beside the image, or under demo/ without one:
  <name>.bitswap           the compressed image; demo_decompress.py turns it into a PNG file
  <name>.comparison.png    the image, what was decoded, and the sizes as a bar chart
"""

import functools
import os
import sys
import time
import warnings
from pathlib import Path

from codec import autoregressive, container, conventional
from codec import header as file_header
from utils import cli, figures, images, paths
from utils.errors import UserError

EXAMPLES = ("china", "flower")
WAYS = {"context": "context", "bitswap": "Bit-Swap"}  # to code an image: what --coder and what the tables call them
OTHER = ".bitswap"  # what the tables call a file that is coded by conventional methods alone
OURS = (*WAYS.values(), OTHER)


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="what to compress")
    parser.add_argument("-o", "--to", metavar="OUT.bitswap", help="write this (of one image only)")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    coders = (
        "smallest: whatever makes least of the image; context: the context network, bitswap: Bit-Swap, each as long as "
        "it makes less than the raw pixels take"
    )
    parser.add_argument("--coder", choices=container.CHOICES, default=container.CHOICES[0], help=coders)
    static = "do not adapt the context network to the image: half the time, a larger file"
    parser.add_argument("--static", action="store_true", help=static)
    parser.add_argument("--context", help="a context network, which decoding will need (default: the one at hand)")
    lanes = (
        f"blocks that Bit-Swap codes side by side, up to {file_header.MAX_LANES} (default: by the size of the image)"
    )
    parser.add_argument("--lanes", type=cli.whole_number(1, file_header.MAX_LANES), help=lanes)
    checkpoint = "a checkpoint for Bit-Swap, which decoding will need (default: the one at hand)"
    parser.add_argument("--checkpoint", help=checkpoint)
    gpu = "index of the GPU for Bit-Swap, -1 for the CPU"
    parser.add_argument("--gpu", type=cli.whole_number(-1), default=-1, help=gpu)
    args = parser.parse_args(argv)
    if args.to and len(args.images) != 1:
        parser.error("-o goes with one image")
    return args


def example(name):
    """One of scikit-learn's photographs."""
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise UserError("the examples come with a package: pip install scikit-learn; or name an image") from None
    return images.Picture("RGB", load_sample_image(f"{name}.jpg"))


def compress(picture, target, openers, args):
    """Compress a picture, write it, read it again, decode that and compare; only then it appears under its name.

    openers: functions that give the ContextNetwork and the BlockCodec, by the names in WAYS.
    Returns (bytes of the file, {name of the way: bytes of what it makes}, the decoded picture).
    """
    files = {}
    for way, name in WAYS.items():
        if args.coder not in (way, "smallest") or not codes(way, picture, args.checkpoint):
            continue
        codec = {"network" if way == "context" else "codec": openers[way]()}
        began = time.perf_counter()
        with cli.progress(f"compress: {name}") as progress:
            data = container.encode(
                picture, coder=way, lanes=args.lanes, progress=progress, adapting=not args.static, **codec
            )
        if kind(file_header.unpack(data)[0]) == way:
            files[name] = data
            print(f"{name}: compressed in {time.perf_counter() - began:.1f} s")
    if args.coder == "smallest" or not files:
        files[OTHER] = container.encode(picture)
    name = min(files, key=lambda name: len(files[name]))
    if name != OTHER:
        files.pop(OTHER, None)
    with paths.replacing(target, "w+b") as file:
        file.write(files[name])
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        written = file.read()
        began = time.perf_counter()
        try:
            with cli.progress("decompress") as progress:
                decoded = container.decode(written, lambda header: openers[kind(header)](), progress)
            if not images.same(picture, decoded):
                raise UserError("other pixels than those of the image")
        except UserError as error:
            raise UserError(f"{target} is not written, for what it would hold does not decode: {error}") from None
    print(f"{name}: decoded in {time.perf_counter() - began:.1f} s: identical")
    return written, {name: len(data) for name, data in files.items()}, decoded


def kind(header):
    """The way in which a file is coded, of WAYS, or None."""
    return "context" if header.context else "bitswap" if header.side else None


def codes(way, picture, checkpoint):
    """Whether there is something in a picture for a way to code; of a checkpoint that was named, that is seen later."""
    if way == "context" or picture.mode == "P" or checkpoint:
        return picture.mode != "P"
    from codec import block_codec  # with PyTorch, which the context network does without

    return block_codec.codes_blocks(picture)


def contents(header, payload):
    """What a file consists of, in words."""
    if header.context:
        strips = len(header.words)
        how = "which adapted to it" if header.adapting else "as it is"
        blocks = "knowing its blocks of 16x16, " if header.grid else ""
        return f"coded with the context network, {how}, {blocks}in {strips} strip{'s' * (strips > 1)}"
    names = " and ".join(sorted({conventional.METHODS[method].name for method, _ in header.parts}))
    if not header.side:
        return f"coded by {names} alone"
    initial = sum(length for _, length in header.parts)
    lanes, side = len(header.words), header.side
    return (
        f"{header.blocks:,} blocks of {side}x{side} by Bit-Swap in {lanes} lane{'s' * (lanes > 1)}: "
        f"{len(payload) - initial:,} bytes\n"
        f"the rest by {names}: {initial:,} bytes, which are the initial bits of the lanes"
    )


def advice(sizes, ours, coder):
    """A line on what another --coder would make of a picture, or an empty one."""
    webp = sizes["WebP"]
    if coder != "smallest" and webp is not None and webp < ours:
        return "\nWebP makes less of this image: --coder smallest would have used what it needs"
    return ""


def given_file(source, size):
    """A line on the file that was given, and another where it is a smaller JPEG. size: bytes of ours."""
    given = os.path.getsize(source)
    line = f"the file given: {given:,} bytes"
    with open(source, "rb") as file:
        is_jpeg = file.read(3) == b"\xff\xd8\xff"
    if is_jpeg and given < size:
        line += (
            "\nIt is a JPEG, which has left out detail already. The .bitswap file holds every decoded pixel, and is "
            "larger: leave a JPEG as it is"
        )
    return line


def measure(picture, ours):
    """The sizes in bytes that compressors make of a picture, {name: bytes}, the least first; None where one cannot.

    ours: those of our files.
    """
    sizes = dict(ours)
    others = conventional.COMPRESSORS | ({"JPEG XL": conventional.jxl} if conventional.has_jxl() else {})
    for name, compressor in others.items():
        try:
            sizes[name] = compressor(picture.pixels) // 8 + len(picture.palette)
        except ValueError:
            sizes[name] = None  # more pixels a side than WebP can hold
    sizes["raw"] = picture.raw_bytes
    return dict(sorted(sizes.items(), key=lambda item: item[1] or picture.raw_bytes))


def table(picture, sizes):
    """The sizes as a table."""
    lines = [f"{'':10}{'bytes':>13}  {'bits/dim':>8}  {'ratio':>6}"]
    for name, size in sizes.items():
        if size is None:
            lines.append(f"{name:10}{'-':>13}  (the image is too large for it)")
        else:
            lines.append(f"{name:10}{size:13,}  {8 * size / picture.pixels.size:8.3f}  {picture.raw_bytes / size:6.2f}")
    return "\n".join(lines)


def draw(name, picture, decoded, target, sizes):
    """A figure: the picture, what was decoded, and the sizes."""
    height, width, _ = picture.pixels.shape
    shown = min(max(height / width, 0.4), 1.6)  # of the panels, in units of their width
    figure = figures.sheet(9.6, 3 * shown + 0.8)
    axes = figure.subplots(1, 3, width_ratios=(1, 1, 0.85))
    titles = (f"{cli.printable(name)}, {width}×{height}", f"decoded from {cli.printable(target.name)}: identical")
    for panel, image, title in zip(axes, (picture, decoded), titles, strict=False):
        thumbnail = images.to_pillow(image).convert("RGB")
        thumbnail.thumbnail((1200, 1200))
        panel.imshow(thumbnail)
        panel.set_title(title, parse_math=False)
        panel.set_axis_off()
    bars = axes[2]
    sizes = {compressor: size for compressor, size in reversed(sizes.items()) if size is not None}
    unit, scale = ("kB", 1000) if picture.raw_bytes >= 10_000 else ("bytes", 1)
    colours = [figures.BLUE if compressor in OURS else figures.GREY for compressor in sizes]
    bars.barh(list(sizes), [size / scale for size in sizes.values()], color=colours, height=0.7)
    for y, size in enumerate(sizes.values()):
        text = f" {size / scale:,.0f} {unit}, 1 : {picture.raw_bytes / size:.2f}"
        bars.text(size / scale, y, text, va="center", fontsize=7)
    bars.set_xlim(0, 1.5 * max(sizes.values()) / scale)
    bars.set_title("size of the file")
    bars.set_xticks([])
    bars.tick_params(left=False)
    bars.spines["bottom"].set_visible(False)
    return figure


def write_chart(name, picture, decoded, target, sizes):
    """Draw the figure and write it; whether that worked. It is an extra: a failure is one line of warning."""
    chart = chart_of(target)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of characters that the font lacks: they are drawn as boxes
            figure = draw(name, picture, decoded, target, sizes)
            with paths.replacing(chart) as file:
                figure.savefig(file, format="png", dpi=200)
    except Exception as error:  # its settings, fonts and cache may make Matplotlib raise any
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: no chart: {reason}", file=sys.stderr)
        return False
    return True


def chart_of(target):
    """Where the chart of a compressed image goes."""
    return Path(os.path.splitext(target)[0] + ".comparison.png")


def do(source, target, picture, openers, args):
    """Compress one picture, print what became of it and draw it."""
    height, width, _ = picture.pixels.shape
    print(f"\n{source}: {width}x{height}, {picture.mode}")
    data, ours, decoded = compress(picture, target, openers, args)
    header, payload = file_header.unpack(data)
    print(f"{contents(header, payload)}\n")
    sizes = measure(picture, ours)
    print(table(picture, sizes) + advice(sizes, len(data), args.coder))
    if args.images:
        print(given_file(source, len(data)))
    drawn = write_chart(Path(source).name, picture, decoded, target, sizes)
    print(f"wrote {target}" + (f", {chart_of(target)}" if drawn else ""))


def check_paths(source, target, force):
    """Raise UserError, before the work, where a target is there already or cannot be written."""
    for path in (target, chart_of(target)):
        cli.refuse_to_overwrite(path, force, source)
    paths.check_writable(target)


@cli.script
def main(argv=None):
    """Compress every image, or the examples. Of many, one that fails does not keep the others from it."""
    args = arguments(argv)

    @functools.cache
    def open_blocks():
        from codec import block_codec
        from model import checkpoints

        path = checkpoints.find(block_codec.DATASET, checkpoint=args.checkpoint)
        return block_codec.open_checkpoint(path, cli.device(args.gpu))

    @functools.cache
    def open_network():
        return autoregressive.open_network(args.context)

    openers = {"context": open_network, "bitswap": open_blocks}
    if args.gpu != -1:
        cli.device(args.gpu)  # so that one that is not there is told before the work
    if not args.images:
        for name in EXAMPLES:
            target = paths.ROOT / "demo" / f"{name}.bitswap"
            paths.check_writable(target)
            do(name, target, example(name), openers, args)
    failed = []
    for source in args.images:
        try:
            target = Path(args.to or os.path.splitext(source)[0] + ".bitswap")
            check_paths(source, target, args.force)
            do(source, target, images.read(source), openers, args)
        except UserError as error:
            if len(args.images) == 1:
                raise
            failed.append(str(error))
    if failed:
        raise UserError(f"{len(failed)} of {len(args.images)} images not compressed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
