"""Where files get their models from: those that are named, that were trained here, or that ship.

PyTorch is imported only to open a checkpoint for Bit-Swap.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from codec.header import Blocks
from model.context.weights import ContextNetwork, open_network
from utils import cli, paths
from utils.datasets import PHOTOGRAPHS
from utils.errors import UserError

if TYPE_CHECKING:
    from codec.block_codec import BlockCodec


def open_blocks(wanted: Blocks | None = None, checkpoint: str | Path | None = None, gpu: int = -1) -> "BlockCodec":
    """The model of Bit-Swap at `checkpoint`, or one that was trained here or ships.

    wanted: what a file says of its model; None to encode. gpu: index of the GPU, -1 for the CPU.
    Raises UserError if there is no such model.
    """
    from codec import block_codec
    from model import checkpoints

    device = cli.device(gpu)
    if wanted is None:
        return block_codec.open_to_encode(checkpoints.find(PHOTOGRAPHS, checkpoint=checkpoint), device)
    # A checkpoint trained here hides the shipped one of as many layers, but the file may be of the latter.
    shipped = paths.PRETRAINED.glob(f"{PHOTOGRAPHS}_nz*.pt")
    trained_or_shipped = dict.fromkeys((*paths.checkpoints(PHOTOGRAPHS).values(), *shipped))
    candidates = [Path(checkpoint)] if checkpoint else list(trained_or_shipped)
    problems = ""
    for path in candidates:
        try:
            if codec := block_codec.open_to_decode(path, wanted, device):
                return codec
        except UserError as error:
            if checkpoint:
                raise
            problems += f" ({error})"
    searched = ", ".join(map(str, candidates)) or paths.PRETRAINED
    raise UserError(
        f"it was written with another checkpoint, {wanted.networks}, than {searched}; name it with --checkpoint"
        + problems
    )


class Models(NamedTuple):
    """How to get the models. Each function returns one to encode with for None, and otherwise the one of a file."""

    context: Callable[[str | None], ContextNetwork] = lambda wanted: open_network(wanted=wanted)  # wanted: identity
    bitswap: Callable[["Blocks | None"], "BlockCodec"] = open_blocks
    # Channels and side of the blocks of `bitswap`, if known without opening it: other images do not import PyTorch.
    blocks: tuple[int, int] | None = (3, 32)


SHIPPED = Models()
