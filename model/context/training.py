"""Training the context network: see model/context_train.py.

Every step lowers the code length of some thousand pixels of the training set (model.context.data), each given the true
pixels above and on the left.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoints import save
from model.context import data, weights
from model.context.torch_network import TorchContextNetwork
from model.optimiser import adam, check_finite, clip, cosine, set_lr, stop_signals
from model.train_state import claim, load_full
from utils import paths, processes
from utils.cli import counted
from utils.progress import bar
from utils.torch.modules import update_ema

SAVE_SECONDS = 60


@torch.no_grad()
def validate(network: TorchContextNetwork, source: data.Source) -> list[float]:
    """The mean code length of each validation set of the source, in bits/dim."""
    rates = (network.bits(*pixels)[:, : source.channels].double().mean() for pixels in source.validation.values())
    return [rate.item() for rate in rates]


def train(dataset: str, args: argparse.Namespace) -> None:
    """Train, or resume training, and write the averaged weights to args.output/model/params/<dataset>/context.npz.

    args: the flags of model/context_train.py. A run that was stopped resumes with the same results as an unbroken one:
    everything random in a step follows from its number. context.npz is written at the end or after a signal only, and
    until then the average is in context.resume: a file can only be decoded with the weights that encoded it.
    """
    processes.refuse_several("training the context network")
    target = paths.params(dataset, args.output) / weights.NAME
    full = target.with_name("context.resume")
    with claim(target, full, args.resume, args.force):
        _train(dataset, args, target, full)


def _train(dataset: str, args: argparse.Namespace, target: Path, full: Path) -> None:
    identity = {"steps": args.steps, "batch": args.batch, "seed": args.seed}
    state = load_full(full, identity) if args.resume else None
    source = data.open_source(dataset, args.data)
    torch.manual_seed(args.seed)
    network = TorchContextNetwork()
    average, optimiser = copy.deepcopy(network), adam(network, args.lr)
    parts: dict[str, Any] = {"network": network, "average": average, "optimiser": optimiser}
    step, curve, began = 0, [], time.monotonic()
    if state is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step, curve, began = state["step"], state["curve"], began - state["seconds"]
    count = sum(p.numel() for p in network.parameters())
    work = f"{counted(args.steps, 'step')} of {args.batch:,} pixels" + (f", resumed at step {step:,}" if step else "")
    print(f"context network: {count:,} parameters, {source.what}, {work}")

    def save_full():
        progress = {"step": step, "curve": curve, "seconds": time.monotonic() - began, "identity": identity}
        save({name: part.state_dict() for name, part in parts.items()} | progress, full)

    running, saved = None, time.monotonic()
    with bar(total=args.steps, initial=step, unit="step", desc="context network") as steps, stop_signals() as asked:
        while step < args.steps and not asked:
            set_lr(optimiser, cosine(args.lr, step, args.steps))
            pixels = source.draw(np.random.default_rng((args.seed, step)), args.batch)
            loss = network.bits(*pixels)[:, : source.channels].mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip(network).item()  # without the limit, some runs end in NaN
            value = loss.item()
            check_finite(value, norm, step, full)  # before the weights change
            optimiser.step()
            step += 1
            update_ema(average, network, step, head_start=0)
            running = value if running is None else 0.99 * running + 0.01 * value
            steps.update()
            if step % args.test_every == 0 or step == args.steps:
                curve.append((step, *validate(average, source)))
                rates = zip(source.validation, curve[-1][1:], strict=True)
                steps.write(f"step {step:,}: " + ", ".join(f"{name} {rate:.4f}" for name, rate in rates) + " bits/dim")
            if step % 20 == 0:
                steps.set_postfix_str(f"{running:.4f} bits/dim")
            if time.monotonic() - saved > SAVE_SECONDS:
                save_full()
                saved = time.monotonic()
    save_full()
    record = {f"setting_{name}": value for name, value in (identity | {"lr": args.lr}).items()} | {"steps": step}
    record |= {"seconds": time.monotonic() - began, "curve": np.reshape(curve, (-1, 1 + len(source.validation)))}
    weights.save(target, average.weights(), **record)
    if step < args.steps:
        print(f"stopped by a signal at step {step:,}; everything is saved in {full}; add --resume to go on")
    print(f"wrote {target}")
