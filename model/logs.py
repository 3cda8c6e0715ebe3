"""What training logs: TensorBoard scalars and images, and the test scalars as CSV."""

import csv
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX import SummaryWriter

from model.vae import Model, sample_latents
from utils import datasets, paths
from utils.torch import rand
from utils.torch.modules import fold_weight_norm


class Log:
    """TensorBoard scalars and images, and the test scalars once more as CSV for stackplot.py."""

    def __init__(self, run: Path, folder: Path, step: int = 0, epoch: int = 0) -> None:
        """run: the TensorBoard folder of this run. folder: of the CSV files. A resumed run has taken `step` steps and
        was tested last after `epoch` epochs: what it logged later, before it was killed, is dropped."""
        # Events from purge_step on are dropped, and step itself has been logged. Without a suffix, a run that is
        # resumed within a second would overwrite the file of the one before.
        self.writer = SummaryWriter(str(run), purge_step=step + 1 if step else None, filename_suffix=f".{step}")
        self.folder, self.epoch = folder, epoch
        self.rows: dict[Path, list[Sequence[Any]]] = {}
        if not step:
            keep_aside(folder)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def train(self, loss: float, metrics: Mapping[str, float], step: int, **others: float) -> None:
        """Log the optimised loss, which has free bits, as elbo/train; the plain ELBO and its terms; and others."""
        self.scalars({"elbo/train": loss, "elbo/train_plain": metrics["elbo"]} | others, step)
        self.scalars({f"{tag}/train": value for tag, value in metrics.items() if tag != "elbo"}, step)

    def test(self, metrics: Mapping[str, float], best: float, epoch: int) -> None:
        """Log test metrics; in CSV x is its reconstruction term and z<i> its KL, which add up to the ELBO."""
        self.scalars({"elbo/test": metrics["elbo"], "elbo/besttest": best}, epoch)
        self.scalars({f"{tag}/test": value for tag, value in metrics.items() if tag != "elbo"}, epoch)
        curves = {"elbo": "elbo", "x/reconstruction": "x"}
        curves |= {tag: tag.split("/")[0] for tag in metrics if tag.endswith("/KL")}
        for tag, name in curves.items():
            self._append(self.folder / f"{name}.csv", (time.time(), epoch, metrics[tag]))

    def _append(self, path: Path, row: Sequence[Any]) -> None:
        if path not in self.rows:
            self.rows[path] = []
            if path.exists():
                with open(path, newline="") as file:
                    self.rows[path] = [old for old in list(csv.reader(file))[1:] if int(old[1]) <= self.epoch]
        self.rows[path].append(row)
        with paths.replacing(path, "w") as file:
            csv.writer(file, lineterminator="\n").writerows([("Wall time", "Step", "Value"), *self.rows[path]])

    @torch.no_grad()
    def images(
        self, model: Model, images: np.ndarray | datasets.Patches, device: torch.device, epoch: int, count: int = 64
    ) -> None:
        """Log samples from the model, and test images above their reconstructions."""
        model = fold_weight_norm(model)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            *_, z = sample_latents(model, count)
            x = torch.from_numpy(datasets.to_channels_first(images[:count])).to(device)
            sample = rand.sample(*model.generate(0, z))
            z1 = rand.sample(*model.infer(0, model.to_levels(x)))
            reconstruction = rand.sample(*model.generate(0, z1))
        self.writer.add_images("x_sample", to_pixels(model, sample), epoch)
        self.writer.add_images("x_reconstruct", torch.cat((x, to_pixels(model, reconstruction))), epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def metrics(recon: float, dec: Sequence[float], enc: Sequence[float]) -> dict[str, float]:
    """The negative ELBO and its terms, {tag: value}, from log p(x|z_1), the layers' log p(z_i|.) and log q(z_i|.)."""
    terms = {"elbo": sum(enc) - sum(dec) - recon, "x/reconstruction": -recon}
    for i, (d, e) in enumerate(zip(dec, enc, strict=True), start=1):
        terms |= {f"z{i}/encoder": -e, f"z{i}/decoder": -d, f"z{i}/KL": e - d}
    return terms


def new_run(folder: Path) -> int:
    """Make the next numbered folder in a folder of runs, and return its number."""
    folder.mkdir(parents=True, exist_ok=True)
    run = 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
    (folder / str(run)).mkdir()
    return run


def keep_aside(folder: Path) -> None:
    """Move the curves of an earlier run into a folder earlier-<n> of their own."""
    curves = [path for path in folder.glob("*.csv") if re.fullmatch(r"elbo|x|z\d+", path.stem)]
    if curves:
        number = 1 + len(list(folder.glob("earlier-*")))
        aside = folder / f"earlier-{number}"
        aside.mkdir()
        for path in curves:
            path.rename(aside / path.name)
        print(f"the curves of an earlier run are now in {aside}")


def to_pixels(model: Model, x: torch.Tensor) -> torch.Tensor:
    """Pixels, uint8 [B, *xs], of samples x of p(x|z_1) on [-1, 1]."""
    return model.to_pixels((x * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))
