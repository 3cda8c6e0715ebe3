"""What training logs: TensorBoard scalars and images, and the test scalars as CSV."""

import csv
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tensorboardX import SummaryWriter

from model.vae import Model, sample_latents
from utils import datasets
from utils.tables import write_csv
from utils.torch import rand
from utils.torch.modules import fold_weight_norm

SHOWN = 64  # images


class Log:
    """TensorBoard scalars and images of a run, and its test scalars as CSV for stackplot.py."""

    def __init__(self, run: Path, curves: Path, step: int = 0) -> None:
        """run: the TensorBoard folder of this run. curves: the folder of the CSV files. step: where a resumed run
        continues; what it logged later, before it was killed, is dropped.
        """
        # TensorBoard ignores what was logged at purge_step or later. Without the suffix, a run that is resumed within
        # a second would overwrite the file of the previous one.
        self.writer = SummaryWriter(str(run), purge_step=step + 1 if step else None, filename_suffix=f".{step}")
        self.curves = curves
        if not step:
            keep_aside(curves)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def train(self, loss: float, metrics: Mapping[str, float], step: int, **others: float) -> None:
        """Log the loss, which has free bits, as elbo/train; the ELBO without them; its terms; and others by name."""
        elbos = {"elbo/train": loss, "elbo/train_plain": metrics["elbo"]}
        self.scalars({f"{tag}/train": value for tag, value in metrics.items()} | elbos | others, step)

    def test(self, metrics: Mapping[str, float], best: float, epoch: int) -> None:
        """Log test metrics. In CSV, x is the reconstruction term and z<i> the KL; together they make the ELBO."""
        self.scalars({f"{tag}/test": value for tag, value in metrics.items()} | {"elbo/besttest": best}, epoch)
        for tag, value in metrics.items():
            if tag in ("elbo", "x/reconstruction") or tag.endswith("/KL"):
                self._append(self.curves / f"{tag.split('/')[0]}.csv", epoch, value)

    def _append(self, path: Path, epoch: int, value: float) -> None:
        """Add a row to a CSV file, and drop those of this epoch and later, from a run that was killed."""
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        rows = [row for row in csv.reader(lines) if int(row[1]) < epoch]
        write_csv(path, ("Wall time", "Step", "Value"), [*rows, (time.time(), epoch, value)])

    @torch.no_grad()
    def images(self, model: Model, images: np.ndarray | datasets.Patches, device: torch.device, epoch: int) -> None:
        """Log samples from the model, and test images above their reconstructions."""
        model = fold_weight_norm(model)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            *_, z = sample_latents(model, SHOWN)
            x = torch.from_numpy(datasets.to_channels_first(images[:SHOWN])).to(device)
            sample = rand.sample(*model.generate(0, z))
            z1 = rand.sample(*model.infer(0, model.to_levels(x)))
            reconstruction = rand.sample(*model.generate(0, z1))
        self.writer.add_images("x_sample", to_pixels(model, sample), epoch)
        self.writer.add_images("x_reconstruct", torch.cat((x, to_pixels(model, reconstruction))), epoch)
        self.writer.flush()


def new_run(folder: Path) -> int:
    """Make the next numbered folder in a folder of runs, and return its number."""
    folder.mkdir(parents=True, exist_ok=True)
    run = 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
    (folder / str(run)).mkdir()
    return run


def keep_aside(folder: Path) -> None:
    """Move the curves of an earlier run into a sub-folder earlier-<n>."""
    curves = [path for path in folder.glob("*.csv") if re.fullmatch(r"elbo|x|z\d+|made", path.stem)]
    if curves:
        aside = folder / f"earlier-{1 + len(list(folder.glob('earlier-*')))}"
        aside.mkdir()
        for path in curves:
            path.rename(aside / path.name)
        print(f"the curves of an earlier run are now in {aside}")


def to_pixels(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Pixels, uint8 [B, *xs], of samples x of p(x|z_1) on [-1, 1]."""
    return model.to_pixels((x * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))
