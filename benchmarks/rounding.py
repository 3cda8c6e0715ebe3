"""Count what rounds the same way in batches of other sizes or order, on other numbers of threads."""

import common
import torch

from utils import cli

COLUMNS = ["model", "lanes", "threads", "compared with", "identical", "of"]

DESCRIPTION = """Count what rounds the same way in batches of other sizes or order, on other numbers of threads.

Computes mu and scale of every conditional of a full-size model with random weights, for one batch of random
inputs, and again otherwise. Counts the outputs, one for each infer and generate, that are the same in every
bit. Encoder and decoder must agree in all of them; where they do not, decoding fails."""


@torch.inference_mode()
def outputs(network, x, z):
    """mu and scale of every conditional: a list of pairs."""
    return [pair for i in range(network.nz) for pair in (network.infer(i, z if i else x), network.generate(i, z))]


def identical(ours, theirs, lanes):
    """How many of our outputs for some lanes are, bit for bit, theirs."""
    pairs = zip(ours, theirs, strict=True)
    return sum(torch.equal(a[0][lanes], b[0]) and torch.equal(a[1].expand_as(a[0])[lanes], b[1].expand_as(b[0]))
               for a, b in pairs)  # fmt: skip


def measure(name, lanes, most_threads):
    """The rows of the table."""
    network = common.model(name)
    x, z = torch.randint(0, 256, (lanes, *network.xs)), torch.randn(lanes, *network.zs)
    torch.set_num_threads(most_threads)
    reference = outputs(network, x, z)

    def row(what, chosen):
        same = identical(reference, outputs(network, x[chosen], z[chosen]), chosen)
        return [name, lanes, most_threads, what, same, len(reference)]

    yield row("the same again", slice(None))
    yield row("another order", torch.randperm(lanes))
    for count in sorted({1, 2, 3, lanes // 2, lanes - 1} & set(range(1, lanes))):
        yield row(f"a batch of {count}", slice(count))
    for threads in range(1, most_threads):
        torch.set_num_threads(threads)
        yield row(f"{threads} thread" + "s" * (threads > 1), slice(None))


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "rounding")
    parser.add_argument("--model", choices=tuple(common.MODELS), default="mnist2", metavar="MODEL", help="which model")
    parser.add_argument("--lanes", type=cli.whole_number(2), default=100, help="size of the batch")
    parser.add_argument("--threads", type=cli.whole_number(1), default=2, help="threads, and all numbers below")
    args = parser.parse_args()
    if args.quick:
        args.model, args.lanes = "mnist1", 2
    common.report("rounding", args.output, COLUMNS, measure(args.model, args.lanes, args.threads), None)


if __name__ == "__main__":
    main()
