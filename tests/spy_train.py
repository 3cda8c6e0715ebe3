"""Train on MNIST as model/mnist_train.py does, and record what this process did: spy_train.py FOLDER [FLAG ...]

FOLDER/<rank>.pid appears at the first step. FOLDER/<rank>.pt, at the end, holds the parameters at the first step, the
images and (loss, ELBO, gradient norm) of every step, the random numbers of dropout, the metrics of every test, and
the files that were opened for writing, made, renamed or deleted anywhere but in FOLDER, and the learning rates.

If SPY_CLOCK is set, the clock advances by 60 seconds in each step on rank 0, and by SPY_CLOCK seconds on the others.
"""

import functools
import os
import sys
from pathlib import Path

import torch

from model import train_options, training
from utils import distributed
from utils.published import SETTINGS

folder, *flags = sys.argv[1:]
rank = distributed.launch().rank
record = {"images": [], "metrics": [], "noise": [], "tests": [], "written": [], "lr": []}
train, train_step, test = training.train, training.train_step, training.test
recording = True


def clock():
    return len(record["metrics"]) * (float(os.environ["SPY_CLOCK"]) if rank else 60.0)


def audit(event, args):
    if event == "open":
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.truncate")
    if recording and writes and isinstance(args[0], str | bytes | os.PathLike):
        path = os.fsdecode(args[0])
        if not path.startswith((folder, "/dev/", "/proc/")):
            record["written"].append(path)


def spied_step(objective, optimiser, x, *args):
    if not record["images"]:
        model = getattr(objective, "module", objective).model  # DistributedDataParallel has it in a module
        record["start"] = {name: value.clone() for name, value in model.state_dict().items()}
        Path(folder, f"{rank}.pid").write_text(str(os.getpid()))
    record["images"].append(x.clone())
    record["noise"].append(torch.rand(4))
    record["lr"].append(optimiser.param_groups[0]["lr"])
    metrics = train_step(objective, optimiser, x, *args)
    record["metrics"].append(metrics)
    return metrics


def spied_test(*args):
    record["tests"].append(test(*args))
    return record["tests"][-1]


training.train_step, training.test = spied_step, spied_test
if "SPY_CLOCK" in os.environ:
    training.train = functools.partial(train, clock=clock)
sys.addaudithook(audit)
train_options.main(SETTINGS["mnist"], flags)
recording = False
torch.save(record, Path(folder, f"{rank}.pt"))
