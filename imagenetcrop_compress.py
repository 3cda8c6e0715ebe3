"""Compress photographs of any size with Bit-Swap and BB-ANS, decode them from disk and compare.

The protocol of Kingma, Abbeel, Ho 2019: 100 photographs of the test folder, each cropped at the bottom and on the
right to multiples of 32 pixels and coded, 32x32 block by block, as a chain of its own. With both schemes, the same
pixels are compressed with the compressors of benchmark_compress.py. A rate is the mean over the photographs of their
bits/dim; "net" leaves out the initial bits that a chain starts from, "sent" includes them.
mpiexec -np 8 python imagenetcrop_compress.py, or torchrun --nproc-per-node 8, shares the photographs between 8
processes, with a GPU or a core each.

Reads, under --data:
  imagenetcrop/test/**   JPEG or PNG; files that are not RGB, or under 32 pixels a side, are skipped

Writes, under --output:
  plots/imagenetcrop<nz>/<schemes>_<variant>.csv       the bits of each photograph, in the order of the bitstreams
  plots/imagenetcrop<nz>/<scheme>_<variant>_made.csv   the commit, processor and versions of that
  bitstreams/imagenetcrop<nz>/<scheme>_<variant>.npz   the compressed photographs
  bins/imagenetcrop_nz<nz>_<q>bits_<checkpoint>.npz    the bins, if there are none yet
and the table of rates on stdout.

The variant is <q>bits, with _exact, _bf16, _whitened, _seed<seed> and, of --nphotos, _<count>photos if these are not
the paper's.
There are no arrays for cma.py, whose figure shows chains of one length.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from codec import command
from utils import cli, datasets, paths, photographs, processes, published, results
from utils.datasets import PHOTOGRAPHS
from utils.tables import write_csv

# Kingma, Abbeel, Ho 2019: their model of full size, on other photographs.
PAPER = {"Bit-Swap, sent": 3.51, "BB-ANS, sent": 3.62, "PNG": 4.71, "WebP": 3.66}


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    fewer = f"(default: {photographs.COUNT}, or as many as there are)"
    parser.add_argument("--nphotos", type=cli.whole_number(1), help=f"photographs {fewer}")
    parser.add_argument("--seed", type=cli.SEED, default=published.SEED, help="seed of the choice of photographs")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    return command.add_and_parse(parser, argv)


@cli.script
def main(argv=None):
    """Choose the photographs, compress them in every way that the flags ask for, write the results."""
    args = arguments(argv)
    with processes.joined(args, "coding") as job:
        from codec import experiment  # imports PyTorch: only now, so that --help answers at once

        checkpoint = command.open_checkpoint(PHOTOGRAPHS, args)
        chosen = photographs.choose(datasets.find_photographs("test", args.data), args.nphotos, args.seed)
        setup = experiment.open_setup(checkpoint, args, job)
        chains = [photographs.to_blocks(photograph.pixels) for photograph in chosen]
        blocks = sum(map(len, chains))
        header = {"photographs": len(chains), "blocks": blocks, "pixels": photographs.digest(chosen)}
        size = "" if args.nphotos in (None, photographs.COUNT) else f"_{args.nphotos}photos"
        name, bits = command.variant(args) + size, {}
        for scheme, result in command.code(setup, args, chains, header, name):
            bits |= scheme_bits(results.SCHEMES[scheme], result, chains)
            print(f"encoded in {1e3 * result.seconds / blocks:.2f} ms per block")
    if not bits:  # of another rank, or only verified
        return
    if args.bitswap == "both":
        bits |= command.other_bits(chosen)
    dims = np.array([photograph.pixels.size for photograph in chosen])
    print(command.comparison({row: (column / dims).mean() for row, column in bits.items()}, PAPER))
    print("(paper: its model of full size, on other photographs)\n")
    folder = paths.results(PHOTOGRAPHS, checkpoint.model.nz, args.output)
    file = folder / f"{'_'.join(command.schemes(args))}_{name}.csv"
    columns = ["photograph", "height", "width", *(f"{row} (bits)" for row in bits)]
    each = zip(chosen, *bits.values(), strict=True)
    rows = [(photograph.name, *photograph.pixels.shape[:2], *counts) for photograph, *counts in each]
    print(f"wrote {write_csv(file, columns, rows)}")


def scheme_bits(name, result, chains):
    """The bits of each photograph with a scheme: {row of the table: int64 [photographs]}.

    name: the scheme's. result: the Result of experiment.compress(). chains: the blocks of each photograph.
    """
    dims = chains[0][0].size  # of a block
    last = [len(chain) - 1 for chain in chains]
    bits = {
        f"{name}, net": np.nansum(result.nets, axis=1) * dims,
        f"{name}, sent": result.total[np.arange(len(chains)), last],
        "ELBO": np.nansum(result.elbos, axis=1) * dims,
    }
    return {row: np.rint(column).astype(np.int64) for row, column in bits.items()}


if __name__ == "__main__":
    main()
