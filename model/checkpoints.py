"""Checkpoints: finding one, reading it, and where its bins and its exact form are."""

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.vae import Model
from utils import cli, datasets, paths, results
from utils.errors import UserError

# Under which keys others save a state dict, in the order of preference, and what they put in front of its names.
WRAPPERS = ("ema", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as load() reads it.

    The bins and the exact form of the model are next to its file or in OUTPUT/bins. They record the identity of the
    model that they were made from, so that those of another model are never used.
    """

    path: Path
    model: Model  # in evaluation mode
    identity: str  # of the parameters: see identify()
    dataset: str
    output: Path  # the folder that has bins/

    def bins_files(self, quantbits: int) -> tuple[Path, Path]:
        """Where its bins (discretization.py) may be: next to the checkpoint, and in OUTPUT/bins."""
        return self._companions(".bins.npz", f"_{quantbits}bits_{self.identity}.npz")

    def exact_files(self) -> tuple[Path, Path]:
        """Where its exact form (model.exact) may be: next to the checkpoint, and in OUTPUT/bins."""
        return self._companions(".exact.npz", f"_{self.identity}.exact.npz")

    def _companions(self, suffix: str, cached: str) -> tuple[Path, Path]:
        return self.path.with_suffix(suffix), paths.bins(self.output) / f"{self.dataset}_nz{self.model.nz}{cached}"


def open_for(dataset: str, args: argparse.Namespace) -> Checkpoint:
    """Find and read the checkpoint that the flags of cli.add_checkpoint_arguments() name.

    Raises UserError if there is none, or if it is not one for this dataset.
    """
    device = cli.device(args.gpu)
    path = find(dataset, args.nz, args.checkpoint, args.output)
    checkpoint = load(path, dataset, device, args.output)
    model = checkpoint.model
    if model.xs != datasets.model_shape(dataset):
        raise UserError(f"{path} is for images of shape {model.xs}; {dataset}'s are {datasets.model_shape(dataset)}")
    if args.nz not in (None, model.nz):
        raise UserError(f"{path} has {cli.counted(model.nz, 'latent layer')}; leave out --nz={args.nz}")
    return checkpoint


def find(
    dataset: str, nz: int | None = None, checkpoint: str | Path | None = None, output: str | Path = paths.ROOT
) -> Path:
    """The path of the checkpoint to use: `checkpoint` if it is given, else one that was trained for the dataset.

    nz: the number of latent layers; the default is the largest. Models under model/params, of OUTPUT or of the
    repository, come before the small ones that ship under model/pretrained, whatever their nz.
    Raises UserError if there is none; the message names the command that trains one.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    found = paths.checkpoints(dataset, output)
    own = [layers for layers, path in found.items() if path.parent != paths.PRETRAINED]
    folders = " and ".join(map(str, dict.fromkeys((paths.params(dataset, output), paths.params(dataset)))))
    wanted = "checkpoint" if nz is None else f"checkpoint for --nz={nz}"
    nz = max(own or found, default=None) if nz is None else nz
    if nz not in found:
        published = results.DEPTHS[dataset]
        train = f"python model/{dataset}_train.py --nz={nz if nz in published else published[-1]}"
        there, depths = (", ".join(map(str, numbers)) or "none" for numbers in (sorted(found), published))
        raise UserError(
            f"no {wanted} in {folders} and {paths.PRETRAINED}, which hold --nz={there}; {train} trains one (the "
            f"published depths are {depths})"
        )
    if found[nz].parent == paths.PRETRAINED:
        print(f"No {wanted} in {folders}: using the small one that ships, {found[nz]}")
    return found[nz]


def load(
    path: str | Path, dataset: str, device: str | torch.device = "cpu", output: str | Path = paths.ROOT
) -> Checkpoint:
    """Read a checkpoint: a state dict as the paper publishes them, as training writes them, or as plain() finds it.

    Raises UserError if the file is absent, is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; name a checkpoint with --checkpoint or train one")
    try:
        state_dict = plain(torch.load(path, map_location="cpu", weights_only=True), path)
    except Exception as error:  # a damaged file makes torch.load() raise all sorts of exceptions
        what = "is corrupt or not a PyTorch checkpoint"
        if "Unsupported global" in str(error):
            what = "holds more than weights; write only the state_dict() of its model, with torch.save()"
        raise UserError(f"{path} {what} ({type(error).__name__})") from None
    try:
        model = Model.from_state_dict(state_dict)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    state_dict = model.state_dict()
    if bad := [name for name, value in state_dict.items() if not torch.isfinite(value).all()]:
        raise UserError(f"{path}: {bad[0]} holds values that are NaN or infinite; use an earlier checkpoint")
    return Checkpoint(path, model.to(device), identify(state_dict), dataset, Path(output))


def plain(entries: Any, path: Path) -> Any:
    """The state dict in what torch.load() gives: out of its wrappers, and without prefixes on its names.

    Averaged weights ("ema"), which our .resume files hold too, come before raw ones.
    """
    while isinstance(entries, dict) and entries:
        wrapper = next((key for key in WRAPPERS if isinstance(entries.get(key), dict)), None)
        prefix = next((each for each in PREFIXES if all(str(name).startswith(each) for name in entries)), None)
        if wrapper == "ema":
            print(f"{path}: using its averaged weights (ema)")
        if wrapper:
            entries = entries[wrapper]
        elif prefix:
            entries = {str(name).removeprefix(prefix): value for name, value in entries.items()}
        else:
            break
    return entries


def identify(state_dict: Mapping[str, torch.Tensor]) -> str:
    """A digest of the parameters: 16 hexadecimal digits, the same however and wherever they are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save(entries: Mapping[str, Any], path: str | Path) -> None:
    """torch.save() of a whole file or of none. Raises UserError, naming file and reason, for example on a full disk.

    entries: a state dict, or the entries of a full checkpoint.
    """
    with paths.replacing(path) as file:
        torch.save(entries, file)
