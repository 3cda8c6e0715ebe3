"""Train the context network on a dataset: python model/context_train.py cifar --steps 200000

Writes, under --output:
  model/params/<dataset>/context.npz     the averaged weights, at the end, with the curve of validation
  model/params/<dataset>/context.resume  everything that --resume requires

Ctrl-C or SIGTERM ends a run after the current step and saves everything. A second Ctrl-C ends it at once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli, datasets, paths


@cli.script
def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = cli.parser(__doc__)
    whole = cli.whole_number
    positive = cli.real_number("more than 0", lambda value: value > 0)
    steps = "optimiser steps, over which the learning rate falls to 0"
    parser.add_argument("dataset", choices=datasets.NAMES, help="what to train on")
    parser.add_argument("--steps", type=whole(1, 10**9), default=100_000, help=steps)
    parser.add_argument("--batch", type=whole(512, 10**6), default=4096, help="pixels a step")
    parser.add_argument("--lr", type=positive, default=3e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=cli.SEED, default=0, help="seed of everything random")
    parser.add_argument("--test-every", type=whole(1, 10**9), default=1000, help="steps between validations")
    parser.add_argument("--resume", action="store_true", help="continue from context.resume, if it exists")
    parser.add_argument("--force", action="store_true", help="replace a model that is trained already")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    args = parser.parse_args(argv)

    from model.context import training  # imports PyTorch: --help answers at once

    training.train(args.dataset, args)


if __name__ == "__main__":
    main()
