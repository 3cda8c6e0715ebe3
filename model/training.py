"""Training, shared by the datasets: the loop first, and below it everything that it calls."""

import argparse
import contextlib
import copy
import math
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model.checkpoints import save
from model.logs import Log, new_run
from model.optimiser import adam, check_finite, clip, learning_rate, set_lr, stop_signals
from model.train_state import State, claim, load_full
from model.vae import Model, log_likelihoods
from utils import datasets, distributed, paths, photographs, progress, results
from utils.cli import counted
from utils.errors import UserError
from utils.published import Settings
from utils.threads import ahead
from utils.torch import rand
from utils.torch.modules import WnConv2d, fold_weight_norm, init_mode, update_ema

WARMUP_BATCHES = 25
TEST_BATCH = 250
SAVE_SECONDS = 300  # between full checkpoints inside an epoch
SHOW_SECONDS = 2  # between updates of the loss on the progress bar, each of which waits for the GPU
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}, {rate_noinv_fmt}]"
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}  # of autocast, by --precision

Split = np.ndarray | photographs.Patches  # images, uint8 [N, H, W, C]
Sampler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # draws z from (mu, scale)


def train(settings: Settings, args: argparse.Namespace, clock: Callable[[], float] = time.monotonic) -> None:
    """Train until a limit of the flags is reached or a signal asks to stop; parse() says what is written.

    clock: returns seconds. Rank 0's decides when --minutes have passed.
    """
    best = paths.params(settings.dataset, args.output) / f"nz{args.nz}"  # with the best test ELBO so far
    full = best.with_name(f"{best.name}.resume")
    runs, curves = (folder(settings.dataset, args.nz, args.output) for folder in (paths.runs, paths.results))
    with distributed.joined("training", args.gpu, args.dist) as job, contextlib.ExitStack() as on_leaving:
        torch.backends.cudnn.deterministic = args.deterministic
        if job.rank == 0:
            paths.check_folder_writable(runs, curves)
            on_leaving.enter_context(claim(best, full, args.resume, args.force))
        state, images, test_images = begin(settings, args, job, best, full)
        alone = Objective(state.model, job, DTYPES[state.identity["precision"]])
        objective, optimiser = distributed.average_gradients(job, alone, state.optimiser, args.fp16_allreduce)
        state.optimiser = optimiser
        epoch_steps, last_step, last_second = limits(args, state.identity["images"])
        signals = on_leaving.enter_context(stop_signals())
        log = None
        if job.rank == 0:
            state.run = state.run or new_run(runs)
            log = Log(runs / str(state.run), curves, state.step)
            results.write_made(curves / "made.csv", results.describe_maker(job.device))
            on_leaving.callback(log.writer.close)
            if not state.step:
                log.writer.add_text("architecture", f"    {state.model}".replace("\n", "\n    "), 0)
                log.writer.add_text("hyperparams", flags(args), 0)
        batches = on_leaving.enter_context(contextlib.closing(endless_batches(images, args, job, state.step)))
        meter, saved_at, shown_at, began = None, clock(), clock(), clock() - state.seconds
        vote = start_vote(job, False, state.seconds)

        while True:
            # All processes get the same vote, so they decide alike. It is a step old, so that nobody waits.
            signalled, seconds = vote()
            vote = start_vote(job, bool(signals), state.seconds)
            ended = state.step >= last_step or seconds >= last_second
            closing = ended or signalled or state.step % epoch_steps == 0

            # Logging comes before saving, since it refuses a loss that is not finite.
            if meter and (closing or state.step % args.interval == 0):
                report(meter, clock(), state, full, log)
                meter = None
                if log and (closing or clock() - saved_at > SAVE_SECONDS):
                    state.save(full)
                    saved_at = clock()
            if ended or signalled:
                batches.close()  # and with it the progress bar
            if signalled:
                break

            # A run that was stopped or killed during a test repeats it.
            if state.step > state.tested and (ended or state.step % (epoch_steps * args.test_every) == 0):
                if log and state.best == math.inf:  # for the compression scripts, as a first test may last long
                    save(state.ema.state_dict(), best)
                epoch = math.ceil(state.step / epoch_steps)
                signalled = not evaluate(settings, state, test_images, job, best, log, epoch, signals)
                state.seconds = clock() - began
                if log:
                    state.save(full)
            if ended or signalled:
                break

            # One step. Everything random in it follows from its number.
            meter = meter or Meter(clock())
            x, count, bar = next(batches)
            done, total = max((state.step, last_step), (seconds, last_second), key=lambda pair: pair[0] / pair[1])
            set_lr(optimiser, learning_rate(state.step, args, settings.decay_after, done, total))
            sample = seed_step(args.seed, state.step, job, count)
            meter.add(train_step(objective, optimiser, x, count, sample))
            state.step += 1
            state.seconds = clock() - began
            update_ema(state.ema, state.model, state.step)

            bar.update(count)
            if log and clock() - shown_at > SHOW_SECONDS:
                _, _, metrics = meter.means()
                bar.set_postfix_str(f"ELBO {show(settings, metrics['elbo'])}" + time_left(state.seconds, done, total))
                shown_at = clock()
            if state.step % epoch_steps == 0:
                bar.close()

        vote()
        if signalled:
            print(f"stopped by a signal at step {state.step:,}, saved in {full}; to go on, add --resume")
            if log and state.best == math.inf:
                save(state.ema.state_dict(), best)
                print(f"{best} is the average so far, for the compression scripts; its ELBO is unknown")


def limits(args: argparse.Namespace, images: int) -> tuple[int, float, float]:
    """Steps of an epoch, the step that ends a run and the second that ends it, both infinite without a limit."""
    epoch_steps = math.ceil(images / args.batch)
    last_step = min((args.epochs or math.inf) * epoch_steps, args.max_steps or math.inf)
    return epoch_steps, last_step, 60 * (args.minutes or math.inf)


def begin(
    settings: Settings, args: argparse.Namespace, job: distributed.Job, best: Path, full: Path
) -> tuple[State, Split, Split]:
    """The state that training starts from, new or from --resume, and the images of training and test.

    A resumed run sees the same batches, and computes the same if its flags and its data are the same. Those flags that
    make up the identity have to be.
    """
    if args.batch % job.size:
        raise UserError(f"--batch={args.batch} cannot be split evenly over {job.size} processes; choose a multiple")
    images, test_images = distributed.in_turn(
        job, lambda: [datasets.load(settings.dataset, split, args.data) for split in ("train", "test")]
    )
    first = epoch_images(images, args, 0)
    architecture: dict[str, Any] = {
        "xs": settings.xs, "nz": args.nz, "zchannels": args.zchannels, "nprocessing": args.nprocessing,
        "kernel_size": args.kernel, "resdepth": args.blocks, "reswidth": args.width, "dropout_p": args.dropout,
        "conditional_scale": settings.conditional_scale, "colour_transform": args.colour_transform,
    }  # fmt: skip
    identity = architecture | {"seed": args.seed, "batch": args.batch, "images": len(first)}
    if args.precision != "auto":
        identity["precision"] = args.precision
    torch.manual_seed(args.seed)
    model = Model(**architecture).to(job.device)
    state = State(identity, model, copy.deepcopy(model), adam(model, args.lr))
    saved = load_full(full, identity) if args.resume else None
    if saved:
        state.load(saved)
        if not best.exists():
            if state.best < math.inf:
                print(f"{best} is absent; the next test writes it")
            state.best, state.tested = math.inf, 0
    found = state.step, best.exists()
    if distributed.broadcast_object(job, found) != found:
        raise UserError(f"rank {job.rank} and rank 0 find different files at {best}: they need one disk")
    if args.precision == "auto":
        chosen = saved["identity"]["precision"] if saved else precision(job.device)
        identity["precision"] = distributed.broadcast_object(job, chosen)
    announce(settings, args, state, len(test_images), job.device)
    if not saved:
        if job.rank == 0:
            warm_up(model, first[_order(args.seed, 0, len(first))[: WARMUP_BATCHES * args.batch]])
        # After the data-dependent initialisation, so that all processes start from its parameters.
        distributed.broadcast(job, model.state_dict().values())
        state.ema.load_state_dict(model.state_dict())
    model.train()
    return state, images, test_images


def announce(settings: Settings, args: argparse.Namespace, state: State, tests: int, device: torch.device) -> None:
    """Print what a run will do. tests: the number of test images."""
    images, parameters, step = state.identity["images"], sum(p.numel() for p in state.model.parameters()), state.step
    epoch_steps, last_step, _ = limits(args, images)
    ends = [f"step {last_step:,}"] if last_step < math.inf else []
    ends += [f"minute {args.minutes:g}"] if args.minutes else []
    print(
        f"{settings.dataset}, nz={args.nz}: {parameters:,} parameters, {counted(images, 'training image')}, "
        f"{counted(tests, 'test image')}, steps of {args.batch}: {epoch_steps:,} an epoch, "
        f"until {' or '.join(ends) or 'it is stopped'}, "
        f"on {device} in {state.identity['precision']}" + (f", resumed at step {step:,}" if step else "")
    )
    print(f"settings: {flags(args)}")
    if step >= last_step:
        print(f"{counted(step, 'step')} done already; to train on, raise --epochs or --max-steps")


def flags(args: argparse.Namespace) -> str:
    """Flags and their values in one line."""
    return " ".join(f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if value is not None)


def precision(device: torch.device) -> str:
    """The meaning of --precision=auto: "bfloat16" if the processor computes in it, else "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    # A CPU without the instructions emulates bfloat16, which is no faster. A trial of a few milliseconds shows it.
    x, weight = torch.ones(16, 64, 16, 16), torch.ones(64, 64, 3, 3)  # no random numbers: the seed's are for training
    fastest: dict[torch.dtype, float] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16) * 6:
            a, b = (t.to(dtype, memory_format=torch.channels_last) for t in (x, weight))
            began = time.perf_counter()
            torch.conv2d(a, b, padding=1)
            fastest[dtype] = min(fastest.get(dtype, math.inf), time.perf_counter() - began)
    return "bfloat16" if fastest[torch.bfloat16] < 0.8 * fastest[torch.float32] else "float32"


def warm_up(model: Model, images: np.ndarray) -> None:
    """Initialise the weight normalisation from images, uint8 [N, H, W, C], without dropout (paper, appendix D)."""
    device = next(model.parameters()).device
    layers = sum(isinstance(module, WnConv2d) for module in model.modules())
    bar = progress.bar(desc="warm-up", total=len(images), unit="image", unit_scale=True)
    with bar, torch.no_grad(), init_mode(lambda count: bar.update(min(count / layers, bar.total - bar.n))):
        log_likelihoods(model.eval(), torch.from_numpy(datasets.to_channels_first(images)).to(device))


def epoch_images(images: Split, args: argparse.Namespace, epoch: int) -> Split:
    """The training images of an epoch: always the same, but new crops of photographs."""
    return photographs.recrop(images, (args.seed, epoch, 1), args.crops)


def endless_batches(
    images: Split, args: argparse.Namespace, job: distributed.Job, step: int
) -> Generator[tuple[torch.Tensor, int, tqdm]]:
    """The batches of one epoch after the other, from a step on.

    Yields this process's part of a batch, uint8 [B, C, H, W], the images in all of it, and the bar of the epoch.
    """
    count = len(epoch_images(images, args, 0))
    epoch, done = divmod(step, math.ceil(count / args.batch))
    while True:
        batches = np.split(_order(args.seed, epoch, count), range(args.batch, count, args.batch))[done:]
        shares = [batch[distributed.share(job, len(batch))] for batch in batches]
        loader = batch_loader(epoch_images(images, args, epoch), shares, args.workers, job.device)
        with contextlib.closing(loader), progress.bar(
            desc=f"epoch {epoch + 1}", initial=done * args.batch, total=count, unit="", unit_scale=True,
            bar_format=BAR, disable=job.rank > 0,
        ) as bar:  # fmt: skip
            for x, batch in zip(loader, batches, strict=True):
                yield x, len(batch), bar
        epoch, done = epoch + 1, 0


def start_vote(
    job: distributed.Job, signalled: bool, seconds: float, name: str = "vote"
) -> Callable[[], tuple[bool, float]]:
    """Start to ask whether any process got a signal, and for rank 0's seconds; returns a function that waits for both.

    All processes get the same answer, so that they decide alike at the same step.
    """
    votes = torch.tensor([signalled, 0 if job.rank else seconds], dtype=torch.float64)
    finish = distributed.start_sum(job, votes, name)

    def answer():
        finish()
        return votes[0].item() > 0, votes[1].item()

    return answer


@dataclass
class Meter:
    """Means of what train_step() returns over some steps. began: the clock when the first of them began."""

    began: float
    sums: Any = 0.0  # a tensor, after the first
    steps: int = 0

    def add(self, values: torch.Tensor) -> None:
        self.sums = self.sums + values
        self.steps += 1

    def means(self) -> tuple[float, float, dict[str, float]]:
        """The mean loss, gradient norm and metrics of by_tag(). Waits for the GPU."""
        loss, gnorm, *terms = (self.sums / self.steps).tolist()
        return loss, gnorm, by_tag(terms)


def report(meter: Meter, now: float, state: State, full: Path, log: Log | None) -> None:
    """Log the means of a meter, and stop a run whose loss or gradient is infinite or NaN before anything is saved."""
    loss, gnorm, metrics = meter.means()
    check_finite(loss, gnorm, state.step, full)
    if log:
        lr, seconds = state.optimiser.param_groups[0]["lr"], (now - meter.began) / meter.steps
        others = {"lr": lr, "gnorm": gnorm, "step-sec": seconds, "minutes": state.seconds / 60}
        log.train(loss, metrics, state.step, **others)


def show(settings: Settings, elbo: float) -> str:
    """A negative ELBO as people read it, per dimension of the images, from one per dimension that the model sees."""
    return f"{elbo * datasets.padding(settings.dataset):.4f}"


def time_left(seconds: float, done: float, total: float) -> str:
    """The time until a run ends, for its bar, after `done` of `total`; empty if there is no limit."""
    return f", run {tqdm.format_interval(seconds / done * (total - done))}" if done and total < math.inf else ""


def evaluate(
    settings: Settings, state: State, images: Split, job: distributed.Job, best: Path, log: Log | None, epoch: int,
    signals: Collection[int],
) -> bool:  # fmt: skip
    """Test the average of the weights, log the metrics, and keep the average if it is the best so far.

    Returns False, with nothing changed, if a signal ended the test.
    """
    metrics = test(state.ema, images, job, signals)
    if metrics is None:
        return False
    elbo = metrics["elbo"]
    if not math.isfinite(elbo):
        raise UserError(f"the test ELBO is {elbo} after step {state.step}; start again with a lower --lr")
    state.tested = state.step
    if log and elbo < state.best:
        save(state.ema.state_dict(), best)
    state.best = min(elbo, state.best)
    if log:
        log.test(metrics, state.best, epoch)
        log.images(state.ema, images, job.device, epoch)
    print(f"epoch {epoch}, step {state.step:,}: test ELBO {show(settings, elbo)} bits/dim, "
          f"best {show(settings, state.best)}, after {state.seconds / 60:.1f} minutes")  # fmt: skip
    return True


@torch.no_grad()
def test(model: Model, images: Split, job: distributed.Job, signals: Collection[int] = ()) -> dict[str, float] | None:
    """The test metrics {tag: bits/dim} over all images, uint8 [N, H, W, C], each with fixed samples of z.

    Each process computes some of the batches; all return the metrics of all of them. signals: those that any process
    got; once there is one, the test ends after the current batch, and all return None.
    """
    model, device = fold_weight_norm(model), job.device
    batches = np.array_split(np.arange(len(images)), math.ceil(len(images) / TEST_BATCH))
    bar = progress.bar(total=len(images), desc="test", unit="image", leave=False, disable=job.rank > 0)
    # In float64, since a sum over 10,000 images in float32 would lose the fifth digit.
    sums = torch.zeros(1 + 2 * model.nz, dtype=torch.float64, device=device)
    with bar, torch.random.fork_rng([device] if device.type == "cuda" else []):
        for first in range(0, len(batches), job.size):
            if start_vote(job, bool(signals), 0, "vote in a test")()[0]:
                return None
            mine = first + job.rank
            if mine < len(batches):
                torch.manual_seed(mine)
                logrecon, logdec, logenc = log_likelihoods(model, load_batch(images, batches[mine]).to(device))
                sums += torch.cat([term.double().sum(1) for term in (logrecon[None], logdec.sum(-1), logenc.sum(-1))])
            bar.update(sum(map(len, batches[first : first + job.size])))
    sums = distributed.total(job, sums, "test") / (len(images) * math.prod(model.xs))
    return by_tag(sums.tolist())


def seed_step(seed: int, step: int, job: distributed.Job, count: int) -> Sampler:
    """Seed PyTorch for a step, and return a function that draws z from (mu, scale) for this process's images.

    count: images in the batch of all processes. Since everything random in a step follows from its number, a resumed
    run needs no other state. Dropout differs between processes. z is drawn for the whole batch, and each process uses
    its part, so that z does not depend on the number of processes.
    """

    def number(stream):
        return int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0])

    torch.manual_seed(number(1 + job.rank))
    generator = torch.Generator(job.device).manual_seed(number(0))

    def sample(mu, scale):
        uniform = torch.rand(count, *mu.shape[1:], generator=generator, device=mu.device)
        return rand.sample(mu, scale, uniform[distributed.share(job, count)])

    return sample


class Objective(torch.nn.Module):
    """What training minimises, as a module: DistributedDataParallel averages the gradients of a forward().

    job: the processes that share a batch. dtype: of the convolutions, for autocast, or None.
    """

    def __init__(self, model: Model, job: distributed.Job, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model, self.job, self.dtype = model, job, dtype

    def forward(self, x: torch.Tensor, count: int, sample: Sampler) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The objective to call backward() of, the loss of the whole batch, and its terms for by_tag(), in bits/dim.

        The loss gives every channel of every latent one free bit: sum over layers and channels of max(KL, 1), with the
        KL averaged over the batch (paper, appendix D) of all processes together.
        x: this process's part, uint8 [B, C, H, W], of a batch of `count` images. It may be empty: the last batch of an
        epoch may have fewer images than there are processes. sample: draws z.
        """
        dims, weight = math.prod(x.shape[1:]), 1 / count
        if not len(x):  # a blank image without weight, since all processes have to call forward() to average gradients
            x, sample, weight = x.new_zeros(1, *x.shape[1:]), rand.sample, 0
        with torch.autocast(self.job.device.type, self.dtype, enabled=self.dtype is not None):
            logrecon, logdec, logenc = log_likelihoods(self.model, x, sample)
        recon, dec, enc = logrecon.sum() * weight, logdec.sum(1) * weight, logenc.sum(1) * weight
        kl = enc - dec  # [nz, zchannels]
        all_terms = torch.cat((recon.detach()[None], dec.detach().flatten(), enc.detach().flatten()))
        all_terms = distributed.total(self.job, all_terms, "terms")
        all_recon, all_dec, all_enc = all_terms[0], *all_terms[1:].view(2, *kl.shape)
        all_kl = all_enc - all_dec
        # Times job.size: the gradients of all processes are averaged, and the loss is the sum of their parts.
        objective = ((kl * (all_kl >= 1)).sum() - recon) / dims * self.job.size
        loss = (all_kl.clamp(min=1).sum() - all_recon) / dims
        return objective, loss, torch.cat((all_recon[None], all_dec.sum(1), all_enc.sum(1))) / dims


def train_step(
    objective: torch.nn.Module, optimiser: torch.optim.Optimizer, x: torch.Tensor, count: int, sample: Sampler
) -> torch.Tensor:
    """One optimiser step. objective: an Objective, or what averages its gradients. The rest: see its forward().

    Returns a tensor: the loss, the gradient norm, and the terms for by_tag(), all but the norm in bits/dim of the whole
    batch.
    """
    value, loss, terms = objective(x, count, sample)
    distributed.backward(value, optimiser)
    gnorm = clip(objective)
    distributed.step(optimiser)
    return torch.cat((torch.stack((loss, gnorm)), terms))


def by_tag(terms: Sequence[float]) -> dict[str, float]:
    """The negative ELBO and its terms, {tag: bits/dim}.

    terms: log p(x|z_1), then log p(z_i|...) of all layers, then log q(z_i|...) of all layers.
    """
    nz = len(terms) // 2
    recon, dec, enc = terms[0], terms[1 : 1 + nz], terms[1 + nz :]
    tags = {"elbo": sum(enc) - sum(dec) - recon, "x/reconstruction": -recon}
    for i, (d, e) in enumerate(zip(dec, enc, strict=True), start=1):
        tags |= {f"z{i}/encoder": -e, f"z{i}/decoder": -d, f"z{i}/KL": e - d}
    return tags


def load_batch(images: Split, indices: np.ndarray) -> torch.Tensor:
    """The images of these indices, uint8 [B, C, 32, 32]."""
    return torch.from_numpy(datasets.to_channels_first(images[indices]))


def batch_loader(
    images: Split, batches: Iterable[np.ndarray], workers: int, device: torch.device
) -> Generator[torch.Tensor]:
    """Generate uint8 tensors [B, C, 32, 32] on a device. batches: index arrays. workers: threads that load ahead.

    Threads, since copying and decoding images leave the interpreter to others, and since they need no shared memory,
    and no signal or killed process can come between them and the training.
    """

    def load(indices):
        x = load_batch(images, indices)
        return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x

    return ahead(load, batches, max(workers, 1), 2 * workers)


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
