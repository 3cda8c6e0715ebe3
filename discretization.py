"""Bins for the latent variables of a model: where rANS sees integers and the networks see real numbers.

The top latent has 2^q bins of equal mass under its prior. Each dimension of a lower latent has 2^q bins of equal
width between the smallest and the largest of samples drawn down the generative chain and up the inference chain
(paper, section 2.5 and appendix B). Only these two numbers are kept; the samples are streamed.
"""

import argparse
import hashlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils import cli, datasets, npz, paths, photographs, progress
from utils.errors import UserError
from utils.fixed_point import Bins, EqualMassBins, UniformBins, pixel_bins
from utils.processes import ALONE, gather, joined

if TYPE_CHECKING:  # PyTorch is imported where it is needed, so that --help answers at once
    from model.checkpoints import Checkpoint
    from model.vae import LatentVariableModel
    from utils.distributed import Job

SAMPLES_PER_BIN = 30  # samples of each chain, per bin
BATCH, SEED = 256, 100


class Ranges(NamedTuple):
    """The smallest and largest samples of every lower latent, and what they were drawn with."""

    lo: np.ndarray  # float64 [nz - 1, dims]
    hi: np.ndarray
    quantbits: int
    checkpoint: str  # identity of the parameters

    @property
    def identity(self) -> str:
        """A digest of everything that decides the bins: 16 hexadecimal digits."""
        parts = self.lo.tobytes() + self.hi.tobytes() + f"{self.quantbits} {self.checkpoint}".encode()
        return hashlib.sha256(parts).hexdigest()[:16]


def bins(model: "LatentVariableModel", ranges: Ranges, levels: int = 256) -> list[Bins]:
    """The bins of every variable, pixels first, for codec.conditionals.Conditionals.

    levels: the number of levels of a pixel. Raises UserError if a range is too wide for the integers of fixed_point.
    """
    n = 1 << ranges.quantbits
    try:
        lower = [UniformBins.between(lo, hi, n) for lo, hi in zip(ranges.lo, ranges.hi, strict=True)]
    except ValueError as error:
        raise UserError(f"the latents of this checkpoint have no usable range ({error})") from None
    return [pixel_bins(int(np.prod(model.xs)), levels), *lower, EqualMassBins(n)]


def sample_ranges(
    model: "LatentVariableModel",
    images: np.ndarray | photographs.Patches | None,
    quantbits: int,
    checkpoint: str = "",
    job: "Job" = ALONE,
) -> Ranges:
    """Sample the chains of a model.

    images: uint8 [N, H, W, C], the training set, or None to sample the generative chain only.
    quantbits: q; SAMPLES_PER_BIN * 2^q samples are drawn from each chain. checkpoint: the identity to record.
    job: the processes that share the batches; all of them call this.
    Returns Ranges, the same for any number of processes on equal machines. Memory: the activations and images of one
    batch. Raises UserError if the samples of a dimension are constant or not finite.
    """
    import torch

    from model.vae import sample_latents
    from utils.torch import rand
    from utils.torch.modules import fold_weight_norm

    count = SAMPLES_PER_BIN << quantbits
    device = next(model.parameters()).device
    model = fold_weight_norm(model)
    to_levels = getattr(model, "to_levels", torch.nn.Identity())
    least = torch.full((model.nz - 1, *model.zs), torch.inf, device=device)
    greatest = -least

    def include(layer, z):
        least[layer] = torch.minimum(least[layer], z.amin(0))
        greatest[layer] = torch.maximum(greatest[layer], z.amax(0))

    if model.nz > 1:
        if images is not None:
            images = photographs.recrop(images, SEED, math.ceil(count / len(images)))
            indices = np.random.default_rng(SEED).choice(len(images), count, replace=count > len(images))
        starts = range(0, count, BATCH)[job.rank :: job.size]
        bar = progress.bar(starts, desc=f"bins, {count:,} samples", unit="batch", disable=job.rank > 0)
        with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for first in bar:
                torch.manual_seed(SEED + first)  # so that a batch does not depend on the process that draws it
                size = min(BATCH, count - first)
                _, *lower = sample_latents(model, size)
                for i, z in enumerate(reversed(lower)):
                    include(i, z)
                if images is not None:
                    batch = datasets.to_channels_first(images[indices[first : first + size]], model.xs[1:])
                    z = to_levels(torch.from_numpy(batch).to(device))
                    for i in range(model.nz - 1):
                        z = rand.sample(*model.infer(i, z))
                        include(i, z)
    lo, hi = (limit.flatten(1).double().cpu().numpy() for limit in (least, greatest))
    lo, hi = gather(job, lo[None], job.size).min(0), gather(job, hi[None], job.size).max(0)
    if not _valid(lo, hi):
        raise UserError("the latents sampled from this checkpoint are constant or not finite: it cannot be used")
    return Ranges(lo, hi, quantbits, checkpoint)


def _valid(lo, hi):
    return np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()


def save(ranges: Ranges, path: str | Path) -> None:
    """Write ranges as an .npz file, whole or not at all."""
    npz.save(path, **ranges._asdict())


def load(path: str | Path) -> Ranges:
    """Read ranges that save() wrote. Raises UserError if the file holds something else."""
    remedy = "delete it to have it made again"
    lo, hi, quantbits, checkpoint = npz.load(path, Ranges._fields, remedy)
    if not (lo.dtype == hi.dtype == np.float64 and lo.ndim == 2 and lo.shape == hi.shape and _valid(lo, hi)):
        raise UserError(f"{path} does not hold the ranges of latents; {remedy}")
    return Ranges(lo, hi, int(quantbits), str(checkpoint))


def load_published(folder: str | Path, checkpoint: "Checkpoint", quantbits: int) -> Ranges:
    """Read the bins of a checkpoint that the paper's published code wrote.

    folder: holds <dataset>_nz<k>_zendpoints<q>.pt, the edges between the bins of z_1, z_2, ...: float64
    [nz, dims, 2^q - 1]. Raises UserError if the file is absent, or if the lower latents' bins are not of equal width.
    """
    import torch

    model, n = checkpoint.model, 1 << quantbits
    path = Path(folder) / f"{checkpoint.dataset}_nz{model.nz}_zendpoints{quantbits}.pt"
    try:
        edges = torch.load(path, map_location="cpu", weights_only=True).numpy()
    except Exception as error:  # a damaged file makes torch.load() raise all sorts of exceptions
        raise UserError(f"{path} cannot be read ({type(error).__name__}); name its folder with --import") from None
    expected = model.nz, math.prod(model.zs), n - 1
    if edges.shape != expected or edges.dtype != np.float64:
        raise UserError(f"{path} holds {edges.dtype} {list(edges.shape)} instead of float64 {list(expected)}")
    first, last = edges[:-1, :, 0], edges[:-1, :, -1]
    width = (last - first) / (n - 2)
    if not ((width > 0).all() and np.allclose(np.diff(edges[:-1]) / width[..., None], 1, rtol=0, atol=1e-3)):
        raise UserError(f"{path} does not hold bins of equal width, as the paper has them")
    return Ranges(first - width, last + width, quantbits, checkpoint.identity)


def for_checkpoint(
    checkpoint: "Checkpoint", quantbits: int, data: str | Path | None = None, job: "Job" = ALONE
) -> Ranges:
    """The ranges for a checkpoint: those that find() finds, or new ones, which are kept in OUTPUT/bins.

    data: the folder of the datasets. Without the training set, the generative chain alone is sampled, with a warning.
    job: the processes that sample together; rank 0 reads and writes the files.
    """
    from utils import distributed

    ranges = distributed.broadcast_object(job, None if job.rank else find(checkpoint, quantbits))
    if ranges is None:
        kept = checkpoint.bins_files(quantbits)[-1]
        paths.check_folder_writable(kept.parent)  # before the work
        images = distributed.in_turn(job, lambda: _training_images(checkpoint.dataset, data, kept))
        ranges = sample_ranges(checkpoint.model, images, quantbits, checkpoint.identity, job=job)
        if job.rank == 0:
            save(ranges, kept)
    return ranges


def find(checkpoint: "Checkpoint", quantbits: int) -> Ranges | None:
    """The ranges that were made for a checkpoint, or None."""
    for file in filter(Path.exists, checkpoint.bins_files(quantbits)):
        ranges = load(file)
        if (ranges.checkpoint, ranges.quantbits) == (checkpoint.identity, quantbits):
            if ranges.lo.shape != (checkpoint.model.nz - 1, math.prod(checkpoint.model.zs)):
                raise UserError(f"{file} does not fit its checkpoint; delete it to have it made again")
            return ranges
    return None


def _training_images(dataset, data, kept):
    try:
        return datasets.load(dataset, "train", data)
    except UserError as error:
        print(f"Warning: {error}.\nWithout training images the bins cover the samples of the generative model only.")
        print(f"They are kept as {kept}; once there are training images, delete that file")
        return None


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser(
        "Make the bins of a checkpoint's latents, as the compression scripts do if there are none.\n"
        "mpiexec -np 8 python discretization.py ..., or torchrun --nproc-per-node 8, divides the work among them.\n"
        "\nWrites OUTPUT/bins/<dataset>_nz<k>_<q>bits_<checkpoint>.npz. Bins next to CHECKPOINT.pt, as\n"
        "CHECKPOINT.bins.npz, are used before these."
    )
    parser.add_argument("dataset", choices=sorted(datasets.NAMES), help="the dataset the checkpoint was trained on")
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    published = "import the bins of the paper's file <dataset>_nz<k>_zendpoints<q>.pt in this folder"
    parser.add_argument("--import", dest="published", metavar="FOLDER", help=published)
    return parser.parse_args(argv)


@cli.script
def main(argv: list[str] | None = None) -> None:
    """Make or import the bins that the flags ask for, and describe them."""
    args = arguments(argv)
    with joined(args, "sampling") as job:
        from model import checkpoints

        checkpoint = checkpoints.open_for(args.dataset, args)
        next_to, kept = checkpoint.bins_files(args.quantbits)
        if args.published:
            if next_to.exists():
                raise UserError(f"{next_to} is used before imported bins; move it away")
            ranges = load_published(args.published, checkpoint, args.quantbits)
            if job.rank == 0:
                save(ranges, kept)
        else:
            ranges = for_checkpoint(checkpoint, args.quantbits, args.data, job)
        for i, (lo, hi) in enumerate(zip(ranges.lo, ranges.hi, strict=True), start=1):
            print(f"z{i}: {len(lo)} dimensions, from {lo.min():.3f} to {hi.max():.3f}")
        print(f"z{checkpoint.model.nz}: {1 << args.quantbits} bins of equal mass under the prior")


if __name__ == "__main__":
    main()
