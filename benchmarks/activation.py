"""Time ELU beside the convolution before it."""

import common

from utils import cli

COLUMNS = ["width", "type", "convolution", "PyTorch's", "ours", "PyTorch's, trained", "ours, trained", "differ by"]
DESCRIPTION = """Time ELU beside the convolution before it, on a CPU: PyTorch's, and utils.torch.modules.elu.

A row is of one width of the networks and one type: ms for 100 images of 16x16 positions of a 3x3 convolution, and of
each ELU; "trained": with its gradient. Last, by how much the two differ."""


def measure(width, dtype, clock, seconds):
    """A row of the table."""
    import torch
    import torch.nn.functional as F

    from utils.torch.modules import elu

    torch.manual_seed(0)
    x = torch.randn(100, width, 16, 16).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(width, width, 3, 3).to(dtype, memory_format=torch.channels_last)
    trained, gradient = x.clone().requires_grad_(), torch.randn_like(x)
    timed = {
        "convolution": lambda: F.conv2d(x, weight, padding=1),
        "theirs": lambda: F.elu(x),
        "ours": lambda: elu(x),
        "theirs, trained": lambda: F.elu(trained).backward(gradient),
        "ours, trained": lambda: elu(trained).backward(gradient),
    }
    took = [1e3 * taken for taken in common.least(timed, seconds, clock).values()]
    return width, str(dtype).removeprefix("torch."), *took, f"{(elu(x) - F.elu(x)).abs().max().item():.1e}"


@cli.script
def main():
    parser = common.parser(DESCRIPTION, "activation")
    common.add_clock(parser)
    args = parser.parse_args()

    import torch

    kinds = [(width, dtype) for width in (32, 63) for dtype in (torch.float32, torch.bfloat16)]
    seconds = 0 if args.quick else 0.3  # for each time
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    common.report(
        "activation", args.output, COLUMNS, (measure(*kind, args.clock, seconds) for kind in kinds), len(kinds)
    )


if __name__ == "__main__":
    main()
