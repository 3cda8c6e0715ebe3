"""Compress test images with the context network, decode them again from disk and compare.

This is the experiment of the paper, with the context network in place of a model with latents. Chains of test images
are coded, and every chain starts from nothing: there are no latents that require initial bits. Photographs are files of
their own: see benchmarks/photographs.py.

Writes, under --output:
  plots/<dataset>0/context<variant>_{nets,elbos,cmas,total}.npy   [chains, images]: bits/dim that each image adds, and
      that the frequencies of its pixels cost; bits/dim of the chain so far; bits of the chain so far
  bitstreams/<dataset>0/context<variant>.npz                      the compressed images

The variant is empty for the paper's settings; _seed<seed> and _<chains>x<images> name others.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec import context
from model.context.features import SMALL_GRID
from model.context.weights import open_network
from utils import cli, datasets, paths, processes, results, threads
from utils.errors import UserError

SCHEME = "context"  # in the names of files


@cli.script
def main(argv=None):
    """Compress the images that the flags choose, and verify."""
    args = arguments(argv)
    processes.refuse_several("coding with the context network")
    network = open_network(args.context, dataset=args.dataset, output=args.output)
    if not args.verify_only:
        folders = (folder(args.dataset, 0, args.output) for folder in (paths.results, paths.bitstreams))
        paths.check_folder_writable(*folders)
    code_chains(args, network)


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    parser.add_argument("dataset", choices=datasets.SHAPES, help="whose test images to compress")
    network = "a context network (default: the one trained here, or else the one that ships)"
    parser.add_argument("--context", metavar="FILE", help=network)
    datasets.add_arguments(parser)
    parser.add_argument("--no-verify", action="store_true", help="do not decode again")
    parser.add_argument("--verify-only", action="store_true", help="only decode what an earlier run wrote")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    args = parser.parse_args(argv)
    if args.verify_only and args.no_verify:
        parser.error("--verify-only and --no-verify exclude each other")
    return args


def code_chains(args, network):
    """Code chains of test images, write rates and words, decode these from disk and compare.

    Rates are per dimension of the images, which are not padded. The exact log-likelihood, from the frequencies,
    replaces the ELBO. Raises UserError if an image does not come back the same.
    """
    from codec import command, experiment  # experiment imports PyTorch: --help answers at once

    chosen = datasets.choose(args.dataset, args)
    chains, count = chosen.shape[:2]
    name = SCHEME + results.seed_name(args.seed) + results.size_name(chains, count)
    file = paths.bitstreams(args.dataset, 0, args.output) / f"{name}.npz"
    header = {
        "dataset": args.dataset, "scheme": SCHEME, "context": network.identity, "seed": args.seed,
        "chains": chains, "images": count,
    }  # fmt: skip
    sizes = f"{cli.counted(chains, 'chain')} of {cli.counted(count, 'image')}"
    print(f"\n{args.dataset}, context network {network.identity}: {sizes}")
    if not args.verify_only:
        context.encode_chain(chosen[0, :1], network.weights, SMALL_GRID)  # compiles before the clock starts
        began = time.perf_counter()
        coded = threads.each(
            lambda chain: context.encode_chain(chain, network.weights, SMALL_GRID), chosen, "encode", "chain"
        )
        seconds = time.perf_counter() - began
        words, bits, costs = zip(*coded, strict=True)
        experiment.save_bitstreams(file, header, words)
        dims, added = chosen[0, 0].size, np.stack(bits).astype(np.float64)
        total = added.cumsum(1) + 64  # the head
        cmas = total / (dims * np.arange(1, count + 1))
        result = experiment.Result(list(words), added / dims, np.stack(costs) / dims, cmas, total, seconds)
        folder = paths.results(args.dataset, 0, args.output)
        for measure in results.MEASURES:
            with paths.replacing(folder / f"{name}_{measure}.npy") as array:
                np.save(array, getattr(result, measure))
        print(command.summary(result, 1).replace("ELBO            ", "log-likelihood  "))
        print(f"wrote {folder}/{name}_*.npy")
    if not args.no_verify:
        words = experiment.load_bitstreams(file, header)
        verify_chains(words, file, chosen, network)


def verify_chains(words, file, chosen, network):
    """Decode the words of chains, which come from a file, and compare. Raises UserError if an image differs."""
    began = time.perf_counter()
    shape = chosen.shape[1:]
    try:
        decoded = threads.each(
            lambda lane: context.decode_chain(lane, shape, network.weights, SMALL_GRID), words, "decode", "chain"
        )
    except ValueError as error:
        raise UserError(f"{file} cannot be decoded ({error}): it is corrupt; compress again") from error
    if len(decoded) != len(chosen) or not np.array_equal(np.stack(decoded), chosen):
        raise UserError(f"{file} decodes to other pixels: it is corrupt; compress again")
    count = len(chosen) * len(chosen[0])
    print(f"decoded in {1e3 * (time.perf_counter() - began) / count:.2f} ms per image from {file}:")
    print(f"all pixels of {cli.counted(count, 'image')} are identical")


if __name__ == "__main__":
    main()
