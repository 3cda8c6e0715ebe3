"""Compress photographs of any size with Bit-Swap, BB-ANS and the context network, decode them from disk and compare.

The protocol of Kingma, Abbeel, Ho 2019: 100 photographs of the test folder, each cropped at the bottom and on the
right to multiples of 32 pixels and coded, 32x32 block by block, as a chain of its own. The same pixels are compressed
with the context network, a photograph as a whole and as a file of its own (demo_compress.py --coder context), with
gzip, bz2 and LZMA (the raw bytes of a photograph, rows of interleaved channels, as one stream), PNG (of which the
payload of the IDAT chunks is counted), WebP and, where it is installed, JPEG XL. A rate is the mean over the
photographs of their bits/dim; "net" leaves out the initial bits that a chain starts from, "sent" includes them.
mpiexec -np 8 python imagenetcrop_compress.py, or torchrun --nproc-per-node 8, deals the photographs to 8 processes, a
GPU or a core each.

Reads, under --data:
  imagenetcrop/test/class/*   JPEG or PNG; what is not RGB, or under 32 pixels a side, is passed over

Writes, under --output:
  plots/imagenetcrop<nz>/table_<variant>.csv           the table
  plots/imagenetcrop<nz>/table_<variant>.{pdf,png}     the table as a bar chart
  plots/imagenetcrop<nz>/photographs_<variant>.csv     the bits of each photograph, in the order of the bitstreams
  bitstreams/imagenetcrop<nz>/<scheme>_<variant>.npz   the compressed photographs
  bitstreams/imagenetcrop<nz>/context_<variant>/       those of the context network, a .bitswap file each
  bins/imagenetcrop_nz<nz>_<q>bits_<checkpoint>.npz    the bins, where there are none yet

The variant is <q>bits, with _exact, _bf16, _whitened, _seed<seed> and _<count>photos where these are not the paper's.
With --bitswap=0 or 1, plots/imagenetcrop<nz>/<scheme>_<variant>.csv takes the place of the tables. There are no arrays
for cma.py: its figure is of chains of one length.
"""

import csv
import io
from pathlib import Path

import numpy as np
from tqdm import tqdm

from codec import autoregressive, command, competitors, container, models
from utils import cli, figures, images, paths, photographs, processes, published, results
from utils.errors import UserError

DATASET = "imagenetcrop"
CONTEXT = "context network"  # its row in the table
# Of Kingma, Abbeel, Ho 2019: their model of full size, on other photographs.
PAPER = {"Bit-Swap, sent": 3.51, "BB-ANS, sent": 3.62, "PNG": 4.71, "WebP": 3.66}


@cli.script
def main(argv=None):
    """Choose the photographs, compress them in every way that the flags ask for, write the results."""
    args = arguments(argv)
    with processes.joined(args, "coding") as job:
        # Before the work, to learn now where there is none.
        both = args.bitswap == "both"
        network = autoregressive.open_network(args.context, output=args.output) if both else None
        chosen, nz, bits = _code(args, job)
    if job.rank:  # these need not wait for the rest
        return
    if network is not None:
        streams = paths.bitstreams(paths.family(DATASET, args.likelihood), nz, args.output) / f"context_{_suffix(args)}"
        bits[CONTEXT] = context_bits(chosen, streams, network, args)
    if not args.verify_only:
        _report(args, chosen, nz, bits)


def _code(args, job):
    """Code the photographs with each scheme: (Photographs, nz, {row of the table: int64 [photographs]})."""
    from codec import experiment  # with PyTorch: only now, so that --help answers at once
    from model import checkpoints

    path, model, identity = checkpoints.open_for(DATASET, args)
    command.check_output(paths.family(DATASET, model.likelihood), model.nz, args)
    chosen = photographs.choose(Path(args.data) / DATASET / "test", args.nphotos, args.seed)
    setup = experiment.open_setup(DATASET, args, path, model, identity, job)
    chains = [photographs.to_blocks(photograph.pixels) for photograph in chosen]
    dims = np.array([chain.size for chain in chains])
    blocks = sum(map(len, chains))
    what = f"{len(chains)} photographs, {blocks:,} blocks"
    header = {"photographs": len(chains), "blocks": blocks, "pixels": photographs.digest(chosen)}
    bits = {}  # {row of the table: int64 [photographs]}

    def keep(scheme, result, floats):
        ours = scheme_bits(results.SCHEMES[scheme], result, chains)
        if floats is not None:
            row = f"{results.SCHEMES[scheme]}, net"
            ours[f"{row}, in floats"] = scheme_bits(results.SCHEMES[scheme], floats, chains)[row]
        bits.update(ours)
        for name, column in ours.items():
            print(f"{name:24} {(column / dims).mean():.4f} bits/dim")
        print(f"encoded in {1e3 * result.seconds / blocks:.2f} ms per block")

    command.run_schemes(setup, args, chains, what, header, _size(args), keep, job, unit="block")
    return chosen, model.nz, bits


def _size(args):
    return "" if args.nphotos in (None, photographs.COUNT) else f"_{args.nphotos}photos"


def _suffix(args):
    return command.variant(args) + _size(args)


def _report(args, chosen, nz, bits):
    """Compress the photographs with other compressors, if both schemes are asked for, and write what they took."""
    folder, suffix = paths.results(paths.family(DATASET, args.likelihood), nz, args.output), _suffix(args)
    if args.bitswap != "both":
        print(f"wrote {write_photographs(folder / f'{command.schemes(args)[0]}_{suffix}.csv', chosen, bits)}")
        return
    bits |= benchmark_bits(chosen)
    dims = np.array([photograph.pixels.size for photograph in chosen])
    rates = {name: (column / dims).mean() for name, column in bits.items()}
    print(command.comparison(rates, PAPER))
    print("(paper: its model of full size, on other photographs)\n")
    written = [
        write_table(folder / f"table_{suffix}.csv", rates, len(chosen), args),
        write_photographs(folder / f"photographs_{suffix}.csv", chosen, bits),
        *figures.save(draw(rates, len(chosen)), folder / f"table_{suffix}"),
    ]
    print("wrote " + ", ".join(map(str, written)))


def arguments(argv=None):
    """The command line."""
    parser = cli.parser(__doc__)
    fewer = f"(default: {photographs.COUNT}, or as many as there are)"
    parser.add_argument("--nphotos", type=cli.whole_number(1), help=f"photographs {fewer}")
    parser.add_argument("--seed", type=cli.SEED, default=published.SEED, help="seed of the choice of photographs")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--context", help="a context network (default: the one at hand)")
    args = command.add_and_parse(parser, argv)
    if args.context is not None and args.bitswap != "both":
        parser.error(f"--context is of no use with --bitswap={args.bitswap}: leave one out")
    return args


def scheme_bits(name, result, chains):
    """What a scheme took for each photograph: {row of the table: int64 [photographs]}.

    name: the scheme's. result: a Result of experiment.compress(). chains: the blocks of each photograph.
    """
    dims = chains[0][0].size  # of a block
    last = np.array([len(chain) - 1 for chain in chains])
    return {
        f"{name}, net": _rounded(np.nansum(result.nets, axis=1) * dims),
        f"{name}, sent": _rounded(result.total[np.arange(len(chains)), last]),
        "ELBO": _rounded(np.nansum(result.elbos, axis=1) * dims),
    }


def context_bits(chosen, folder, network, args):
    """What the context network takes for each photograph, whole files counted: int64 [photographs].

    Writes the files into a folder, unless args.verify_only, and decodes them from there. Raises UserError where one
    comes back otherwise.
    """
    bits, found = [], models.Models(context=lambda _: network)
    for i, photograph in enumerate(tqdm(chosen, desc=CONTEXT, unit="photograph", dynamic_ncols=True)):
        original, path = images.Picture("RGB", photograph.pixels), folder / f"{i}.bitswap"
        if not args.verify_only:
            with paths.replacing(path) as file:
                file.write(container.encode(original, "context", found))
        written = container.read_file(path)
        if not args.no_verify:
            try:
                decoded = container.decode(written, found)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            if not images.same(decoded, original):
                raise UserError(f"{path} holds other pixels than those of {photograph.name}")
        bits.append(8 * len(written))
    if not args.no_verify:
        print(f"{CONTEXT}: decoded from {folder}, all pixels of {len(chosen)} photographs are identical")
    return np.array(bits)


def benchmark_bits(chosen):
    """What other compressors take for each photograph: {name: int64 [photographs]}."""
    bits, jxl = [], competitors.has_jxl()
    for photograph in tqdm(chosen, desc="other compressors", unit="photograph", dynamic_ncols=True):
        rates = competitors.measure(photograph.pixels[None, None], jxl)
        bits.append({name: rate * photograph.pixels.size for name, rate in rates.items()})
    return {name: _rounded([each[name] for each in bits]) for name in bits[0]}


def _rounded(bits):
    return np.rint(bits).astype(np.int64)


def write_photographs(path, chosen, bits):
    """Write what every photograph took as CSV, a row each; returns the path."""
    header = ["photograph", "height", "width", *(f"{name} (bits)" for name in bits)]
    columns = zip(*bits.values(), strict=True)
    rows = [(photo.name, *photo.pixels.shape[:2], *each) for photo, each in zip(chosen, columns, strict=True)]
    return write_csv(path, header, rows)


def write_table(path, rates, count, args):
    """Write the table {row: bits/dim} as CSV; returns the path. count: photographs."""
    header = ["compressor", "bits_per_dim", "paper", "photographs", "seed"]
    return write_csv(path, header, [(name, rate, PAPER.get(name), count, args.seed) for name, rate in rates.items()])


def write_csv(path, header, rows):
    """Write rows below a header; returns the path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    with paths.replacing(path) as file:
        file.write(text.getvalue().encode())
    return path


def draw(rates, count):
    """The table {row: bits/dim} as a bar chart, the least at the bottom. count: photographs."""
    figure, [[axes]] = figures.grid(1, 1, 3.4, 1.9)
    colours = {"Bit-Swap": figures.BLUE, "BB-ANS": figures.VERMILLION}
    others = [name for name in rates if name in (CONTEXT, *competitors.COMPRESSORS, "JPEG XL")]
    nets = {name: rates[f"{name}, net"] for name in colours}
    sent = {name: rates[f"{name}, sent"] for name in colours} | {name: rates[name] for name in others}
    names = sorted(sent, key=sent.get)
    for y, name in enumerate(names):
        colour, net = {CONTEXT: figures.BLUE, **colours}.get(name, figures.GREY), nets.get(name, sent[name])
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
