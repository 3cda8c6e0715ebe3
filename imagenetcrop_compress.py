"""Compress photographs of any size with Bit-Swap and BB-ANS, decode them from disk and compare.

The protocol of Kingma, Abbeel, Ho 2019: 100 photographs of the test folder, each cropped at the bottom and on the
right to multiples of 32 pixels and coded, 32x32 block by block, as a chain of its own. The same pixels are compressed
with gzip, bz2 and LZMA (the raw bytes of a photograph, rows of interleaved channels, as one stream), PNG (of which the
payload of the IDAT chunks counts), WebP and, if it is installed, JPEG XL. A rate is the mean over the photographs of
their bits/dim; "net" leaves out the initial bits that a chain starts from, "sent" includes them.
mpiexec -np 8 python imagenetcrop_compress.py, or torchrun --nproc-per-node 8, shares the photographs between 8
processes, with a GPU or a core each.

Reads, under --data:
  imagenetcrop/test/class/*   JPEG or PNG; files that are not RGB, or under 32 pixels a side, are skipped

Writes, under --output:
  plots/imagenetcrop<nz>/table_<variant>.csv           the table
  plots/imagenetcrop<nz>/table_<variant>.{pdf,png}     the table as a bar chart
  plots/imagenetcrop<nz>/photographs_<variant>.csv     the bits of each photograph, in the order of the bitstreams
  bitstreams/imagenetcrop<nz>/<scheme>_<variant>.npz   the compressed photographs
  bins/imagenetcrop_nz<nz>_<q>bits_<checkpoint>.npz    the bins, if there are none yet

The variant is <q>bits, with _exact, _bf16, _whitened, _seed<seed> and _<count>photos if these are not the paper's.
With --bitswap=0 or 1, plots/imagenetcrop<nz>/<scheme>_<variant>.csv replaces the tables. There are no arrays for
cma.py, whose figure shows chains of one length.
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from codec import command, competitors
from utils import cli, figures, paths, photographs, processes, published, results
from utils.tables import write_csv

DATASET = "imagenetcrop"
# Kingma, Abbeel, Ho 2019: their model of full size, on other photographs.
PAPER = {"Bit-Swap, sent": 3.51, "BB-ANS, sent": 3.62, "PNG": 4.71, "WebP": 3.66}


@cli.script
def main(argv=None):
    """Choose the photographs, compress them in every way that the flags ask for, write the results."""
    args = arguments(argv)
    with processes.joined(args, "coding") as job:
        chosen, nz, bits = _code(args, job)
    if job.rank == 0 and not args.verify_only:  # the others need not wait
        _report(args, chosen, nz, bits)


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    fewer = f"(default: {photographs.COUNT}, or as many as there are)"
    parser.add_argument("--nphotos", type=cli.whole_number(1), help=f"photographs {fewer}")
    parser.add_argument("--seed", type=cli.SEED, default=published.SEED, help="seed of the choice of photographs")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    return command.add_and_parse(parser, argv)


def _code(args, job):
    """Code the photographs with each scheme: (Photographs, nz, {row of the table: int64 [photographs]})."""
    from codec import experiment  # imports PyTorch: only now, so that --help answers at once
    from model import checkpoints

    checkpoint = checkpoints.open_for(DATASET, args)
    nz = checkpoint.model.nz
    command.check_output(DATASET, nz, args)
    chosen = photographs.choose(Path(args.data) / DATASET / "test", args.nphotos, args.seed)
    setup = experiment.open_setup(checkpoint, args, job)
    chains = [photographs.to_blocks(photograph.pixels) for photograph in chosen]
    dims = np.array([chain.size for chain in chains])
    blocks = sum(map(len, chains))
    what = f"{len(chains)} photographs, {blocks:,} blocks"
    header = {"photographs": len(chains), "blocks": blocks, "pixels": photographs.digest(chosen)}
    bits = {}

    def keep(scheme, result, floats):
        name = results.SCHEMES[scheme]
        ours = scheme_bits(name, result, chains)
        if floats is not None:
            ours[f"{name}, net, in floats"] = scheme_bits(name, floats, chains)[f"{name}, net"]
        bits.update(ours)
        for row, column in ours.items():
            print(f"{row:24} {(column / dims).mean():.4f} bits/dim")
        print(f"encoded in {1e3 * result.seconds / blocks:.2f} ms per block")

    command.run_schemes(setup, args, chains, what, header, _size(args), keep, job, unit="block")
    return chosen, nz, bits


def _size(args):
    return "" if args.nphotos in (None, photographs.COUNT) else f"_{args.nphotos}photos"


def _report(args, chosen, nz, bits):
    """Compress the photographs with other compressors, if both schemes are asked for, and write all sizes."""
    folder, suffix = paths.results(DATASET, nz, args.output), command.variant(args) + _size(args)
    if args.bitswap != "both":
        print(f"wrote {write_photographs(folder / f'{command.schemes(args)[0]}_{suffix}.csv', chosen, bits)}")
        return
    bits |= benchmark_bits(chosen)
    dims = np.array([photograph.pixels.size for photograph in chosen])
    rates = {name: (column / dims).mean() for name, column in bits.items()}
    print(command.comparison(rates, PAPER))
    print("(paper: its model of full size, on other photographs)\n")
    header = ["compressor", "bits_per_dim", "paper", "photographs", "seed"]
    rows = [(name, rate, PAPER.get(name), len(chosen), args.seed) for name, rate in rates.items()]
    written = [
        write_csv(folder / f"table_{suffix}.csv", header, rows),
        write_photographs(folder / f"photographs_{suffix}.csv", chosen, bits),
        *figures.save(draw(rates, len(chosen)), folder / f"table_{suffix}"),
    ]
    print("wrote " + ", ".join(map(str, written)))


def scheme_bits(name, result, chains):
    """The bits of each photograph with a scheme: {row of the table: int64 [photographs]}.

    name: the scheme's. result: the Result of experiment.compress(). chains: the blocks of each photograph.
    """
    dims = chains[0][0].size  # of a block
    last = np.array([len(chain) - 1 for chain in chains])
    bits = {
        f"{name}, net": np.nansum(result.nets, axis=1) * dims,
        f"{name}, sent": result.total[np.arange(len(chains)), last],
        "ELBO": np.nansum(result.elbos, axis=1) * dims,
    }
    return {row: np.rint(column).astype(np.int64) for row, column in bits.items()}


def benchmark_bits(chosen):
    """The bits of each photograph with other compressors: {name: int64 [photographs]}."""
    bits, jxl = [], competitors.has_jxl()
    for photograph in tqdm(chosen, desc="other compressors", unit="photograph", dynamic_ncols=True):
        rates = competitors.measure(photograph.pixels[None, None], jxl)
        bits.append({name: round(rate * photograph.pixels.size) for name, rate in rates.items()})
    return {name: np.array([each[name] for each in bits]) for name in bits[0]}


def write_photographs(path, chosen, bits):
    """Write the bits of every photograph as CSV, one row each; returns the path."""
    header = ["photograph", "height", "width", *(f"{name} (bits)" for name in bits)]
    columns = zip(*bits.values(), strict=True)
    rows = [(photo.name, *photo.pixels.shape[:2], *each) for photo, each in zip(chosen, columns, strict=True)]
    return write_csv(path, header, rows)


def draw(rates, count):
    """The table {row: bits/dim} as a bar chart, the smallest at the bottom. count: photographs."""
    figure, [[axes]] = figures.grid(1, 1, 3.4, 1.9)
    colours = {"Bit-Swap": figures.BLUE, "BB-ANS": figures.VERMILLION}
    nets = {name: rates[f"{name}, net"] for name in colours}
    others = [name for name in rates if name in (*competitors.COMPRESSORS, "JPEG XL")]
    sent = {name: rates[f"{name}, sent"] for name in colours} | {name: rates[name] for name in others}
    names = sorted(sent, key=sent.get)
    for y, name in enumerate(names):
        colour, net = colours.get(name, figures.GREY), nets.get(name, sent[name])
        axes.barh(y, net, color=colour, height=0.7)
        axes.barh(y, sent[name] - net, left=net, color=colour, alpha=0.4, height=0.7)
        text = f"{sent[name]:.2f}" + (f" (net {net:.2f})" if name in nets else "")
        axes.text(sent[name] + 0.08, y, text, va="center", fontsize=7)
    axes.barh(0, 0, color=figures.GREY, alpha=0.4, label="initial bits")  # for the legend
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.15 * max(sent.values()))
    axes.set_xlabel(f"bits/dim, mean over {count} photographs")
    figures.legend(figure)
    return figure


if __name__ == "__main__":
    main()
