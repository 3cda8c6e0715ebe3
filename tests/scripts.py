"""The scripts, as the tests that try flags at random see them: their main functions and their parsers."""

import argparse
import functools

import pytest

import benchmark_compress
import cma
import context_compress
import demo_compress
import demo_decompress
import discretization
import imagenetcrop_compress
import samples
import stackplot
from codec import command
from model import context_train, create_imagenet, create_imagenetcrop, make_exact, train_options
from utils.published import SETTINGS

MAINS = {
    "mnist_compress.py": functools.partial(command.main, "mnist"),
    "cifar_compress.py": functools.partial(command.main, "cifar"),
    "imagenet_compress.py": functools.partial(command.main, "imagenet"),
    "imagenetcrop_compress.py": imagenetcrop_compress.main,
    "context_compress.py": context_compress.main,
    "benchmark_compress.py": benchmark_compress.main,
    "cma.py": cma.main,
    "stackplot.py": stackplot.main,
    "samples.py": samples.main,
    "demo_compress.py": demo_compress.main,
    "demo_decompress.py": demo_decompress.main,
    "discretization.py": discretization.main,
    "model/make_exact.py": make_exact.main,
    "model/create_imagenet.py": create_imagenet.main,
    "model/create_imagenetcrop.py": create_imagenetcrop.main,
}
TRAIN = {
    f"model/{dataset}_train.py": functools.partial(train_options.main, SETTINGS[dataset])
    for dataset in ("mnist", "cifar", "imagenetcrop")
} | {"model/context_train.py": context_train.main}


class _Seen(Exception):
    pass


@functools.cache
def actions(script):
    """The arguments of a script's parser: a list of argparse.Action, without --help."""

    def see(parser, *args, **options):
        raise _Seen(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Seen) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", see)
        (MAINS | TRAIN)[script]([])
    return [action for action in caught.value.args[0]._actions if action.dest != "help"]


def is_number(action):
    """Whether an argument takes a number: its type refuses letters."""
    if action.type is None or action.choices:
        return False
    try:
        action.type("x")
    except argparse.ArgumentTypeError:
        return True
    return False
