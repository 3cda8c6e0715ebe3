"""The command line of the compression experiments, which the scripts of all datasets share.

PyTorch is imported after the flags have been read, so that --help answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec import competitors
from codec.bitsback import SCHEDULES, whitened
from utils import cli, datasets, paths, processes, results
from utils.results import BITSWAP, MEASURES, SCHEMES

if TYPE_CHECKING:
    from codec.experiment import Result, Setup
    from utils.distributed import Job

FIRST_LOOK = (10, 10)  # chains and images of a run without any flag


def main(dataset: str, argv: list[str] | None = None) -> None:
    """Entry point of a dataset's compression script."""
    cli.script(_main)(dataset, argv)


def _main(dataset, argv):
    args = parse(dataset, argv)
    with processes.joined(args, "coding") as job:
        _run(dataset, args, job)


def _run(dataset, args, job):
    from codec import experiment
    from model import checkpoints
    from utils import distributed

    checkpoint = checkpoints.open_for(dataset, args)
    nz = checkpoint.model.nz
    check_output(dataset, nz, args)
    chosen = distributed.in_turn(job, lambda: choose(dataset, args))
    chains, count = chosen.shape[:2]
    setup = experiment.open_setup(checkpoint, args, job)
    padding = np.prod(checkpoint.model.xs) / np.prod(chosen.shape[2:])  # padded dimensions to real ones
    size = results.size_name(chains, count)
    folder, rates = paths.results(dataset, nz, args.output), {}

    def keep(scheme, result, floats):
        save_arrays(folder, f"{scheme}_{variant(args)}{size}", result)
        print(summary(result, padding))
        if floats is not None:
            print(f"net, in floats  {floats.nets.mean() * padding:.4f} bits/dim")
        rates[f"{SCHEMES[scheme]}, net"] = result.nets.mean() * padding
        rates[f"{SCHEMES[scheme]}, sent"] = result.cmas[:, -1].mean() * padding
        rates["ELBO"] = result.elbos.mean() * padding

    what, header = f"{chains} chains of {count} images", {"chains": chains, "images": count}
    run_schemes(setup, args, datasets.to_channels_first(chosen), what, header, size, keep, job)
    if args.verify_only or job.rank:
        return
    print(f"wrote {folder}/*_{variant(args)}{size}_*.npy")
    if args.bitswap == "both":
        print(comparison(rates | competitors.measure(chosen)))
    if args.first_look:
        print(
            f"\nThis was a first look, at {chains * count} images. The experiment of the paper, "
            f"{datasets.CHAINS} chains of {datasets.CHAINS} images, is python {dataset}_compress.py --full"
        )


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
    parser.add_argument("--no-verify", action="store_true", help="do not decode again")
    parser.add_argument("--verify-only", action="store_true", help="only decode what an earlier run wrote")
    cli.add_checkpoint_arguments(parser)
    args = parser.parse_args(argv)
    if args.verify_only and args.no_verify:
        parser.error("--verify-only and --no-verify exclude each other")
    if args.exact and args.precision != cli.PRECISIONS[0]:
        parser.error(f"--exact computes in integers: leave out --precision={args.precision}")
    return args


def choose(dataset: str, args: argparse.Namespace) -> np.ndarray:
    """The test images that the flags choose: uint8 [chains, images, H, W, C]."""
    test = datasets.load(dataset, "test", args.data)
    return test[datasets.sample_chains(len(test), args.experiments, args.ndatapoints, args.seed)]


def check_output(dataset: str, nz: int, args: argparse.Namespace) -> None:
    """Raise UserError, before the work, if results or bitstreams cannot be written (bins: discretization.py)."""
    if not args.verify_only:
        paths.check_folder_writable(*(folder(dataset, nz, args.output) for folder in (paths.results, paths.bitstreams)))


def save_arrays(folder: Path, name: str, result: "Result") -> None:
    """Write the arrays of a Result to files <name>_<measure>.npy."""
    for measure in MEASURES:
        with paths.replacing(folder / f"{name}_{measure}.npy") as array:
            np.save(array, getattr(result, measure))


def variant(args: argparse.Namespace) -> str:
    """How a run differs from the plain protocol, for the names of its files."""
    return results.settings_name(args) + results.seed_name(args.seed)


def schemes(args: argparse.Namespace) -> tuple[str, ...]:
    """The schemes that the flags choose."""
    return tuple(scheme for scheme, value in BITSWAP.items() if args.bitswap in (value, "both"))


def run_schemes(
    setup: "Setup",
    args: argparse.Namespace,
    chains: Sequence[np.ndarray] | np.ndarray,
    what: str,
    header: dict[str, Any],
    size: str,
    keep: "Callable[[str, Result, Result | None], None]",
    job: "Job",
    unit: str = "image",
) -> None:
    """Code chains with each scheme that the flags choose, write them, decode them from disk and compare.

    chains: see experiment.compress(). what, header, size: their description in words, for the header of the
    bitstreams, and for the names of files. job: the processes that share the chains.
    keep(scheme, result, floats): called for each scheme once its bitstreams are written, on rank 0 and not with
    --verify-only. floats: the Result of the networks in floats if the others are exact, or None.
    """
    import torch

    from codec import experiment
    from utils import distributed

    processes.check_enough(job, len(chains), "chains")
    nz, dataset = setup.model.nz, setup.checkpoint.dataset
    folder = paths.bitstreams(dataset, nz, args.output)
    files = {scheme: folder / f"{scheme}_{variant(args)}{size}.npz" for scheme in schemes(args)}
    if not args.verify_only:
        for file in files.values():
            experiment.refuse_to_replace(file, setup.checkpoint)
    initial = experiment.initial_words(len(chains), setup.conditional, args.seed)

    def compress(schedule, conditional, desc):
        torch.manual_seed(args.seed)
        return experiment.compress(schedule, setup.model, conditional, chains, initial, desc, unit, job)

    for scheme, file in files.items():
        schedule = whitened(SCHEDULES[scheme](nz)) if args.whiten else SCHEDULES[scheme](nz)
        full_header = setup.header | {"scheme": scheme, "whiten": args.whiten, "seed": args.seed} | header
        print(f"\n{dataset}, nz={nz}, {SCHEMES[scheme]}: {what}")
        if not args.verify_only:
            result = compress(schedule, setup.conditional, "encode")
            if job.rank == 0:
                experiment.save_bitstreams(file, full_header, result.words)
            floats = compress(schedule, setup.floats, "in floats") if setup.floats else None
            if job.rank == 0:
                keep(scheme, result, floats)
            distributed.barrier(job)  # before the others read the file
        if not args.no_verify:
            experiment.verify(file, full_header, schedule, setup.conditional, chains, initial, unit, job)


def summary(result: "Result", padding: float) -> str:
    """A Result in words, in bits per real dimension. padding: padded dimensions per real one."""
    count = result.nets.shape[1]
    lines = [
        f"ELBO            {result.elbos.mean() * padding:.4f} bits/dim",
        f"net             {result.nets.mean() * padding:.4f} bits/dim, +- {result.nets.std() * padding:.4f}",
    ]
    for t in sorted({1, 50, 100, count}):
        if t <= count:
            lines.append(f"cma after {t:<5} {result.cmas[:, t - 1].mean() * padding:.4f} bits/dim")
    return "\n".join([*lines, f"encoded in {1e3 * result.seconds / result.nets.size:.2f} ms per image"])


def comparison(rates: dict[str, float], paper: dict[str, float] | None = None) -> str:
    """A table of rates {name: bits/dim}, the smallest first, with a column for those that the paper reports."""
    width = max(map(len, rates))
    lines = ["", f"{'':{width}}  bits/dim" + ("  paper" if paper else "")]
    for name, rate in sorted(rates.items(), key=lambda item: item[1]):
        lines.append(f"{name:{width}}  {rate:8.4f}" + (f"  {paper[name]:5.2f}" if paper and name in paper else ""))
    return "\n".join(lines)
