"""Training the context network (model.context): the training scripts' --likelihood=context.

Every step lowers the code length of some thousand pixels of the training set (model.context_data), each given the true
ones above and to the left.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model import context, context_data
from model.context_network import ContextNetwork
from model.optimiser import adam, cosine, set_lr, stop_signals
from model.train_state import ANEW, read_full, refuse_to_replace, save
from utils import cli, paths, processes
from utils.errors import UserError

EMA = 0.999
SAVE_SECONDS = 60


@torch.no_grad()
def average_in(average: ContextNetwork, network: ContextNetwork, step: int) -> None:
    """Move the averaged parameters towards those after a step, counted from 1: slowly, but for the first steps."""
    decay = min(EMA, step / (step + 10))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


@torch.no_grad()
def validate(network: ContextNetwork, source: context_data.Source) -> list[float]:
    """The mean code length of each of the source's sets for validation, in bits/dim."""
    return [network.bits(*pixels)[:, : source.channels].double().mean().item() for pixels in source.sets.values()]


def train(dataset: str, args: argparse.Namespace) -> None:
    """Train, or go on training, and write the averaged weights as args.output/model/params/<dataset>/context.npz.

    args: steps, batch (pixels), lr, seed, data, output, resume, force. A run that is cut off goes on with resume as
    if it had not been: what is random in a step follows from its number. Until the end, or a stop, the average is in
    context.resume alone: files that were compressed with the network of one minute would need it for ever.
    """
    processes.refuse_several("training the context network")
    target = paths.params(dataset, args.output) / context.NAME
    full = target.with_name("context.resume")
    paths.check_writable(target, full)
    refuse_to_replace(target, full, args.resume, args.force)
    identity = {"steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": args.seed}
    state = _load_state(full, identity) if args.resume else None
    source = context_data.open_source(dataset, args.data)
    torch.manual_seed(args.seed)
    network, average = ContextNetwork(), ContextNetwork()
    average.load_state_dict(network.state_dict())
    optimiser = adam(network, args.lr)
    step, curve, spent = 0, [], 0.0
    if state is not None:
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, curve, spent = state["step"], state["curve"], state["seconds"]
    count = sum(p.numel() for p in network.parameters())
    print(f"context network: {count:,} parameters, {source.what}, {args.steps:,} steps of {args.batch:,} "
          f"pixels" + (f", resumed at step {step:,}" if step else ""))  # fmt: skip
    began = saved = time.monotonic()

    def elapsed():
        return spent + time.monotonic() - began

    def save_full():
        save({
            "network": network.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict(),
            "step": step, "curve": curve, "seconds": elapsed(), "identity": identity,
        }, full)  # fmt: skip

    bar = tqdm(total=args.steps, initial=step, unit="step", dynamic_ncols=True, desc="context network")
    running = None
    with bar, stop_signals() as asked:
        while step < args.steps and not asked:
            set_lr(optimiser, cosine(args.lr, step, args.steps))
            pixels = source.batch(np.random.default_rng((args.seed, step)), args.batch)
            loss = network.bits(*pixels)[:, : source.channels].mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # without, some runs end in NaN
            value = loss.item()
            if not (math.isfinite(value) and torch.isfinite(norm)):  # before it gets into the weights
                what = f"the loss is {value} and the norm of its gradient {norm.item()} after step {step}"
                raise UserError(f"{what}; go on with --resume and a lower --lr")
            optimiser.step()
            step += 1
            average_in(average, network, step)
            running = value if running is None else 0.99 * running + 0.01 * value
            bar.update()
            if step % args.test_every == 0 or step == args.steps:
                curve.append((step, *validate(average, source)))
                found = zip(source.sets, curve[-1][1:], strict=True)
                bar.write(f"step {step:,}: " + ", ".join(f"{name} {rate:.4f}" for name, rate in found) + " bits/dim")
            if step % 20 == 0:
                bar.set_postfix_str(f"{running:.4f} bits/dim")
            if time.monotonic() - saved > SAVE_SECONDS:
                save_full()
                saved = time.monotonic()
    save_full()
    context.save(
        target, average.weights(), steps=step, seconds=elapsed(), **identity_record(identity),
        curve=np.array(curve, np.float64).reshape(-1, 1 + len(source.sets)),
    )  # fmt: skip
    if step < args.steps:
        print(f"stopped by a signal at step {step:,}, saved in {full}; to go on, add --resume")
    print(f"wrote {target}")


def identity_record(identity: dict[str, Any]) -> dict[str, Any]:
    """A run's settings under the names that its checkpoint records them by."""
    return {f"setting_{name}": value for name, value in identity.items()}


def _load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    state = read_full(path)
    if state is not None and state["identity"] | {"lr": None} != identity | {"lr": None}:  # another rate will do
        raise UserError(f"{path} is of another run, {state['identity']}; use its settings, or {ANEW}")
    return state


def main(dataset: str, argv: list[str] | None = None) -> None:
    """The command line of a training script's --likelihood=context."""
    parser = cli.parser(
        f"Train the context network on {dataset}, without latents. With --nz=1 or more, --likelihood=context trains a\n"
        f"model with latents, with the flags that {dataset}_train.py --help shows.\n\nWrites, under --output:\n"
        f"  model/params/{dataset}/context.npz     the averaged weights, at the end, with the curve of validation\n"
        f"  model/params/{dataset}/context.resume  everything that --resume needs"
    )
    whole = cli.whole_number
    positive = cli.real_number("more than 0", lambda value: value > 0)
    steps = "optimiser steps, over which the rate falls to 0"
    parser.add_argument("--steps", type=whole(1, 10**9), default=100_000, help=steps)
    parser.add_argument("--batch", type=whole(512, 10**6), default=4096, help="pixels a step")
    parser.add_argument("--lr", type=positive, default=3e-3, help="learning rate of Adam")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="seed of everything random")
    parser.add_argument("--test-every", type=whole(1, 10**9), default=1000, help="steps between validations")
    parser.add_argument("--resume", action="store_true", help="go on from the last full checkpoint, if there is one")
    parser.add_argument("--force", action="store_true", help="start anew where there is a trained model already")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    cli.script(train)(dataset, parser.parse_args(argv))
