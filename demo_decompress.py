"""Decompress what demo_compress.py wrote: python demo_decompress.py photo.bitswap

Writes a PNG file with exactly the pixels and the metadata that were compressed; if that fails, it writes nothing. It
needs the checkpoint or the context network that the file was written with, and works on any machine.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec import container, models
from model.context.weights import open_network
from utils import cli, images, paths
from utils.errors import UserError


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("file", metavar="FILE.bitswap", help="what to decompress")
    parser.add_argument("-o", "--to", metavar="OUT.png", help="write this, or into this folder (default: FILE.png)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    checkpoint = "the checkpoint of the file (default: searched for among those trained here and shipped)"
    parser.add_argument("--checkpoint", help=checkpoint)
    parser.add_argument("--context", help="the context network of the file (default: one trained here, or shipped)")
    parser.add_argument("--gpu", type=cli.whole_number(-1), default=-1, help="index of the GPU, -1 for the CPU")
    return parser.parse_args(argv)


@cli.script
def main(argv=None):
    """Decode the file, write the image."""
    args = arguments(argv)
    target = cli.target(args.file, args.to, ".png")
    cli.refuse_to_overwrite(target, args.force, args.file)
    paths.check_writable(target)
    data = container.read_file(args.file)
    open_blocks = functools.partial(models.open_blocks, checkpoint=args.checkpoint, gpu=args.gpu)
    found = models.Models(functools.partial(open_network, args.context), open_blocks)
    try:
        with cli.progress("decompress") as progress:
            picture = container.decode(data, found, progress)
    except UserError as error:
        raise UserError(f"{args.file}: {error}") from error
    with paths.replacing(target) as file:
        file.write(images.to_png(picture))
    width, height = picture.size
    print(f"wrote {target}: {width}x{height}, {picture.kind}, its checksum verified")


if __name__ == "__main__":
    main()
