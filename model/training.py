"""Training, shared by the datasets: warm-up, the loop, a step of it, tests.

A long module, so that the loop and everything that a step computes can be read in one place.
"""

import argparse
import contextlib
import copy
import io
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model.logs import Log, metrics, new_run
from model.train_options import LEAST_LR
from model.train_state import Files, State, load_full, refuse_to_replace, save, save_full
from model.vae import Model, log_likelihoods
from utils import datasets, distributed, paths
from utils.cli import UserError
from utils.published import Settings
from utils.torch import rand
from utils.torch.modules import WnConv2d, fold_weight_norm, init_mode, update_ema

WARMUP_BATCHES = 25
TEST_BATCH = 250
SAVE_SECONDS = 300  # between full checkpoints inside an epoch
SHOW_SECONDS = 2  # between updates of the loss on the progress bar, for which a GPU is waited for
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}  # of autocast, by --precision

Split = np.ndarray | datasets.Patches  # the images of one, uint8 [N, H, W, C]
Sampler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # draws z from (mu, scale)


def train(settings: Settings, args: argparse.Namespace) -> None:
    """Train until --epochs or --max-steps is reached, or a signal asks to stop; see parse() for what is written."""
    job = distributed.start(args.dist, args.gpu)
    if args.batch % job.size:
        raise UserError(f"--batch={args.batch} cannot be split evenly over {job.size} processes; take a multiple")
    with contextlib.ExitStack() as on_leaving:
        on_leaving.enter_context(contextlib.redirect_stdout(sys.stdout if job.rank == 0 else io.StringIO()))
        _train(settings, args, job, on_leaving)
    distributed.stop(job)


def _train(
    settings: Settings, args: argparse.Namespace, job: distributed.Job, on_leaving: contextlib.ExitStack
) -> None:
    family = paths.family(settings.dataset, args.likelihood)
    files = Files(family, args.nz, args.output)
    runs = paths.runs(family, args.nz, args.output)
    curves = paths.results(family, args.nz, args.output)
    if job.rank == 0:
        paths.check_writable(files.best, files.full)
        paths.check_folder_writable(runs, curves)
        refuse_to_replace(files.best, files.full, args.resume, args.force)
    splits = distributed.in_turn(
        job, lambda: {split: datasets.load(settings.dataset, split, args.data) for split in ("train", "test")}
    )
    count = len(training_images(splits, args, 0))
    steps_per_epoch = math.ceil(count / args.batch)
    last_step = min((args.epochs or math.inf) * steps_per_epoch, args.max_steps or math.inf)
    state, identity = begin(settings, args, job, files, training_images(splits, args, 0))
    model, ema, dtype = state.model, state.ema, DTYPES[identity["precision"]]
    likelihoods, optimiser = distributed.average_gradients(
        job, Likelihoods(model), state.optimiser, args.fp16_allreduce
    )
    state.optimiser = optimiser
    print(
        f"{settings.dataset}, nz={args.nz}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{count:,} training images, {steps_per_epoch:,} steps of {args.batch} an epoch, on {job.device} in "
        f"{identity['precision']}" + (f", resumed at step {state.step:,}" if state.step else "")
    )
    log = None
    if job.rank == 0:
        state.run = state.run or new_run(runs)
        log = Log(runs / str(state.run), curves, state.step, state.tested // steps_per_epoch)
        on_leaving.callback(log.close)
    saved_at = shown_at = time.monotonic()
    asked_to_stop = on_leaving.enter_context(stop_signals())
    stop, stopping = distributed.any_of(job, False), False
    while not stopping:
        between_epochs = state.step % (steps_per_epoch * args.test_every) == 0
        if state.step > state.tested and (state.step >= last_step or between_epochs):
            tested = test(ema, splits["test"], job)
            state.tested, epoch = state.step, math.ceil(state.step / steps_per_epoch)
            if tested["elbo"] < state.best:
                state.best = tested["elbo"]
                if job.rank == 0:
                    save(ema.state_dict(), files.best)
            if log:
                log.test(tested, state.best, epoch)
                log.images(ema, splits["test"], job.device, epoch)
                save_full(files.full, state, identity)
            elbo = tested["elbo"]
            print(f"epoch {epoch}, step {state.step:,}: test ELBO {elbo:.4f} bits/dim, best {state.best:.4f}")
        if state.step >= last_step:
            break
        epoch, done = divmod(state.step, steps_per_epoch)
        order = _order(args.seed, epoch, count)
        batches = np.split(order, range(args.batch, len(order), args.batch))[done:]
        shares = [batch[distributed.share(job, len(batch))] for batch in batches]
        bar = tqdm(
            desc=f"epoch {epoch + 1}", initial=min(done * args.batch, count), total=count, unit="image",
            dynamic_ncols=True, disable=job.rank > 0,
        )  # fmt: skip
        sums: Any = 0.0  # a tensor, after a step
        counted, began = 0, time.monotonic()
        loader = batch_loader(training_images(splits, args, epoch), shares, args.workers, job.device)
        with bar:
            for x, batch in zip(loader, batches, strict=True):
                lr = learning_rate(state.step, args, settings.decay_after, last_step)
                set_lr(optimiser, lr)
                sample = seed_step(args.seed, state.step, job, len(batch))
                x = x.to(job.device, non_blocking=True)
                weight = min(1, (state.step + 1) / max(1, args.kl_warmup))
                sums += train_step(model, optimiser, job, x, len(batch), sample, likelihoods, dtype, weight)
                state.step += 1
                counted += 1
                update_ema(ema, model, state.step)
                bar.update(len(batch))
                stopping = stop()  # the answer to the question of a step ago, which has come in meanwhile
                stop = distributed.any_of(job, asked_to_stop)
                stopping = stopping and state.step < last_step
                if log and time.monotonic() - shown_at > SHOW_SECONDS:
                    loss, _, *terms = (sums / counted).tolist()
                    elbo = by_tag(terms, args.nz)["elbo"]
                    bar.set_postfix_str(f"loss {loss:.4f}, ELBO {elbo:.4f} bits/dim, lr {lr:.1e}")
                    shown_at = time.monotonic()
                if stopping or state.step % args.interval == 0 or state.step == last_step:
                    loss, gnorm, *terms = (sums / counted).tolist()
                    check_finite(loss, gnorm, state.step, args.lr, files.full)
                    if log:
                        now = by_tag(terms, args.nz)
                        seconds = (time.monotonic() - began) / counted
                        log.train(loss, now, state.step, **{"lr": lr, "gnorm": gnorm, "step-sec": seconds})
                    sums, counted, began = 0.0, 0, time.monotonic()
                    if log and time.monotonic() - saved_at > SAVE_SECONDS:
                        save_full(files.full, state, identity)
                        saved_at = time.monotonic()
                if stopping or state.step >= last_step:
                    break
        if counted:
            loss, gnorm, *_ = (sums / counted).tolist()
            check_finite(loss, gnorm, state.step, args.lr, files.full)
        if log:
            save_full(files.full, state, identity)
        saved_at = time.monotonic()
    stop()
    if stopping:
        print(f"stopped by a signal at step {state.step:,}, saved in {files.full}; to go on, add --resume")
        if log and state.best == math.inf:  # it has not been tested, and any that is will replace it
            save(ema.state_dict(), files.best)
            print(f"{files.best} is the average so far, for the compression scripts; its ELBO is unknown: no test yet")


def training_images(splits: Mapping[str, Split], args: argparse.Namespace, epoch: int) -> Split:
    """The images of an epoch: the same in every one, but for photographs, which are cropped anew."""
    return datasets.recrop(splits["train"], (args.seed, epoch, 1), args.crops)


def begin(
    settings: Settings, args: argparse.Namespace, job: distributed.Job, files: Files, images: Split
) -> tuple[State, dict[str, Any]]:
    """The State that training starts from, new or as --resume finds it, and the identity of the run: {setting: value}.

    A resumed run sees the same batches, and computes the same, only if all of its identity is the same.
    """
    architecture: dict[str, Any] = {
        "xs": settings.xs, "nz": args.nz, "zchannels": args.zchannels, "nprocessing": args.nprocessing,
        "kernel_size": args.kernel, "resdepth": args.blocks, "reswidth": args.width, "dropout_p": args.dropout,
        "conditional_scale": settings.conditional_scale, "colour_transform": args.colour_transform,
    }  # fmt: skip
    if args.likelihood == "context":
        architecture |= {"conditional_scale": False, "likelihood": "context"}
    identity = architecture | {"seed": args.seed, "batch": args.batch, "images": len(images)}
    identity["kl_warmup"] = args.kl_warmup
    identity["precision"] = None if args.precision == "auto" else args.precision
    torch.manual_seed(args.seed)
    model = Model(**architecture).to(job.device)
    optimiser = adam(model, args.lr)
    if job.rank == 0:
        for path in (files.best, files.full):
            paths.remove_unfinished(path)
    distributed.barrier(job)
    saved = load_full(files.full, identity) if args.resume else None
    step = saved["step"] if saved else 0
    if distributed.broadcast_object(job, step) != step:
        raise UserError(f"rank {job.rank} and rank 0 find different checkpoints at {files.full}: they need one disk")
    if identity["precision"] is None:
        chosen = (saved or {}).get("identity", {}).get("precision") or precision(job.device)
        identity["precision"] = distributed.broadcast_object(job, chosen)
    if saved is None:
        if job.rank == 0:
            warm_up(model, images[_order(args.seed, 0, len(images))[: WARMUP_BATCHES * args.batch]])
        # Only now, with the data-dependent initialisation done, are the parameters what training starts from.
        distributed.broadcast(job, model.state_dict().values())
        state = State(model, copy.deepcopy(model), optimiser)
    else:
        model.load_state_dict(saved["model"])
        for group in saved["optimiser"]["param_groups"]:
            group["fused"] = True  # whichever form of Adam saved it
        optimiser.load_state_dict(saved["optimiser"])
        state = State(model, copy.deepcopy(model), optimiser)
        state.ema.load_state_dict(saved["ema"])
        # A run that was killed during a test has it still before it.
        state.step, state.tested = saved["step"], saved.get("tested", saved["step"])
        state.best, state.run = saved["best"], saved.get("run")
    model.train()
    return state, identity


def precision(device: torch.device) -> str:
    """What --precision=auto stands for: "bfloat16" where the processor computes in it, else "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    # Without the instructions bfloat16 is emulated, and no faster; a few milliseconds tell.
    x, weight = torch.randn(16, 64, 16, 16), torch.randn(64, 64, 3, 3)
    fastest: dict[torch.dtype, float] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16) * 6:
            a, b = (t.to(dtype, memory_format=torch.channels_last) for t in (x, weight))
            began = time.perf_counter()
            torch.conv2d(a, b, padding=1)
            fastest[dtype] = min(fastest.get(dtype, math.inf), time.perf_counter() - began)
    return "bfloat16" if fastest[torch.bfloat16] < 0.8 * fastest[torch.float32] else "float32"


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Inside this context Ctrl-C, SIGTERM and SIGUSR1 only put their numbers into the list that this yields.

    A second Ctrl-C is a KeyboardInterrupt. Clusters send SIGTERM before they take a node; SIGUSR1 is what mpiexec
    passes on to its processes.
    """
    asked: list[int] = []

    def ask(number, frame):
        if number == signal.SIGINT:
            if signal.SIGINT in asked:
                raise KeyboardInterrupt
            print("\nstopping after the present step; Ctrl-C once more ends at once", file=sys.stderr)
        asked.append(number)

    previous = {number: signal.signal(number, ask) for number in _STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def seed_step(seed: int, step: int, job: distributed.Job, count: int) -> Sampler:
    """Seed PyTorch for a step, and return a function that draws z from (mu, scale) for this process's images.

    count: images in the batch of all processes together. Everything random in a step follows from its number, so
    that a resumed run needs no other state. Dropout differs between processes; z is drawn for the whole batch, of
    which each process takes its part, so that it is the same over any number of them.
    """

    def number(stream):
        return int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0])

    torch.manual_seed(number(1 + job.rank))
    generator = torch.Generator(job.device).manual_seed(number(0))

    def sample(mu, scale):
        uniform = torch.rand(count, *mu.shape[1:], generator=generator, device=mu.device)
        return rand.sample(mu, scale, uniform[distributed.share(job, count)])

    return sample


class Likelihoods(torch.nn.Module):
    """log_likelihoods() of a model as a module, since DistributedDataParallel averages gradients of a forward()."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, sample: Sampler) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return log_likelihoods(self.model, x, sample)


def train_step(
    model: Model,
    optimiser: torch.optim.Optimizer,
    job: distributed.Job,
    x: torch.Tensor,
    count: int,
    sample: Sampler = rand.sample,
    likelihoods: torch.nn.Module | None = None,
    dtype: torch.dtype | None = None,
    kl_weight: float = 1,
) -> torch.Tensor:
    """One optimiser step on a batch of `count` images, of which x, uint8 [B, C, H, W], is this process's part.

    sample: draws z. likelihoods: Likelihoods(model), or what averages its gradients. dtype: for autocast, or None.
    kl_weight: of the KL in the objective, which the loss that is returned does not know.
    Returns a tensor: loss, gradient norm, and what by_tag() takes, all in bits/dim of the whole batch but the norm.
    """
    likelihoods = likelihoods or Likelihoods(model)
    objective, loss, terms = forward(likelihoods, model.xs, job, x, count, sample, dtype, kl_weight)
    distributed.backward(objective, optimiser)
    gnorm = clip(model)
    distributed.step(optimiser)
    return torch.cat((torch.stack((loss, gnorm)), terms))


def forward(
    likelihoods: torch.nn.Module,
    xs: Sequence[int],
    job: distributed.Job,
    x: torch.Tensor,
    count: int,
    sample: Sampler = rand.sample,
    dtype: torch.dtype | None = None,
    kl_weight: float = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What to call backward() of, the loss of the whole batch, and its terms as by_tag() takes them, in bits/dim.

    The loss gives every channel of every latent one free bit: sum over layers and channels of max(KL, 1), with the
    KL averaged over the batch (paper, appendix D), all processes together. x may be empty: the last batch of an
    epoch may have fewer images than there are processes.
    """
    dims, weight = math.prod(xs), 1 / count
    if not len(x):  # a blank image that weighs nothing, as averaging gradients takes a forward() of all processes
        x, sample, weight = x.new_zeros(1, *xs), rand.sample, 0
    with torch.autocast(job.device.type, dtype, enabled=dtype is not None):
        logrecon, logdec, logenc = likelihoods(x, sample)
    recon, dec, enc = logrecon.sum() * weight, logdec.sum(1) * weight, logenc.sum(1) * weight
    kl = enc - dec  # [nz, zchannels]
    all_terms = torch.cat((recon.detach()[None], dec.detach().flatten(), enc.detach().flatten()))
    all_terms = distributed.total(job, all_terms, "terms")
    all_recon, all_dec, all_enc = all_terms[0], *all_terms[1:].view(2, *kl.shape)
    all_kl = all_enc - all_dec
    # Times job.size, as the gradients of all processes will be averaged, and the loss is the sum of their parts.
    objective = (kl_weight * (kl * (all_kl >= 1)).sum() - recon) / dims * job.size
    loss = (all_kl.clamp(min=1).sum() - all_recon) / dims
    return objective, loss, torch.cat((all_recon[None], all_dec.sum(1), all_enc.sum(1))) / dims


def by_tag(terms: Sequence[float], nz: int) -> dict[str, float]:
    """Metrics {tag: bits/dim} from log p(x|z_1), then log p(z_i|...) and then log q(z_i|...) of the nz layers."""
    return metrics(terms[0], terms[1 : 1 + nz], terms[1 + nz :])


def clip(model: torch.nn.Module) -> torch.Tensor:
    """Scale the gradient down to norm 1 where it is longer; returns the norm it had."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@torch.no_grad()
def test(model: Model, images: Split, job: distributed.Job) -> dict[str, float]:
    """The test metrics {tag: bits/dim} over all images, uint8 [N, H, W, C], each with fixed samples of z.

    Each process takes some of the batches; all return the metrics of all.
    """
    model, device = fold_weight_norm(model), job.device
    cuda = [device] if device.type == "cuda" else []
    batches = np.array_split(np.arange(len(images)), math.ceil(len(images) / TEST_BATCH))
    mine = range(job.rank, len(batches), job.size)
    loader = batch_loader(images, [batches[i] for i in mine], 0, device)
    bar = tqdm(loader, desc="test", leave=False, dynamic_ncols=True, disable=job.rank > 0)
    # In float64: a sum over 10,000 images in float32 would lose the fifth digit.
    sums = torch.zeros(1 + 2 * model.nz, dtype=torch.float64, device=device)
    with torch.random.fork_rng(cuda):
        for i, x in zip(mine, bar, strict=True):
            torch.manual_seed(i)
            logrecon, logdec, logenc = log_likelihoods(model, x.to(device))
            sums += torch.cat([term.double().sum(1) for term in (logrecon[None], logdec.sum(-1), logenc.sum(-1))])
    sums = distributed.total(job, sums, "test") / (len(images) * math.prod(model.xs))
    return by_tag(sums.tolist(), model.nz)


def adam(model: torch.nn.Module, lr: float) -> torch.optim.Adam:
    """The optimiser of a model, in the form that goes over all parameters in one loop of compiled code."""
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


def warm_up(model: Model, images: np.ndarray) -> None:
    """Initialise the weight normalisation from images, uint8 [N, H, W, C], without dropout (paper, appendix D)."""
    device = next(model.parameters()).device
    layers = sum(isinstance(module, WnConv2d) for module in model.modules())
    bar = tqdm(desc="warm-up", total=layers * len(images), unit="image", unit_scale=True, dynamic_ncols=True)
    with bar, torch.no_grad(), init_mode(bar.update):
        log_likelihoods(model.eval(), torch.from_numpy(datasets.to_channels_first(images)).to(device))


def learning_rate(step: int, args: argparse.Namespace, decay_after: int, last_step: float) -> float:
    """The learning rate of a step, counted from 0."""
    if args.schedule == "cosine":
        return cosine(args.lr, step, last_step)
    if args.schedule == "1":
        return max(min(LEAST_LR, args.lr), args.lr * args.decay ** max(0, step - decay_after))
    return args.lr


def cosine(lr: float, done: float, total: float) -> float:
    """A learning rate that falls from lr to 0, once `done` of `total` is behind."""
    return lr * 0.5 * (1 + math.cos(math.pi * done / total))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def check_finite(loss: float, gnorm: float, step: int, lr: float, full_path: Path) -> None:
    """Stop, before anything is saved, where the loss or the gradient has become infinite or NaN."""
    if not (math.isfinite(loss) and math.isfinite(gnorm)):
        kept = f"{full_path} is from before; " if full_path.exists() else ""
        raise UserError(
            f"the loss is {loss} and the gradient norm {gnorm} at step {step} (--lr={lr:g}); "
            f"{kept}go on with --resume and a lower --lr"
        )


class _Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        return torch.from_numpy(datasets.to_channels_first(self.images[indices]))


def _identity(batch):
    return batch


def _ignore_stop_signals(worker):
    for number in _STOP_SIGNALS:  # a cluster sends them to every process
        signal.signal(number, signal.SIG_IGN)


def batch_loader(
    images: Split, batches: Iterable[Any], workers: int, device: torch.device
) -> torch.utils.data.DataLoader:
    """Iterate over uint8 tensors [B, C, 32, 32]; batches: a list of index arrays."""
    return torch.utils.data.DataLoader(
        _Images(images), batch_sampler=batches, collate_fn=_identity, num_workers=workers,
        pin_memory=device.type == "cuda", worker_init_fn=_ignore_stop_signals,
    )  # fmt: skip


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
