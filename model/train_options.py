"""The flags of the training scripts. PyTorch is imported once they have been read."""

import argparse
import sys

from utils import cli, paths
from utils.published import Settings

LEAST_LR = 5e-4  # what the published schedule decays to


def main(settings: Settings, argv: list[str] | None = None) -> None:
    """Entry point of a training script."""
    argv = sys.argv[1:] if argv is None else argv
    which = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    which.add_argument("--likelihood", choices=cli.LIKELIHOODS, default=cli.LIKELIHOODS[0])
    which.add_argument("--nz", default="0")
    chosen, rest = which.parse_known_args(argv)
    if chosen.likelihood == "context" and not chosen.nz.strip("0"):
        from model import context_train

        context_train.main([settings.dataset, *rest])
    else:
        cli.script(_train)(settings, parse(settings, argv))


def _train(settings: Settings, args: argparse.Namespace) -> None:
    from model import training  # late, as it imports PyTorch: --help answers at once

    training.train(settings, args)


def parse(settings: Settings, argv: list[str] | None) -> argparse.Namespace:
    name = settings.dataset
    nzs = ", ".join(f"{nz}: {width}" for nz, width in sorted(settings.widths.items()))
    parser = cli.parser(
        f"Train a hierarchical ResNet VAE on {name}.\n\n"
        "Writes, under --output:\n"
        f"  model/params/{name}/nz<k>          the averaged weights with the best test ELBO so far\n"
        f"  model/params/{name}/nz<k>.resume   everything that --resume needs\n"
        f"  plots/{name}<k>/*.csv              test ELBO (bits/dim) of x and of every latent, for stackplot.py\n"
        f"  runs/{name}/nz<k>/<n>/             TensorBoard logs of the n-th run\n\n"
        "Ctrl-C, SIGTERM or SIGUSR1 end a run after the present step, with everything saved that --resume needs, and\n"
        "an averaged model for the compression scripts. A second Ctrl-C ends it at once.\n"
        "Several processes, one a GPU, train together when started by mpiexec, torchrun or srun.\n\n"
        "--likelihood=context without --nz trains a context network alone, with flags of its own: see\n"
        f"--likelihood=context --help. With --nz the folders are called {name}_context, which stackplot.py does not\n"
        "draw."
    )
    whole = cli.whole_number
    rate = cli.real_number("0 <= rate < 1", lambda value: 0 <= value < 1)
    factor = cli.real_number("0 < factor <= 1", lambda value: 0 < value <= 1)
    positive = cli.real_number("more than 0", lambda value: value > 0)
    likelihood = "of x: the paper's; or a context network's, to which latents are one more input"
    parser.add_argument("--likelihood", choices=cli.LIKELIHOODS, default=cli.LIKELIHOODS[0], help=likelihood)
    start = "a context network (.npz) that the one of --likelihood=context starts from (default: at random)"
    parser.add_argument("--context", metavar="FILE", help=start)
    parser.add_argument("--nz", type=whole(1, 64), default=settings.nz, help="number of latent layers")
    parser.add_argument("--zchannels", type=whole(1, 1024), default=settings.zchannels, help="channels of each latent")
    parser.add_argument("--nprocessing", type=whole(0, 64), default=4, help="5x5 residual layers next to x")
    parser.add_argument("--kernel", type=whole(1, 31), default=3, help="kernel size of the other layers, odd")
    parser.add_argument("--blocks", type=whole(0, 1024), default=8, help="residual layers, dealt over the layers")
    parser.add_argument("--width", type=whole(1, 8192), help=f"channels of all layers (default by --nz: {nzs})")
    parser.add_argument(
        "--dropout",
        type=rate,
        default=settings.dropout,
        help="dropout rate",
    )
    parser.add_argument("--colour-transform", action="store_true", help="model R-G, G, B-G; beyond the paper")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of everything random")
    parser.add_argument("--gpu", type=whole(-1, 1023), help="index of the GPU, -1 for the CPU (default: a GPU if any)")
    parser.add_argument(
        "--dist", type=int, choices=(0, 1),
        help="1: require, 0: refuse a launcher of several processes (default: train in as many as were launched)",
    )  # fmt: skip
    parser.add_argument(
        "--fp16-allreduce", action=argparse.BooleanOptionalAction, default=True,
        help="send gradients between processes as float16",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("auto", *cli.PRECISIONS), default="auto",
        help="of the convolutions; auto: bfloat16 where the processor has it; all else stays in float32",
    )  # fmt: skip
    parser.add_argument("--epochs", type=whole(1, 10**9), help="epochs to train (default: until interrupted)")
    parser.add_argument("--max-steps", type=whole(1, 10**12), help="stop after this many optimiser steps")
    parser.add_argument("--batch", type=whole(1, 10**6), default=settings.batch, help="images a step, of all processes")
    parser.add_argument("--lr", type=positive, default=2e-3, help="learning rate of Adam")
    parser.add_argument(
        "--decay",
        type=factor,
        default=settings.decay,
        help="factor on the learning rate each step",
    )
    parser.add_argument(
        "--schedule", choices=("0", "1", "cosine"), default="1",
        help=f"0: constant; 1: --decay each step, down to {LEAST_LR:g}; cosine: to zero at the end of the run",
    )  # fmt: skip
    parser.add_argument(
        "--kl-warmup", type=whole(0, 10**12), default=0,
        help="steps over which the KL terms rise to their full weight; beyond the paper",
    )  # fmt: skip
    parser.add_argument("--interval", type=whole(1, 10**9), default=100, help="steps between log entries")
    parser.add_argument("--test-every", type=whole(1, 10**9), default=settings.test_every, help="epochs between tests")
    if settings.crops:
        parser.add_argument(
            "--crops", type=whole(1, 10**6), default=settings.crops, help="crops a photograph, each epoch"
        )
    parser.add_argument("--resume", action="store_true", help="go on from the last full checkpoint, if there is one")
    parser.add_argument("--force", action="store_true", help="start anew where there is a trained model already")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--workers", type=whole(0, 1024), default=0, help="processes that load data beside this one")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    parser.set_defaults(crops=settings.crops)
    args = parser.parse_args(argv)
    if args.kernel % 2 == 0:
        parser.error(f"--kernel={args.kernel}: the kernel size is odd")
    if args.width is None:
        if args.nz not in settings.widths:
            depths = ", ".join(map(str, settings.widths))
            parser.error(f"--nz={args.nz} has no published width; the published depths are {depths}; or give --width")
        args.width = settings.widths[args.nz]
    if args.colour_transform and settings.xs[0] != 3:
        parser.error(f"--colour-transform: {name} has no colours")
    if args.likelihood == "context" and args.colour_transform:
        parser.error("--colour-transform is of the logistic likelihood")
    if args.context and args.likelihood != "context":
        parser.error("--context goes with --likelihood=context")
    if args.schedule == "cosine" and not (args.epochs or args.max_steps):
        parser.error("--schedule=cosine ends with the run: give --epochs or --max-steps")
    return args
