"""Finding and reading the checkpoints that the compression scripts use."""

import argparse
import hashlib
import pickle
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.vae import Model
from utils import cli, datasets, paths, results
from utils.cli import UserError


def open_for(dataset: str, args: argparse.Namespace) -> tuple[Path, Model, str]:
    """Find and read the checkpoint that cli.add_checkpoint_arguments()'s flags name: (path, model, identity).

    Raises UserError where there is none or it is not one for this dataset.
    """
    device = cli.device(args.gpu)
    path = find(dataset, args.nz, args.checkpoint, args.output, args.likelihood)
    model, identity = load(path, device)
    if model.likelihood != args.likelihood:
        raise UserError(f"{path} has a {model.likelihood} likelihood: it goes with --likelihood={model.likelihood}")
    if model.xs != datasets.model_shape(dataset):
        raise UserError(f"{path} is for images of shape {model.xs}; {dataset}'s are {datasets.model_shape(dataset)}")
    if args.nz not in (None, model.nz):
        raise UserError(f"{path} has {model.nz} latent layers; leave out --nz={args.nz}")
    return path, model, identity


def find(
    dataset: str,
    nz: int | None = None,
    checkpoint: str | Path | None = None,
    output: str | Path = paths.ROOT,
    likelihood: str = cli.LIKELIHOODS[0],
) -> Path:
    """The path of the checkpoint to use.

    checkpoint: a path that settles it. nz: number of latent layers; by default the most there is a checkpoint for.
    One under model/params is taken before the small one that ships under model/pretrained.
    Raises UserError where there is none, naming the command that makes it.
    """
    if checkpoint is not None:
        return Path(checkpoint)
    family = paths.family(dataset, likelihood)
    found = paths.checkpoints(family, output)
    if nz is None:
        nz = max(found, default=None)
    if nz not in found:
        wanted = "no checkpoint" if nz is None else f"no checkpoint for --nz={nz}"
        there = f"; there is one for --nz={', '.join(map(str, sorted(found)))}" if found else ""
        published = results.DEPTHS[dataset]
        other = "" if likelihood == cli.LIKELIHOODS[0] else f" --likelihood={likelihood}"
        train = f"python model/{dataset}_train.py{other} --nz={nz if nz in published else published[-1]}"
        makes = f"{train} makes it"
        if nz not in (None, *published):
            makes = f"the published depths are {', '.join(map(str, published))}, e.g. {train}"
        searched = dict.fromkeys((paths.params(family, output), paths.params(family), paths.PRETRAINED))
        raise UserError(f"{wanted} in {', '.join(map(str, searched))}{there}; {makes}")
    if found[nz].parent == paths.PRETRAINED:
        print(f"No checkpoint in {paths.params(family, output)}: using the small one that ships, {found[nz]}")
    return found[nz]


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[Model, str]:
    """Read a checkpoint, a state dict as the paper publishes them or as training writes them.

    Returns (model, identity), the model in evaluation mode on `device`.
    Raises UserError where the file is absent, is corrupt or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a checkpoint with --checkpoint or train one")
    try:
        state_dict = plain(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):  # then it is damaged
            raise UserError(f"{path} is corrupt or not a PyTorch checkpoint ({type(error).__name__})") from None
        code = (
            f"import torch; c = torch.load({str(path)!r}, map_location='cpu', weights_only=False); "
            "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
            "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c, 'weights.pt')"
        )
        raise UserError(
            f"{path} holds other Python objects than weights, which can run code when they are read. If you trust it, "
            f"take the weights out: python -c {shlex.quote(code)}"
        ) from None
    except Exception as error:  # torch.load may raise any on a damaged file
        raise UserError(f"{path} is corrupt or not a PyTorch checkpoint ({type(error).__name__})") from None
    try:
        model = Model.from_state_dict(state_dict)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} holds values that are NaN or infinite; take an earlier checkpoint")
    return model.to(device), identity(model.state_dict())


def plain(checkpoint: Any) -> Any:
    """The state dict in what others save: inside {"state_dict": ...} or {"model": ...}, keys with "module." before."""
    for key in ("state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if isinstance(checkpoint, dict) and checkpoint and all(str(key).startswith("module.") for key in checkpoint):
        checkpoint = {key.removeprefix("module."): value for key, value in checkpoint.items()}
    return checkpoint


def companions(path: str | Path, suffix: str, cached: Path) -> list[Path]:
    """What goes with the checkpoint at `path`, where it exists: CHECKPOINT<suffix> beside it, then a cached file."""
    return [candidate for candidate in (Path(path).with_suffix(suffix), cached) if candidate.exists()]


def identity(state_dict: Mapping[str, torch.Tensor]) -> str:
    """A digest of the parameters: 16 hexadecimal digits, the same however and wherever they are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
