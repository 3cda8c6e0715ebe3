"""What every script shares at the command line: argument types, the choice of device, errors in one line."""

import argparse
import functools
import sys


class UserError(Exception):
    """Something the user can put right; the message names the file or flag and the remedy."""


def script(main):
    """Decorate a script's main function: a UserError becomes one line on stderr and exit status 1."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"{sys.argv[0]}: error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            sys.exit(130)

    return run


def whole_number(least):
    """An argparse type: an integer that is at least `least`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return parse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults where there are any, and keep the line breaks of a description."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def parser(description):
    """An argument parser in the house style."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def device(gpu):
    """The torch.device that --gpu names.

    gpu: None for a GPU if there is one, -1 for the CPU, otherwise the index of a CUDA device.
    Raises UserError where there is no such device.
    """
    import torch  # late, so that --help answers at once

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu is None:
        gpu = 0 if count else -1
    if gpu == -1:
        return torch.device("cpu")
    if not 0 <= gpu < count:
        found = f"this machine has {count}, numbered from 0" if count else "PyTorch sees no GPU here"
        raise UserError(f"--gpu={gpu}: {found}; use --gpu=-1 for the CPU")
    return torch.device("cuda", gpu)
