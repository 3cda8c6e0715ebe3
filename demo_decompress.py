"""Decompress what demo_compress.py wrote: python demo_decompress.py photo.bitswap

Writes a PNG file with exactly the pixels that were compressed, or, where it cannot, nothing at all. It takes the
checkpoint or the context network that the file was written with, and any machine.
"""

import functools
from pathlib import Path

from codec import autoregressive, container
from utils import cli, images, paths
from utils.errors import UserError


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("file", metavar="FILE.bitswap", help="what to decompress")
    parser.add_argument("-o", "--to", metavar="OUT.png", help="write this (default: FILE.png)")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    checkpoint = "the checkpoint of the file (default: searched for among those trained here and shipped)"
    parser.add_argument("--checkpoint", help=checkpoint)
    parser.add_argument("--context", help="the context network of the file (default: the one at hand)")
    parser.add_argument("--gpu", type=cli.whole_number(-1), default=-1, help="index of the GPU, -1 for the CPU")
    return parser.parse_args(argv)


def open_codec(args, header):
    """The autoregressive.ContextNetwork or block_codec.BlockCodec that a file calls for."""
    if header.context:
        return autoregressive.open_network(args.context, header.context)
    from codec import block_codec  # with PyTorch, which the context network does without

    device = cli.device(args.gpu)
    if args.checkpoint:
        candidates = [Path(args.checkpoint)]
    else:
        # One trained here hides the one shipped of as many layers, but the file may be of the latter.
        shipped = paths.PRETRAINED.glob(f"{block_codec.DATASET}_nz*.pt")
        candidates = dict.fromkeys((*paths.checkpoints(block_codec.DATASET).values(), *shipped))
    problems = []
    for path in candidates:
        try:
            codec = block_codec.open_checkpoint(path, device, header.quantbits, wanted=header.networks)
        except UserError as error:
            if args.checkpoint:
                raise
            problems.append(f" ({error})")
            continue
        if codec is not None:
            return codec
    searched = ", ".join(map(str, candidates)) or paths.PRETRAINED
    raise UserError(
        f"it was written with another checkpoint, {header.networks}, than {searched}; name it with --checkpoint"
        + "".join(problems)
    )


@cli.script
def main(argv=None):
    """Decode the file, write the image."""
    args = arguments(argv)
    source = Path(args.file)
    target = Path(args.to or (source.with_suffix(".png") if source.suffix == ".bitswap" else f"{source}.png"))
    if target.suffix.lower() != ".png":
        raise UserError(f"{target}: images are written as PNG files; name one that ends in .png")
    cli.refuse_to_overwrite(target, args.force, source)
    paths.check_writable(target)
    data = container.read_file(source)
    try:
        with cli.progress("decompress") as progress:
            picture = container.decode(data, functools.partial(open_codec, args), progress)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    with paths.replacing(target) as file:
        images.to_pillow(picture).save(file, format="PNG")
    height, width, _ = picture.pixels.shape
    print(f"wrote {target}: {width}x{height}, {picture.mode}, its checksum verified")


if __name__ == "__main__":
    main()
