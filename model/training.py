"""Training, shared by the datasets: warm-up, train and test loops, weight averaging, checkpoints, logging."""

import argparse
import contextlib
import copy
import csv
import io
import math
import signal
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from tensorboardX import SummaryWriter
from tqdm import tqdm

from model.vae import Model, log_likelihoods
from utils import cli, datasets, distributed, paths
from utils.cli import UserError
from utils.torch import rand
from utils.torch.modules import fold_weight_norm, init_mode, update_ema

LEAST_LR = 5e-4  # what the published schedule decays to
WARMUP_BATCHES = 25
TEST_BATCH = 250
SAVE_SECONDS = 300  # between full checkpoints inside an epoch
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}  # None: no autocast


@dataclass(frozen=True)
class Settings:
    """What differs between the datasets; the defaults are what the paper shares between all of them."""

    dataset: str
    xs: tuple[int, int, int]  # C, H, W as the model sees it
    zchannels: int
    widths: dict[int, int] = field(hash=False)  # nz -> reswidth
    nz: int
    batch: int  # over all processes together
    dropout: float
    decay: float  # of the learning rate, per step
    decay_after: int  # steps
    test_every: int  # epochs
    conditional_scale: bool = False
    crops: int | None = None  # of each photograph in an epoch; None for images that are not cropped


def main(settings, argv=None):
    """Entry point of a training script."""
    cli.script(train)(settings, parse(settings, argv))


def parse(settings, argv):
    name = settings.dataset
    nzs = ", ".join(f"{nz}: {width}" for nz, width in sorted(settings.widths.items()))
    parser = cli.parser(
        f"Train a hierarchical ResNet VAE on {name}.\n\n"
        "Writes, under --output:\n"
        f"  model/params/{name}/nz<k>          the averaged weights with the best test ELBO so far\n"
        f"  model/params/{name}/nz<k>.resume   everything that --resume needs\n"
        f"  plots/{name}<k>/*.csv              test ELBO (bits/dim) of x and of every latent, for stackplot.py\n"
        f"  runs/{name}/nz<k>/                 TensorBoard logs\n\n"
        "SIGTERM, or SIGUSR1, ends a run after the present step, with everything saved that --resume needs.\n"
        "Several processes, one a GPU, train together when started by mpiexec, torchrun or srun."
    )
    whole = cli.whole_number
    parser.add_argument("--nz", type=whole(1), default=settings.nz, help="number of latent layers")
    parser.add_argument("--zchannels", type=whole(1), default=settings.zchannels, help="channels of each latent")
    parser.add_argument("--nprocessing", type=whole(0), default=4, help="5x5 residual layers next to x")
    parser.add_argument("--kernel", type=whole(1), default=3, help="kernel size of the other layers, odd")
    parser.add_argument("--blocks", type=whole(0), default=8, help="residual layers, dealt over the latent layers")
    parser.add_argument("--width", type=whole(1), help=f"channels of the residual layers (default by --nz: {nzs})")
    parser.add_argument("--dropout", type=float, default=settings.dropout, help="dropout rate")
    parser.add_argument("--colour-transform", action="store_true", help="model R-G, G, B-G; beyond the paper")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of everything random")
    parser.add_argument("--gpu", type=whole(-1), help="index of the GPU, -1 for the CPU (default: a GPU if any)")
    parser.add_argument(
        "--dist", type=int, choices=(0, 1),
        help="1: require, 0: refuse a launcher of several processes (default: train in as many as were launched)",
    )  # fmt: skip
    parser.add_argument(
        "--fp16-allreduce", action=argparse.BooleanOptionalAction, default=True,
        help="send gradients between processes as float16",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=tuple(PRECISIONS), default="float32",
        help="of the convolutions; parameters, densities and the optimiser stay in float32",
    )  # fmt: skip
    parser.add_argument("--epochs", type=whole(1), help="epochs to train (default: until interrupted)")
    parser.add_argument("--max-steps", type=whole(1), help="stop after this many optimiser steps")
    parser.add_argument("--batch", type=whole(1), default=settings.batch, help="images a step, all processes together")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate of Adam")
    parser.add_argument("--decay", type=float, default=settings.decay, help="factor on the learning rate each step")
    parser.add_argument(
        "--schedule", choices=("0", "1", "cosine"), default="1",
        help=f"0: constant; 1: --decay each step, down to {LEAST_LR:g}; cosine: to zero at the end of the run",
    )  # fmt: skip
    parser.add_argument("--interval", type=whole(1), default=100, help="steps between log entries")
    parser.add_argument("--test-every", type=whole(1), default=settings.test_every, help="epochs between tests")
    if settings.crops:
        parser.add_argument("--crops", type=whole(1), default=settings.crops, help="crops of a photograph an epoch")
    parser.add_argument("--resume", action="store_true", help="go on from the last full checkpoint, if there is one")
    parser.add_argument("--data", default=paths.DATA, help="folder of the datasets")
    parser.add_argument("--workers", type=whole(0), default=0, help="processes that load data beside this one")
    parser.add_argument("--output", default=paths.ROOT, help="folder under which everything is written")
    parser.set_defaults(crops=settings.crops)
    args = parser.parse_args(argv)
    if args.kernel % 2 == 0:
        parser.error(f"--kernel={args.kernel}: the kernel size is odd")
    if not 0 <= args.dropout < 1:
        parser.error(f"--dropout={args.dropout}: a rate is at least 0 and under 1")
    if args.width is None:
        if args.nz not in settings.widths:
            parser.error(f"--nz={args.nz} has no published width for {name} ({nzs}); give one with --width")
        args.width = settings.widths[args.nz]
    if args.colour_transform and settings.xs[0] != 3:
        parser.error(f"--colour-transform: {name} has no colours")
    if args.schedule == "cosine" and not (args.epochs or args.max_steps):
        parser.error("--schedule=cosine ends with the run: give --epochs or --max-steps")
    return args


def train(settings, args):
    """Train until --epochs or --max-steps is reached, or a signal asks to stop; see parse() for what is written."""
    job = distributed.start(args.dist, args.gpu)
    if args.batch % job.size:
        raise UserError(f"--batch={args.batch} cannot be split evenly over {job.size} processes; take a multiple")
    with contextlib.ExitStack() as on_leaving:
        on_leaving.enter_context(contextlib.redirect_stdout(sys.stdout if job.rank == 0 else io.StringIO()))
        _train(settings, args, job, on_leaving)
    distributed.stop(job)


def _train(settings, args, job, on_leaving):
    device = job.device
    splits = distributed.in_turn(
        job, lambda: {split: datasets.load(settings.dataset, split, args.data) for split in ("train", "test")}
    )

    def training_images(epoch):  # the same in every epoch, but for photographs, which are cropped anew
        return datasets.recrop(splits["train"], (args.seed, epoch, 1), args.crops)

    count = len(training_images(0))
    dims = math.prod(settings.xs)
    steps_per_epoch = math.ceil(count / args.batch)
    last_step = min((args.epochs or math.inf) * steps_per_epoch, args.max_steps or math.inf)
    architecture = {
        "xs": settings.xs, "nz": args.nz, "zchannels": args.zchannels, "nprocessing": args.nprocessing,
        "kernel_size": args.kernel, "resdepth": args.blocks, "reswidth": args.width, "dropout_p": args.dropout,
        "conditional_scale": settings.conditional_scale, "colour_transform": args.colour_transform,
    }  # fmt: skip
    # A resumed run sees the same batches only if all of these are the same.
    identity = architecture | {"seed": args.seed, "batch": args.batch, "images": count}

    torch.manual_seed(args.seed)
    model = Model(**architecture).to(device)
    optimiser = adam(model, args.lr)
    best_path = paths.params(settings.dataset, args.output) / f"nz{args.nz}"
    full_path = best_path.with_name(best_path.name + ".resume")
    state = None
    if job.rank == 0:
        for path in (best_path, full_path):
            paths.remove_unfinished(path)
        state = load_full(full_path, identity) if args.resume else None
        if state is None:
            warm_up(model, training_images(0)[_order(args.seed, 0, count)[: WARMUP_BATCHES * args.batch]])
        else:
            model.load_state_dict(state["model"])
            for group in state["optimiser"]["param_groups"]:
                group["fused"] = True  # whichever form of Adam saved it
            optimiser.load_state_dict(state["optimiser"])
    # Only now, with the data-dependent initialisation done, are the parameters what training starts from.
    distributed.broadcast(job, model.state_dict().values())
    distributed.broadcast_optimiser(job, optimiser)
    ema = copy.deepcopy(model)
    if state is not None:
        ema.load_state_dict(state["ema"])
    distributed.broadcast(job, ema.state_dict().values())
    # The step at which the last test was, too: a run that was killed during a test has it still before it.
    progress = (0, 0, math.inf) if state is None else (state["step"], state.get("tested", state["step"]), state["best"])
    step, tested, best = distributed.broadcast_object(job, progress)
    model.train()
    average_gradients = distributed.average_gradients(job, model.parameters(), args.fp16_allreduce)

    def save_full():
        if job.rank == 0:
            entries = {
                "model": model.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict(),
                "step": step, "tested": tested, "best": best, "identity": identity,
            }  # fmt: skip
            with paths.whole(full_path) as file:
                torch.save(entries, file)

    print(
        f"{settings.dataset}, nz={args.nz}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{count:,} training images, {steps_per_epoch:,} steps of {args.batch} an epoch, on {device}"
        + (f", resumed at step {step:,}" if step else "")
    )
    log = Log(settings.dataset, args.nz, args.output, step, tested // steps_per_epoch) if job.rank == 0 else None
    if log:
        on_leaving.callback(log.close)
    saved_at = time.monotonic()
    asked_to_stop = on_leaving.enter_context(stop_signals())
    stop = distributed.any_of(job, False)
    while True:
        between_epochs = step % (steps_per_epoch * args.test_every) == 0
        if step > tested and (step >= last_step or between_epochs):
            metrics = test(ema, splits["test"], job, device, dims)
            tested, epoch = step, math.ceil(step / steps_per_epoch)
            if metrics["elbo"] < best:
                best = metrics["elbo"]
                if job.rank == 0:
                    with paths.whole(best_path) as file:
                        torch.save(ema.state_dict(), file)
            if log:
                log.test(metrics, best, epoch)
                log.images(ema, splits["test"], device, epoch)
            print(f"epoch {epoch}, step {step:,}: test ELBO {metrics['elbo']:.4f} bits/dim, best {best:.4f}")
            save_full()
        if step >= last_step:
            break
        epoch, done = divmod(step, steps_per_epoch)
        order = _order(args.seed, epoch, count)
        batches = np.split(order, range(args.batch, len(order), args.batch))[done:]
        shares = [batch[distributed.share(job, len(batch))] for batch in batches]
        bar = tqdm(
            batch_loader(training_images(epoch), shares, args.workers, device), desc=f"epoch {epoch + 1}",
            initial=done, total=steps_per_epoch, unit="step", dynamic_ncols=True, disable=job.rank > 0,
        )  # fmt: skip
        sums, counted, began = torch.zeros(3, device=device), 0, time.monotonic()
        for x, batch in zip(bar, batches, strict=True):
            set_lr(optimiser, learning_rate(step, args, settings.decay_after, last_step))
            sample = seed_step(args.seed, step, job, len(batch))
            x = x.to(device, non_blocking=True)
            sums += train_step(
                model, optimiser, job, x, dims, len(batch), sample, average_gradients, PRECISIONS[args.precision]
            )
            step += 1
            counted += 1
            update_ema(ema, model, step)
            stopping = stop()  # what was asked a step ago: nobody waits for an answer
            stop = distributed.any_of(job, asked_to_stop)
            if stopping or step % args.interval == 0 or step == last_step:
                loss, elbo, gnorm = (sums / counted).tolist()
                check_finite(loss, gnorm, step, args.lr, full_path)
                seconds = (time.monotonic() - began) / counted
                if log:
                    lr = optimiser.param_groups[0]["lr"]
                    log.scalars({"elbo/train": elbo, "lr": lr, "gnorm": gnorm, "step-sec": seconds}, step)
                    bar.set_postfix_str(f"ELBO {elbo:.4f} bits/dim, lr {lr:.1e}, gnorm {gnorm:.2f}")
                sums, counted, began = sums.zero_(), 0, time.monotonic()
                if time.monotonic() - saved_at > SAVE_SECONDS:
                    save_full()
                    saved_at = time.monotonic()
            if stopping or step >= last_step:
                break
        bar.close()
        if counted:
            check_finite(*(sums / counted).tolist()[::2], step, args.lr, full_path)
        save_full()
        saved_at = time.monotonic()
        if stopping and step < last_step:
            print(f"stopped by a signal at step {step:,}, saved in {full_path}; to go on, add --resume")
            break
    stop()


@contextlib.contextmanager
def stop_signals():
    """Inside this context SIGTERM and SIGUSR1 only put their numbers into the list that this yields.

    Clusters send SIGTERM before they take a node; SIGUSR1 is what mpiexec passes on to its processes.
    """
    asked = []
    previous = {number: signal.signal(number, lambda *args: asked.append(args[0])) for number in _STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def seed_step(seed, step, job, count):
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


def train_step(
    model, optimiser, job, x, dims, count, sample=rand.sample, average_gradients=lambda: None, dtype=None
):  # fmt: skip
    """One optimiser step on a batch of `count` images, of which x, uint8 [B, C, H, W], is this process's part.

    sample: draws z. average_gradients: as distributed.average_gradients() returns it. dtype: for autocast, or None.
    Returns a tensor (loss, ELBO, gradient norm) of the whole batch, the first two in bits/dim.
    """
    objective, loss, elbo = forward(model, job, x, dims, count, sample, dtype)
    backward(optimiser, objective, average_gradients)
    gnorm = clip(model)
    optimiser.step()
    return torch.stack((loss, elbo, gnorm))


def forward(model, job, x, dims, count, sample=rand.sample, dtype=None):
    """What backward() takes, and the loss and the (negative) ELBO of the whole batch, in bits/dim.

    The loss gives every channel of every latent one free bit: sum over layers and channels of max(KL, 1), with the
    KL averaged over the batch (paper, appendix D), all processes together.
    """
    if len(x):
        with torch.autocast(job.device.type, dtype, enabled=dtype is not None):
            logrecon, logdec, logenc = log_likelihoods(model, x, sample)
        recon, kl = logrecon.sum() / count, (logenc - logdec).sum(1) / count  # kl: [nz, zchannels]
    else:  # the last batch of an epoch may have fewer images than there are processes
        recon, kl = torch.zeros((), device=job.device), torch.zeros(model.nz, model.zs[0], device=job.device)
    terms = distributed.total(job, torch.cat((recon.detach()[None], kl.detach().flatten())), "terms")
    all_recon, all_kl = terms[0], terms[1:].view_as(kl)
    # Times job.size, as the gradients of all processes will be averaged, and the loss is the sum of their parts.
    objective = ((kl * (all_kl >= 1)).sum() - recon) / dims * job.size
    return objective, (all_kl.clamp(min=1).sum() - all_recon) / dims, (all_kl.sum() - all_recon) / dims


def backward(optimiser, objective, average_gradients):
    """Leave in every parameter its gradient, averaged over the processes."""
    optimiser.zero_grad(set_to_none=True)
    if objective.requires_grad:
        objective.backward()
    average_gradients()


def clip(model):
    """Scale the gradient down to norm 1 where it is longer; returns the norm it had."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@torch.no_grad()
def test(model, images, job, device, dims):
    """The test metrics {tag: bits/dim} over all images, uint8 [N, H, W, C], each with fixed samples of z.

    Each process takes some of the batches; all return the metrics of all.
    """
    model = fold_weight_norm(model)
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
    sums = distributed.total(job, sums, "test") / (len(images) * dims)
    recon, dec, enc = -sums[0].item(), (-sums[1 : 1 + model.nz]).tolist(), (-sums[1 + model.nz :]).tolist()
    metrics = {"elbo": recon + sum(dec) - sum(enc), "x/reconstruction": recon}
    for i, (d, e) in enumerate(zip(dec, enc, strict=True), start=1):
        metrics |= {f"z{i}/encoder": e, f"z{i}/decoder": d, f"z{i}/KL": d - e}
    return metrics


def adam(model, lr):
    """The optimiser of a model, in the form that goes over all parameters in one loop of compiled code."""
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


def warm_up(model, images):
    """Initialise the weight normalisation from images, uint8 [N, H, W, C], without dropout (paper, appendix D)."""
    device = next(model.parameters()).device
    with torch.no_grad(), init_mode():
        log_likelihoods(model.eval(), torch.from_numpy(datasets.to_channels_first(images)).to(device))


def learning_rate(step, args, decay_after, last_step):
    """The learning rate of a step, counted from 0."""
    if args.schedule == "cosine":
        return args.lr * 0.5 * (1 + math.cos(math.pi * step / last_step))
    if args.schedule == "1":
        return max(min(LEAST_LR, args.lr), args.lr * args.decay ** max(0, step - decay_after))
    return args.lr


def set_lr(optimiser, lr):
    for group in optimiser.param_groups:
        group["lr"] = lr


def check_finite(loss, gnorm, step, lr, full_path):
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


def batch_loader(images, batches, workers, device):
    """Iterate over uint8 tensors [B, C, 32, 32]; batches: a list of index arrays."""
    return torch.utils.data.DataLoader(
        _Images(images), batch_sampler=batches, collate_fn=_identity, num_workers=workers,
        pin_memory=device.type == "cuda", worker_init_fn=_ignore_stop_signals,
    )  # fmt: skip


def _order(seed, epoch, count):
    return np.random.default_rng((seed, epoch)).permutation(count)


def load_full(path, identity):
    """Read the full checkpoint that --resume goes on from; None where there is none.

    Raises UserError where it cannot be read, or belongs to a run with other settings than `identity`.
    """
    if not path.exists():
        print(f"{path} does not exist: starting from the beginning")
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
    except Exception as error:  # torch.load raises whatever the corruption happens to provoke
        raise UserError(f"{path} is not a full checkpoint ({type(error).__name__}); start without --resume") from None
    differing = [f"{key} {saved.get(key)} is now {value}" for key, value in identity.items() if saved.get(key) != value]
    if differing:
        raise UserError(f"{path} is of another run ({', '.join(differing)}); use its settings or leave out --resume")
    return state


class Log:
    """TensorBoard scalars and images, and the test scalars once more as CSV for stackplot.py."""

    def __init__(self, dataset, nz, output, step, epoch):
        self.writer = SummaryWriter(str(paths.runs(dataset, nz, output)), purge_step=step if step else None)
        self.folder = paths.results(dataset, nz, output)
        self.epoch = epoch  # rows of later epochs, or of an earlier run, are dropped
        self.rows = {}

    def scalars(self, values, step):
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def test(self, metrics, best, epoch):
        """Log test metrics; in CSV x is its reconstruction term and z<i> its KL, which add up to the ELBO."""
        self.scalars({"elbo/test": metrics["elbo"], "elbo/besttest": best}, epoch)
        self.scalars({tag: value for tag, value in metrics.items() if tag != "elbo"}, epoch)
        curves = {"elbo": "elbo", "x/reconstruction": "x"}
        curves |= {tag: tag.split("/")[0] for tag in metrics if tag.endswith("/KL")}
        for tag, name in curves.items():
            self._append(self.folder / f"{name}.csv", (time.time(), epoch, metrics[tag]))

    def _append(self, path, row):
        if path not in self.rows:
            self.rows[path] = []
            if self.epoch and path.exists():
                with open(path, newline="") as file:
                    self.rows[path] = [old for old in list(csv.reader(file))[1:] if int(old[1]) <= self.epoch]
        self.rows[path].append(row)
        with paths.whole(path, "w") as file:
            csv.writer(file, lineterminator="\n").writerows([("Wall time", "Step", "Value"), *self.rows[path]])

    @torch.no_grad()
    def images(self, model, images, device, epoch, count=64):
        """Log samples from the model, and test images above their reconstructions."""
        model = fold_weight_norm(model)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            z = rand.sample(*(fill(count, *model.zs, device=device) for fill in (torch.zeros, torch.ones)))
            for i in reversed(range(1, model.nz)):
                z = rand.sample(*model.generate(i, z))
            x = torch.from_numpy(datasets.to_channels_first(images[:count])).to(device)
            reconstruction = model.generate(0, rand.sample(*model.infer(0, model.to_levels(x))))[0]
        self.writer.add_images("x_sample", to_pixels(model, model.generate(0, z)[0]), epoch)
        self.writer.add_images("x_reconstruct", torch.cat((x, to_pixels(model, reconstruction))), epoch)
        self.writer.flush()

    def close(self):
        self.writer.close()


def to_pixels(model, mu):
    """Pixels, uint8 [B, *xs], at the means mu of p(x|z_1)."""
    return model.to_pixels((mu * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8))
