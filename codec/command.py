"""The command line of the compression experiments, which the scripts of all datasets share.

PyTorch is imported after the flags have been read, so that --help answers at once.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from codec import competitors
from codec.bitsback import SCHEDULES, whitened
from utils import cli, datasets, paths, photographs, processes, progress, results
from utils.results import MEASURES, SCHEMES

if TYPE_CHECKING:
    from codec.experiment import Result, Setup
    from model.checkpoints import Checkpoint

BITSWAP = {"bitswap": "1", "bbans": "0"}  # the values of the flag --bitswap
FIRST_LOOK = (10, 10)  # chains and images of a run without any flag


@cli.script
def main(dataset: str, argv: list[str] | None = None) -> None:
    """Entry point of a dataset's compression script."""
    args = parse(dataset, argv)
    with processes.joined(args, "coding") as job:
        from codec import experiment
        from utils import distributed

        checkpoint = open_checkpoint(dataset, args)
        chosen = distributed.in_turn(job, lambda: datasets.choose(dataset, args))
        chains, count = chosen.shape[:2]
        setup = experiment.open_setup(checkpoint, args, job)
        padding = datasets.padding(dataset)
        name, rates = variant(args) + results.size_name(chains, count), {}
        folder = paths.results(dataset, checkpoint.model.nz, args.output)
        header = {"chains": chains, "images": count}
        for scheme, result in code(setup, args, datasets.to_channels_first(chosen), header, name):
            for measure in MEASURES:
                with paths.replacing(folder / f"{scheme}_{name}_{measure}.npy") as array:
                    np.save(array, getattr(result, measure))
            print(f"{summary(result, padding)}\nwrote {folder}/{scheme}_{name}_*.npy")
            rates[f"{SCHEMES[scheme]}, net"] = result.nets.mean() * padding
            rates[f"{SCHEMES[scheme]}, sent"] = result.cmas[:, -1].mean() * padding
            rates["ELBO"] = result.elbos.mean() * padding
        if rates and args.bitswap == "both":
            print(comparison(rates | competitors.measure(chosen)))
        if rates and args.first_look:
            print(f"\nA first look, at {chains * count} images; the paper's: python {dataset}_compress.py --full")


def parse(dataset: str, argv: list[str] | None = None) -> argparse.Namespace:
    """The flags of a dataset's compression script."""
    chains, images = FIRST_LOOK
    parser = cli.parser(
        f"Compress {dataset} test images with Bit-Swap or BB-ANS, decode them again from disk and compare.\n\n"
        f"Without any flag this is a first look: {chains} chains of {images} images, both schemes. With --full, or\n"
        f"any other flag, it is the paper's experiment: {datasets.CHAINS} chains of {datasets.CHAINS} images.\n\n"
        f"mpiexec -np 8 python {dataset}_compress.py --full, or torchrun --nproc-per-node 8, shares the chains\n"
        "between 8 processes, with a GPU or a core each.\n\n"
        "Writes, under --output:\n"
        f"  plots/{dataset}<nz>/<scheme>_<variant>_{{{','.join(MEASURES)}}}.npy   [chains, images], for cma.py:\n"
        "      bits/dim (per padded dimension) of each image, of its negative ELBO, of the chain so far, and its bits\n"
        f"  plots/{dataset}<nz>/<scheme>_<variant>_made.csv               the commit, processor and versions of that\n"
        f"  bitstreams/{dataset}<nz>/<scheme>_<variant>.npz               the compressed images\n"
        f"  bins/{dataset}_nz<nz>_<q>bits_<checkpoint>.npz                the bins, if there are none yet\n"
        "The variant is <q>bits, with _exact, _bf16, _whitened, _seed<seed> and _<chains>x<images> if these are not\n"
        "the paper's. The results of another checkpoint are not replaced: name another folder with --output."
    )
    parser.add_argument("--full", action="store_true", help="the paper's experiment: the default with any other flag")
    datasets.add_arguments(parser)
    args = add_and_parse(parser, argv)
    args.first_look = not (sys.argv[1:] if argv is None else argv)
    if args.first_look:
        args.experiments, args.ndatapoints = FIRST_LOOK
    return args


def add_and_parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Add the arguments that all compression scripts end with, and parse."""
    both = "1: Bit-Swap, 0: BB-ANS, both: one after the other, in a table with other compressors"
    parser.add_argument("--bitswap", choices=(*BITSWAP.values(), "both"), default="both", help=both)
    bodies = "of networks in floats, except first and last layers; bfloat16 is fast if the CPU or GPU supports it"
    parser.add_argument("--precision", choices=cli.PRECISIONS, default=cli.PRECISIONS[0], help=bodies)
    exact = "compute with the networks' exact form, in integers: decodes on any machine (default: in floats)"
    parser.add_argument("--exact", action="store_true", help=exact)
    whiten = "whiten the bits that latents are popped with, so that the rate equals the ELBO; beyond the paper"
    parser.add_argument("--whiten", action="store_true", help=whiten)
    verify = parser.add_mutually_exclusive_group()
    verify.add_argument("--no-verify", action="store_true", help="do not decode again")
    verify.add_argument("--verify-only", action="store_true", help="only decode what an earlier run wrote")
    cli.add_checkpoint_arguments(parser)
    args = parser.parse_args(argv)
    if args.exact and args.precision != cli.PRECISIONS[0]:
        parser.error(f"--exact computes in integers: leave out --precision={args.precision}")
    return args


def open_checkpoint(dataset: str, args: argparse.Namespace) -> "Checkpoint":
    """The Checkpoint that the flags choose. Raises UserError, before the work, if nothing can be written."""
    from model import checkpoints

    checkpoint = checkpoints.open_for(dataset, args)
    if not args.verify_only:
        folders = (paths.results, paths.bitstreams)
        paths.check_folder_writable(*(folder(dataset, checkpoint.model.nz, args.output) for folder in folders))
    return checkpoint


def variant(args: argparse.Namespace) -> str:
    """The part of the names of files for the settings: <q>bits[_exact][_bf16][_whitened][_seed<seed>]."""
    bf16 = args.precision == "bfloat16"
    parts = "_exact" * args.exact + "_bf16" * bf16 + "_whitened" * args.whiten + results.seed_name(args.seed)
    return f"{args.quantbits}bits{parts}"


def schemes(args: argparse.Namespace) -> list[str]:
    """The schemes that the flags choose."""
    return [scheme for scheme, value in BITSWAP.items() if args.bitswap in (value, "both")]


def code(
    setup: "Setup",
    args: argparse.Namespace,
    chains: Sequence[np.ndarray] | np.ndarray,
    header: dict[str, Any],
    name: str,
) -> Iterator[tuple[str, "Result"]]:
    """Code chains with each scheme that the flags choose, write them, decode them from disk and compare.

    chains: see experiment.compress(). header: what the header of the bitstreams says of them. name: of the files, after
    the scheme's. Generates (scheme, Result) for each scheme once its bitstreams are written, on rank 0 and not with
    --verify-only; decodes them after that.
    """
    import torch

    from codec import experiment
    from utils import distributed

    processes.check_enough(setup.job, len(chains), "chain")
    nz, dataset = setup.model.nz, setup.checkpoint.dataset
    files = {scheme: paths.bitstreams(dataset, nz, args.output) / f"{scheme}_{name}.npz" for scheme in schemes(args)}
    if not args.verify_only:
        maker = results.describe_maker(next(setup.model.parameters()).device)  # before the sources may change
        for file in files.values():
            experiment.refuse_to_replace(file, setup.checkpoint)
    initial = experiment.initial_words(len(chains), setup.conditional, args.seed)
    for scheme, file in files.items():
        schedule = whitened(SCHEDULES[scheme](nz)) if args.whiten else SCHEDULES[scheme](nz)
        full_header = setup.header | {"scheme": scheme, "whiten": args.whiten, "seed": args.seed} | header
        sizes = f"{cli.counted(len(chains), 'chain')}, {cli.counted(sum(map(len, chains)), setup.unit)}"
        print(f"\n{dataset}, nz={nz}, {SCHEMES[scheme]}: {sizes}")
        if not args.verify_only:
            torch.manual_seed(args.seed)
            result = experiment.compress(setup, schedule, chains, initial)
            if setup.job.rank == 0:
                experiment.save_bitstreams(file, full_header, result.words)
                results.write_made(paths.results(dataset, nz, args.output) / f"{scheme}_{name}_made.csv", maker)
                yield scheme, result
            distributed.barrier(setup.job)  # before the others read the file
        if not args.no_verify:
            experiment.verify(setup, schedule, file, full_header, chains, initial)


def other_bits(chosen: Sequence[photographs.Photograph]) -> dict[str, np.ndarray]:
    """The bits of each photograph with other compressors: {name: int64 [photographs]}."""
    bar = progress.bar(chosen, desc="other compressors", unit="photograph")
    rates = [(photo.pixels.size, competitors.measure(photo.pixels[None, None])) for photo in bar]
    return {name: np.array([round(each[name] * dims) for dims, each in rates]) for name in rates[0][1]}


def summary(result: "Result", padding: float) -> str:
    """A Result in words, in bits per dimension of the images themselves. padding: that of datasets.padding()."""
    chains, count = result.nets.shape
    rates = {"ELBO": result.elbos, "net": result.nets}
    rates |= {f"cma after {t}": result.cmas[:, t - 1] for t in sorted({1, 50, 100, count}) if t <= count}
    lines = [f"{name:15} {rate.mean() * padding:.4f} bits/dim" for name, rate in rates.items()]
    lines[1] += f", +- {result.nets.std() * padding:.4f}"
    return "\n".join([*lines, f"encoded in {1e3 * result.seconds / (chains * count):.2f} ms per image"])


def comparison(rates: dict[str, float], paper: dict[str, float] | None = None) -> str:
    """A table of rates {name: bits/dim}, the smallest first, with a column for those that the paper reports."""
    width = max(map(len, rates))
    lines = ["", f"{'':{width}}  bits/dim" + ("  paper" if paper else "")]
    for name, rate in sorted(rates.items(), key=lambda item: item[1]):
        lines.append(f"{name:{width}}  {rate:8.4f}" + (f"  {paper[name]:5.2f}" if paper and name in paper else ""))
    return "\n".join(lines)
