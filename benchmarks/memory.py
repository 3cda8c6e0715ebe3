"""Measure the time and the peak memory of making bins and of an experiment, each in a process of its own."""

import concurrent.futures
import multiprocessing
import resource
import sys

import common

from utils import cli

COLUMNS = ["what", "model", "samples", "lanes", "images", "clock", "seconds", "PyTorch MiB", "peak MiB", "above MiB"]

DESCRIPTION = """Measure the time and the peak memory of making bins and of an experiment, each in a process of its own.

Bins take 30 * 2^q samples of each chain; here q is small, to show that memory does not grow with them. An
experiment encodes, computes the ELBO of every image and decodes again. "PyTorch" is the peak of a process that
has only imported it and run one convolution, "above" what the rest takes. Full-size models with random weights,
random images."""

BINS = [("mnist2", 4), ("mnist2", 6), ("mnist8", 4), ("mnist8", 6), ("cifar8", 3), ("cifar8", 4)]
EXPERIMENTS = [("mnist2", 100, 1), ("mnist2", 100, 3), ("cifar8", 4, 3)]


def peak():
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def bins(clock, name, quantbits):
    """Sample the ranges of a model's latents as discretization.py does."""
    import discretization

    network = common.model(name)
    images = random_images((1000, *network.xs[1:], network.xs[0]))
    return timed(clock, discretization.sample_ranges, network, images, quantbits, "")


def experiment(clock, name, lanes, images):
    """Code `lanes` chains of `images` images, encoder and decoder."""
    from codec import bitsback
    from codec import experiment as experiments

    network = common.model(name)
    conditional = common.conditionals(network)
    chains = random_images((lanes, images, *network.xs))
    schedule = bitsback.bitswap(network.nz)

    def code():
        initial = experiments.initial_words(lanes, conditional, 0)
        words = experiments.compress(schedule, network, conditional, chains, initial).words
        decoded, _ = experiments.decompress(schedule, conditional, words, [images] * lanes)
        assert all((a == b).all() for a, b in zip(decoded, chains, strict=True))

    return timed(clock, code)


def random_images(shape):
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def timed(clock, function, *args):
    began = common.CLOCKS[clock]()
    function(*args)
    return common.CLOCKS[clock]() - began


def in_a_process(task, *args):
    """(seconds that task(*args) says it took, MiB of PyTorch alone, MiB at the peak), in a fresh process."""
    # One that does not share this process's past: a forked one would start with its peak.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_in_this_process, task, *args).result()


def _in_this_process(task, *args):
    import torch

    with torch.inference_mode():
        torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8))
    before = peak()
    return task(*args), before, peak()


def measure(bin_settings, experiment_settings, clock):
    """The rows of the table."""
    for name, quantbits in bin_settings:
        seconds, before, after = in_a_process(bins, clock, name, quantbits)
        yield ["bins", name, 30 << quantbits, "", "", clock, seconds, before, after, after - before]
    for name, lanes, images in experiment_settings:
        seconds, before, after = in_a_process(experiment, clock, name, lanes, images)
        yield ["experiment", name, "", lanes, images, clock, seconds, before, after, after - before]


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "memory")
    common.add_clock(parser)
    parser.add_argument("--experiment", nargs=3, metavar=("MODEL", "LANES", "IMAGES"), help="this experiment alone")
    args = parser.parse_args()
    settings = BINS, EXPERIMENTS
    if args.experiment:
        name, lanes, images = args.experiment
        if name not in common.MODELS or not (lanes + images).isdigit():
            parser.error(f"--experiment takes a model ({', '.join(common.MODELS)}) and two numbers")
        settings = [], [(name, int(lanes), int(images))]
    if args.quick:
        settings = [("mnist2", 0)], [("mnist1", 1, 1)]
    common.report("memory", args.output, COLUMNS, measure(*settings, args.clock), sum(map(len, settings)))


if __name__ == "__main__":
    main()
