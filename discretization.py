"""Bins for the latent variables of a model: where rANS sees integers and the networks see real numbers.

The top latent gets 2^q bins of equal mass under its prior. Each dimension of a lower latent gets 2^q bins of equal
width between the least and the greatest of samples drawn down the generative chain and up the inference chain
(paper, section 2.5 and appendix B). Only these two numbers are kept; the samples are streamed.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from utils import cli, datasets, npz, paths
from utils.cli import UserError
from utils.fixed_point import Bins, EqualMassBins, UniformBins, pixel_bins
from utils.processes import ALONE, gather, joined

if TYPE_CHECKING:  # elsewhere PyTorch is imported where it is needed, so that --help answers at once
    from model.vae import LatentVariableModel
    from utils import distributed

SAMPLES_PER_BIN = 30  # samples of each chain, per bin
BATCH = 256
FIRST = 4  # batches, from which the time that all will take is told


class Ranges(NamedTuple):
    """The least and greatest samples of every lower latent, and what they were drawn with."""

    lo: np.ndarray  # float64 [nz - 1, dims]
    hi: np.ndarray
    quantbits: int
    checkpoint: str  # identity of the parameters
    with_images: bool  # whether the inference chain was sampled too

    @property
    def identity(self) -> str:
        """A digest of everything the bins follow from: 16 hexadecimal digits."""
        parts = self.lo.tobytes() + self.hi.tobytes() + f"{self.quantbits} {self.checkpoint}".encode()
        return hashlib.sha256(parts).hexdigest()[:16]


def bins(model: "LatentVariableModel", ranges: Ranges, levels: int = 256) -> list[Bins]:
    """The bins of every variable, pixels first, for codec.conditionals.Conditionals. levels: that a pixel may have.

    Raises UserError where a latent ranges wider than integers here can hold.
    """
    n = 1 << ranges.quantbits
    try:
        lower = [UniformBins.between(lo, hi, n) for lo, hi in zip(ranges.lo, ranges.hi, strict=True)]
    except ValueError as error:
        raise UserError(f"the latents of this checkpoint are out of any range ({error}); it is of no use") from None
    return [pixel_bins(int(np.prod(model.xs)), levels), *lower, EqualMassBins(n)]


def sample_ranges(
    model: "LatentVariableModel",
    images: np.ndarray | datasets.Patches | None,
    quantbits: int,
    checkpoint: str = "",
    seed: int = 100,
    job: "distributed.Job" = ALONE,
) -> Ranges:
    """Sample the chains of a model.

    images: uint8 [N, H, W, C], the training set, or None to sample the generative chain only.
    quantbits: q; SAMPLES_PER_BIN * 2^q samples are drawn of each chain. checkpoint: the identity to record.
    job: of the processes that the samples are dealt to, batch by batch; all of them call this.
    Returns Ranges, the same for any number of processes on equal machines. Memory: one batch of network activations
    and one of images.
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

    def see(layer, z):
        least[layer] = torch.minimum(least[layer], z.amin(0))
        greatest[layer] = torch.maximum(greatest[layer], z.amax(0))

    if model.nz > 1:
        if images is not None:
            images = datasets.recrop(images, seed, math.ceil(count / len(images)))
            # With replacement only where there are fewer images than samples.
            indices = _draw(len(images), count, seed)
        with torch.inference_mode(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            starts = range(0, count, BATCH)[job.rank :: job.size]
            bar = tqdm(starts, desc="bins", unit="batch", dynamic_ncols=True, disable=job.rank > 0)
            for first in foretell(bar, f"the bins of --quantbits={quantbits} take {count:,} samples"):
                torch.manual_seed(seed + first)  # a batch is the same whatever process draws it
                size = min(BATCH, count - first)
                _, *lower = sample_latents(model, size)
                for i, z in enumerate(reversed(lower)):
                    see(i, z)
                if images is not None:
                    batch = datasets.to_channels_first(images[indices[first : first + size]], model.xs[1:])
                    z = to_levels(torch.from_numpy(batch).to(device))
                    for i in range(model.nz - 1):
                        z = rand.sample(*model.infer(i, z))
                        see(i, z)
    lo, hi = (limit.flatten(1).double().cpu().numpy() for limit in (least, greatest))
    lo, hi = gather(job, lo[None], job.size).min(0), gather(job, hi[None], job.size).max(0)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise UserError("the latents sampled from this checkpoint are constant or not finite; it is of no use")
    return Ranges(lo, hi, quantbits, checkpoint, images is not None)


def foretell(bar: tqdm, what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[int]:
    """Iterate over a tqdm bar, and say how long all will take where that is over a minute, after the first few steps.

    The first step is not counted: it may allocate and compile. what: what takes so long, in words.
    """
    steps = len(bar)
    for i, step in enumerate(bar):
        if i == 1:
            began = clock()
        if i == FIRST and (seconds := (clock() - began) / (FIRST - 1) * steps) > 60:
            long = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{math.ceil(seconds / 60)} minutes"
            bar.write(f"{what}: about {long}, this once; fewer bits are faster")
        yield step


def _draw(images, count, seed):
    return np.random.default_rng(seed).choice(images, count, replace=count > images)


def save(ranges: Ranges, path: str | Path) -> None:
    """Write ranges as an .npz file, whole or not at all."""
    npz.save(path, **ranges._asdict())


def load(path: str | Path) -> Ranges:
    """Read ranges that save() wrote. Raises UserError where the file holds something else."""
    lo, hi, quantbits, checkpoint, with_images = npz.load(path, Ranges._fields, "delete it to have it made again")
    sound = lo.dtype == hi.dtype == np.float64 and lo.ndim == 2 and lo.shape == hi.shape
    if not (sound and np.isfinite(lo).all() and np.isfinite(hi).all() and (lo < hi).all()):
        raise UserError(f"{path} does not hold the ranges of latents; delete it to have it made again")
    return Ranges(lo, hi, int(quantbits), str(checkpoint), bool(with_images))


def for_checkpoint(
    path: str | Path,
    model: "LatentVariableModel",
    identity: str,
    dataset: str,
    quantbits: int,
    data: str | Path | None = None,
    output: str | Path = paths.ROOT,
    job: "distributed.Job" = ALONE,
) -> Ranges:
    """The ranges for a checkpoint: those beside it, those in the cache, or new ones, which are then cached.

    path: the checkpoint's. data: folder of the datasets; without the training set the generative chain alone is
    sampled, with a warning. job: of the processes that sample together; rank 0 reads and writes the files.
    """
    from utils import distributed

    cached = _cached(model, identity, dataset, quantbits, output)
    found = None if job.rank else find(path, model, identity, dataset, quantbits, output)
    found = distributed.broadcast_object(job, found)
    if found is not None and found.with_images:
        return found
    if found is None:
        paths.check_folder_writable(cached.parent)  # before the work
    images = distributed.in_turn(job, lambda: _training_images(dataset, data))
    if images is None and found is not None:
        return found
    ranges = sample_ranges(model, images, quantbits, identity, job=job)
    if job.rank == 0:
        save(ranges, cached)
    return ranges


def _cached(model, identity, dataset, quantbits, output):
    return paths.bins(output) / f"{dataset}_nz{model.nz}_{quantbits}bits_{identity}.npz"


def find(
    path: str | Path,
    model: "LatentVariableModel",
    identity: str,
    dataset: str,
    quantbits: int,
    output: str | Path = paths.ROOT,
) -> Ranges | None:
    """As for_checkpoint(), but None where neither it nor the cache has any; those of both chains come first."""
    from model import checkpoints

    partial = None
    cached = _cached(model, identity, dataset, quantbits, output)
    for candidate in checkpoints.companions(path, ".bins.npz", cached):
        ranges = load(candidate)
        if (ranges.checkpoint, ranges.quantbits) == (identity, quantbits):
            if ranges.lo.shape != (model.nz - 1, int(np.prod(model.zs))):
                raise UserError(f"{candidate} does not fit its checkpoint; delete it to have it made again")
            if ranges.with_images:
                return ranges
            partial = ranges
    return partial


def _training_images(dataset, data):
    try:
        return datasets.load(dataset, "train", data)
    except UserError as error:
        print(f"Warning: {error}.\nWithout training images the bins cover the samples of the generative model only.")
        return None


@cli.script
def main(argv: list[str] | None = None) -> None:
    parser = cli.parser(
        "Make the bins of a checkpoint's latents. The compression scripts do so by themselves where they are missing.\n"
        "mpiexec -np 8 python discretization.py ..., or torchrun --nproc-per-node 8, deals samples to 8 processes.\n"
        "\nWrites bins/<dataset>_nz<k>_<q>bits_<checkpoint>.npz, or the file that --to names."
    )
    parser.add_argument("dataset", choices=sorted(datasets.NAMES), help="the dataset the checkpoint was trained on")
    cli.add_checkpoint_arguments(parser)
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--to", help="write here; CHECKPOINT.bins.npz beside CHECKPOINT.pt is found by itself")
    args = parser.parse_args(argv)
    with joined(args, "sampling") as job:
        _make(args, job)


def _make(args, job):
    from model import checkpoints
    from utils import distributed

    path, model, identity = checkpoints.open_for(args.dataset, args)
    if args.to:
        paths.check_writable(args.to)
        images = distributed.in_turn(job, lambda: datasets.load(args.dataset, "train", args.data))
        ranges = sample_ranges(model, images, args.quantbits, identity, job=job)
        if job.rank == 0:
            save(ranges, args.to)
    else:
        ranges = for_checkpoint(path, model, identity, args.dataset, args.quantbits, args.data, args.output, job)
    for i, (lo, hi) in enumerate(zip(ranges.lo, ranges.hi, strict=True), start=1):
        print(f"z{i}: {len(lo)} dimensions, from {lo.min():.3f} to {hi.max():.3f}")
    print(f"z{model.nz}: {1 << ranges.quantbits} bins of equal mass under the prior")


if __name__ == "__main__":
    main()
