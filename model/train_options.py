"""The flags of the training scripts. PyTorch is imported after they have been read."""

import argparse

from utils import cli, paths
from utils.errors import UserError, is_out_of_memory
from utils.published import LEAST_LR, Settings


@cli.script
def main(settings: Settings, argv: list[str] | None = None) -> None:
    """Entry point of a training script."""
    args = parse(settings, argv)
    try:
        from model import training  # here, since it imports PyTorch, and --help answers without it

        training.train(settings, args)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("out of memory; lower --batch or --width, or give this process more memory") from None


def parse(settings: Settings, argv: list[str] | None) -> argparse.Namespace:
    """The flags of a training script, with the published width if none is given."""
    name = settings.dataset
    parser = cli.parser(
        f"Train a hierarchical ResNet VAE on {name}.\n\n"
        "Writes, under --output:\n"
        f"  model/params/{name}/nz<k>          the averaged weights with the best test ELBO so far\n"
        f"  model/params/{name}/nz<k>.resume   everything that --resume needs\n"
        f"  plots/{name}<k>/*.csv              test ELBO of x and of every latent, for stackplot.py\n"
        f"  runs/{name}/nz<k>/<n>/             TensorBoard logs of the n-th run\n"
        "Curves and logs are in bits/dim as the model sees the images: for MNIST, padded to 32x32.\n\n"
        "Ctrl-C, SIGTERM or SIGUSR1 stop a run within two steps, or after a batch of a test, and save everything that\n"
        "--resume needs, and an averaged model for the compression scripts. A second Ctrl-C stops it at once.\n"
        "Several processes, one for each GPU, train together if mpiexec, torchrun or srun starts them."
    )
    add, whole, real = parser.add_argument, cli.whole_number, cli.real_number
    nzs = ", ".join(f"{nz}: {width}" for nz, width in sorted(settings.widths.items()))
    rate, factor = real("0 <= rate < 1", lambda r: 0 <= r < 1), real("0 < factor <= 1", lambda f: 0 < f <= 1)
    positive, minutes = real("more than 0", lambda v: v > 0), real("0 < minutes <= 10^7", lambda m: 0 < m <= 1e7)
    add("--nz", type=whole(1, 64), default=settings.nz, help="number of latent layers")
    add("--zchannels", type=whole(1, 1024), default=settings.zchannels, help="channels of each latent")
    add("--nprocessing", type=whole(0, 64), default=4, help="5x5 residual layers next to x")
    add("--kernel", type=whole(1, 31), default=3, help="kernel size of the other layers, odd")
    add("--blocks", type=whole(0, 1024), default=8, help="residual layers, distributed over the latent layers")
    add("--width", type=whole(1, 8192), help=f"channels of all layers (default by --nz: {nzs})")
    add("--dropout", type=rate, default=settings.dropout, help="dropout rate")
    add("--colour-transform", action="store_true", help="model R-G, G, B-G; beyond the paper")
    add("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of everything random")
    add("--gpu", type=whole(-1, 1023), help="index of the GPU, -1 for the CPU (default: a GPU if there is one)")
    several = "1: require, 0: refuse several processes (default: train in as many as were launched)"
    add("--dist", type=int, choices=(0, 1), help=several)
    half = "send gradients between processes as float16"
    add("--fp16-allreduce", action=argparse.BooleanOptionalAction, default=True, help=half)
    bodies = "of the convolutions; auto: bfloat16 if the processor supports it; everything else is float32"
    add("--precision", choices=("auto", *cli.PRECISIONS), default="auto", help=bodies)
    cudnn = "only deterministic algorithms of cuDNN, as published"
    add("--deterministic", action=argparse.BooleanOptionalAction, default=True, help=cudnn)
    add("--epochs", type=whole(1, 10**9), help="stop after this many epochs")
    add("--max-steps", type=whole(1, 10**12), help="stop after this many optimiser steps")
    add("--minutes", type=minutes, help="stop after this much wall time, of resumed runs together")
    add("--batch", type=whole(1, 10**6), default=settings.batch, help="images a step, of all processes together")
    add("--lr", type=positive, default=2e-3, help="learning rate of Adam")
    add("--decay", type=factor, default=settings.decay, help="factor on the learning rate each step")
    schedule = f"0: constant; 1: --decay each step, down to {LEAST_LR:g}; cosine: to zero at the end of the run"
    add("--schedule", choices=("0", "1", "cosine"), default="1", help=schedule)
    add("--interval", type=whole(1, 10**9), default=100, help="steps between log entries")
    add("--test-every", type=whole(1, 10**9), default=settings.test_every, help="epochs between tests")
    if settings.crops:
        add("--crops", type=whole(1, 10**6), default=settings.crops, help="crops of each photograph in an epoch")
    add("--resume", action="store_true", help="continue from the last full checkpoint if there is one")
    add("--force", action="store_true", help="start again even if there is a trained model")
    add("--data", default=paths.DATA, help="folder of the datasets")
    add("--workers", type=whole(0, 1024), default=0, help="additional threads that load data")
    add("--output", default=paths.ROOT, help="folder under which everything is written")
    parser.set_defaults(crops=settings.crops)
    args = parser.parse_args(argv)
    if args.kernel % 2 == 0:
        parser.error(f"--kernel={args.kernel}: the kernel size must be odd")
    if args.width is None and args.nz not in settings.widths:
        depths = ", ".join(map(str, settings.widths))
        parser.error(f"--nz={args.nz} has no published width; the published depths are {depths}; or give --width")
    args.width = args.width or settings.widths[args.nz]
    if args.colour_transform and settings.xs[0] != 3:
        parser.error(f"--colour-transform: {name} has no colours")
    if args.schedule == "cosine" and not (args.epochs or args.max_steps or args.minutes):
        parser.error("--schedule=cosine ends with the run: give --epochs, --max-steps or --minutes")
    return args
