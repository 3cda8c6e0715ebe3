"""Training as a user runs it: what it writes, and that a killed run goes on as if nothing had happened."""

import argparse
import contextlib
import csv
import fcntl
import functools
import math
import os
import pty
import re
import resource
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, run_main, run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.proto import event_pb2

from model import checkpoints, optimiser, train_options, training
from model.vae import Model
from utils import distributed, progress
from utils.cli import UserError
from utils.published import SETTINGS

SMALL = ("--nz=2", "--width=6", "--blocks=2", "--nprocessing=1", "--batch=25", "--interval=1", "--test-every=1")


def train(mnist, output, *flags, check=None):
    settings = SETTINGS["mnist"]
    done = run_main(
        lambda argv: train_options.main(settings, argv), *SMALL, "--data", mnist, "--output", output, *flags
    )
    assert check is None or done.returncode == check, done.stderr
    return done


def curve(output, name):
    with open(output / "plots" / "mnist2" / f"{name}.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Wall time", "Step", "Value"]
    return {int(step): float(value) for _, step, value in rows[1:]}


def parameters(output, name="nz2"):
    return torch.load(output / "model" / "params" / "mnist" / name, weights_only=True)


def events(output):
    """Every TensorBoard event of a run: {tag: [step, ...]}."""
    tags = {}
    for path in (output / "runs" / "mnist" / "nz2").glob("*/events*"):
        data, position = path.read_bytes(), 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            event = event_pb2.Event.FromString(data[position + 12 : position + 12 + length])
            position += length + 16  # a record is length, checksum, payload, checksum
            for value in event.summary.value:
                tags.setdefault(value.tag.removesuffix("/0"), []).append(event.step)
    return tags


@pytest.fixture(scope="module")
def unbroken(mnist, tmp_path_factory):
    """Two epochs of five steps, in one go."""
    output = tmp_path_factory.mktemp("unbroken")
    flags = (*SMALL, "--data", mnist, "--output", output, "--epochs=2")
    run_script("model/mnist_train.py", *flags, check=0)
    return output


def test_curves_add_up_to_the_elbo(unbroken):
    elbo, *terms = (curve(unbroken, name) for name in ("elbo", "x", "z1", "z2"))
    assert list(elbo) == [1, 2]
    for epoch in elbo:
        assert sum(term[epoch] for term in terms) == pytest.approx(elbo[epoch])
    assert elbo[2] < elbo[1]


def test_tensorboard_has_every_tag(unbroken):
    tags = events(unbroken)
    terms = {"x/reconstruction"} | {f"z{i}/{term}" for i in (1, 2) for term in ("encoder", "decoder", "KL")}
    per_step = {"elbo/train", "elbo/train_plain", "lr", "gnorm", "step-sec", "minutes"} | {
        f"{term}/train" for term in terms
    }
    per_test = {"elbo/test", "elbo/besttest", "x_sample", "x_reconstruct"} | {f"{term}/test" for term in terms}
    texts = {"architecture/text_summary", "hyperparams/text_summary"}
    assert set(tags) == per_step | per_test | texts and all(tags[tag] == [0] for tag in texts)
    assert all(tags[tag] == list(range(1, 11)) for tag in per_step)
    assert all(tags[tag] == [1, 2] for tag in per_test)


def test_best_checkpoint_is_the_average_and_loads(unbroken, mnist):
    best, full = parameters(unbroken), parameters(unbroken, "nz2.resume")
    model = Model.from_state_dict(best)
    assert all(torch.equal(value, full["ema"][name]) for name, value in best.items())
    assert any(not torch.equal(value, full["model"][name]) for name, value in best.items())
    images = np.load(mnist / "mnist" / "test.npy")
    metrics = training.test(model, images, distributed.Job())
    assert metrics["elbo"] == pytest.approx(curve(unbroken, "elbo")[2], rel=1e-6)


@pytest.mark.parametrize("steps", [3, 7], ids=["within an epoch", "within the second"])
def test_resumed_run_equals_the_unbroken_one(unbroken, mnist, tmp_path, steps):
    train(mnist, tmp_path, "--epochs=2", f"--max-steps={steps}", check=0)
    done = train(mnist, tmp_path, "--epochs=2", "--resume", check=0)
    assert f"resumed at step {steps}" in done.stdout
    resumed, whole = parameters(tmp_path, "nz2.resume"), parameters(unbroken, "nz2.resume")
    for part in ("model", "ema"):
        assert all(torch.equal(value, whole[part][name]) for name, value in resumed[part].items())
    assert resumed["step"] == whole["step"] == 10
    assert curve(tmp_path, "elbo")[2] == curve(unbroken, "elbo")[2]
    assert list(curve(tmp_path, "x")) == [1, 2]


def test_killed_run_resumes_from_a_whole_checkpoint(unbroken, mnist, tmp_path):
    flags = (*SMALL, "--data", mnist, "--output", tmp_path, "--epochs=2")
    command = [sys.executable, ROOT / "model" / "mnist_train.py", *flags]
    process = subprocess.Popen(
        list(map(str, command)), env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    full = tmp_path / "model" / "params" / "mnist" / "nz2.resume"
    deadline = time.monotonic() + 120
    while not full.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert parameters(tmp_path, "nz2.resume")["step"] in (5, 10)
    train(mnist, tmp_path, "--epochs=2", "--resume", check=0)
    whole = parameters(unbroken, "nz2.resume")["model"]
    assert all(torch.equal(value, whole[name]) for name, value in parameters(tmp_path, "nz2.resume")["model"].items())


def test_resume_without_a_checkpoint_starts_anew(mnist, tmp_path):
    done = train(mnist, tmp_path, "--max-steps=1", "--resume", check=0)
    assert "starting from the beginning" in done.stdout
    assert parameters(tmp_path, "nz2.resume")["step"] == 1


def test_resume_with_other_settings_is_refused(unbroken, mnist):
    assert_one_line_error(train(mnist, unbroken, "--resume", "--width=7"), "nz2.resume", "(--width 6 is now 7)")


def test_corrupt_full_checkpoint_is_refused(mnist, tmp_path):
    path = tmp_path / "model" / "params" / "mnist" / "nz2.resume"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")
    assert_one_line_error(train(mnist, tmp_path, "--resume"), path, "--resume", "--force")
    assert path.read_bytes() == b"not a checkpoint"


@pytest.mark.parametrize(
    "flags, mention",
    [
        (("--kernel=4",), "--kernel=4"),
        (("--dropout=1",), "--dropout"),
        (("--batch=0",), "--batch"),
        (("--decay=0",), "--decay"),
        (("--minutes=0",), "--minutes"),
        (("--schedule=cosine",), "--epochs, --max-steps or --minutes"),
        (("--gpu=99",), "--gpu=99"),
        (("--dist=1",), "--dist=1"),
        (("--colour-transform",), "--colour-transform"),
    ],
)
def test_bad_flags(mnist, tmp_path, flags, mention):
    assert_one_line_error(train(mnist, tmp_path, *flags), mention)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "dataset, nz, depths",
    [("mnist", 3, "1, 2, 4, 8"), ("imagenet", 8, "1, 2, 4"), ("imagenetcrop", 2, "4")],
)
def test_unpublished_nz_needs_a_width(dataset, nz, depths):
    settings = SETTINGS[dataset]
    done = run_main(lambda argv: train_options.main(settings, argv), f"--nz={nz}")
    assert_one_line_error(done, f"--nz={nz} ", f"the published depths are {depths};", "--width")
    assert train_options.parse(settings, [f"--nz={nz}", "--width=5"]).width == 5


def test_nan_stops_the_run_and_spares_the_checkpoints(unbroken, mnist, tmp_path):
    train(mnist, tmp_path, "--max-steps=2", check=0)
    folder = tmp_path / "model" / "params" / "mnist"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = train(mnist, tmp_path, "--epochs=50", "--lr=1e30", "--resume")
    assert_one_line_error(done, "step", "--resume and a lower --lr")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_learning_rate_schedules():
    def lr(step, **changes):
        args = SimpleNamespace(**({"schedule": "1", "lr": 2e-3, "decay": 0.9995} | changes))
        return optimiser.learning_rate(step, args, changes.get("after", 0), step, 1000)

    assert lr(0) == 2e-3
    assert lr(10) == pytest.approx(2e-3 * 0.9995**10)
    assert lr(10**6) == 5e-4
    assert lr(150, after=100) == pytest.approx(2e-3 * 0.9995**50)
    assert lr(10**6, lr=1e-4) == 1e-4
    assert lr(10**6, schedule="0") == 2e-3
    assert [lr(step, schedule="cosine") for step in (0, 500, 1000)] == pytest.approx([2e-3, 1e-3, 0])


def test_loss_gives_every_channel_a_free_bit(monkeypatch):
    """A channel with a KL of 0.25 bits costs 1 in the loss and 0.25 in the ELBO; one of 3 bits costs 3 in both."""
    model = torch.nn.Linear(1, 1)

    def terms(model, x, sample):
        logenc = torch.tensor([[[0.0, 2.0], [0.5, 4.0]]])  # [nz = 1, B = 2, zchannels = 2], means 0.25 and 3
        return model(torch.ones(1)) * 0 - torch.tensor([100.0, 300.0]), torch.zeros(1, 2, 2), logenc

    monkeypatch.setattr(training, "log_likelihoods", terms)
    adam = torch.optim.Adam(model.parameters())
    objective, x = training.Objective(model, distributed.Job()), torch.zeros(2, 1, 32, 32)
    loss, gnorm, *terms = training.train_step(objective, adam, x, 2, None).tolist()
    elbo = training.by_tag(terms)["elbo"]
    assert loss == pytest.approx((200 + 1 + 3) / 1024)
    assert elbo == pytest.approx((200 + 0.25 + 3) / 1024)
    assert gnorm == 0


@pytest.mark.parametrize("loss, gnorm", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_a_loss_or_a_gradient_that_is_not_finite_is_refused(tmp_path, loss, gnorm):
    meter = training.Meter(0.0)
    meter.add(torch.tensor([loss, gnorm, 1.0, 1.0, 1.0]))
    with pytest.raises(UserError, match="after step 7; continue with --resume and a lower --lr"):
        training.report(meter, 1.0, SimpleNamespace(step=7), tmp_path, None)


def test_a_test_elbo_that_is_not_finite_is_refused(tmp_path, monkeypatch):
    """So that the best model so far stays the best."""
    monkeypatch.setattr(training, "test", lambda *_: {"elbo": math.nan})
    state = SimpleNamespace(ema=None, step=7, tested=0, best=1.5)
    with pytest.raises(UserError, match="the test ELBO is nan after step 7"):
        training.evaluate(SETTINGS["mnist"], state, [], distributed.Job(), tmp_path / "nz1", None, 1, [])
    assert state.best == 1.5


def test_nan_before_anything_was_saved_does_not_advise_to_resume(mnist, tmp_path):
    done = train(mnist, tmp_path, "--lr=1e30", "--max-steps=20")
    assert_one_line_error(done, "start again with a lower --lr")
    assert "--resume" not in done.stderr


def test_a_trained_model_is_not_replaced(unbroken, mnist, tmp_path):
    folder = tmp_path / "model" / "params" / "mnist"
    train(mnist, tmp_path, "--max-steps=5", check=0)
    before, old = (folder / "nz2").read_bytes(), curve(tmp_path, "elbo")
    assert_one_line_error(train(mnist, tmp_path, "--max-steps=6"), folder / "nz2", "--resume", "--output", "--force")
    (folder / "nz2.resume").unlink()
    assert_one_line_error(train(mnist, tmp_path, "--resume"), folder / "nz2", "--output", "--force")
    assert (folder / "nz2").read_bytes() == before and curve(tmp_path, "elbo") == old
    assert [path.name for path in (tmp_path / "runs" / "mnist" / "nz2").iterdir()] == ["1"]
    train(mnist, tmp_path, "--max-steps=5", "--seed=1", "--force", check=0)
    assert (folder / "nz2").read_bytes() != before
    aside = tmp_path / "plots" / "mnist2" / "earlier-1"
    assert {path.name for path in aside.iterdir()} == {"elbo.csv", "made.csv", "x.csv", "z1.csv", "z2.csv"}
    assert float((aside / "elbo.csv").read_text().splitlines()[1].split(",")[2]) == old[1] != curve(tmp_path, "elbo")[1]
    assert sorted(path.name for path in (tmp_path / "runs" / "mnist" / "nz2").iterdir()) == ["1", "2"]


def test_resuming_logs_every_step_once_in_the_same_folder(mnist, tmp_path):
    train(mnist, tmp_path, "--max-steps=3", check=0)
    train(mnist, tmp_path, "--max-steps=7", "--resume", check=0)
    assert [path.name for path in (tmp_path / "runs" / "mnist" / "nz2").iterdir()] == ["1"]
    purged = EventAccumulator(str(tmp_path / "runs" / "mnist" / "nz2" / "1")).Reload()
    assert [event.step for event in purged.Scalars("lr")] == list(range(1, 8))


def test_ctrl_c_saves_and_an_untested_model_is_of_use(mnist, tmp_path, monkeypatch):
    step, steps = training.train_step, []

    def interrupted_step(*args):
        steps.append(len(steps))
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(training, "train_step", interrupted_step)
    done = train(mnist, tmp_path, "--epochs=2", check=0)
    assert "stopped by a signal at step 3" in done.stdout and "its ELBO is unknown" in done.stdout
    untested = parameters(tmp_path)
    assert all(torch.equal(v, parameters(tmp_path, "nz2.resume")["ema"][k]) for k, v in untested.items())
    assert Model.from_state_dict(untested).nz == 2
    train(mnist, tmp_path, "--epochs=1", "--resume", check=0)
    tested = parameters(tmp_path)
    assert any(not torch.equal(value, tested[name]) for name, value in untested.items())


def test_a_second_ctrl_c_ends_at_once():
    with optimiser.stop_signals() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_during_the_initialisation_ends_at_once(mnist, tmp_path):
    command = [sys.executable, ROOT / "model" / "mnist_train.py", "--width=160", "--data", mnist, "--output", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(list(map(str, command)), env=environment, stdout=-1, stderr=subprocess.STDOUT) as process:
        shown = b""
        while b"settings: " not in shown:  # what will be done is said first
            shown += os.read(process.stdout.fileno(), 1000)
            assert process.poll() is None, shown
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        shown += process.communicate(timeout=120)[0]
    assert process.returncode == 130 and b"interrupted" in shown and b"Traceback" not in shown
    assert b"ELBO" not in shown and time.monotonic() - began < 20
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


HOLD = """
import pathlib, sys, time
from utils.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("flags", [(), ("--resume",)])
def test_a_second_run_into_the_same_folder_is_refused_until_the_first_ends_or_dies(mnist, tmp_path, flags):
    full = tmp_path / "model" / "params" / "mnist" / "nz2.resume"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(full)], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        done = train(mnist, tmp_path, "--max-steps=1", *flags)
        assert_one_line_error(done, full, f"process {other.pid} on ", "--output")
        train(mnist, tmp_path / "elsewhere", "--max-steps=1", *flags, check=0)
        other.kill()
    assert not (tmp_path / "runs").exists()
    train(mnist, tmp_path, "--max-steps=1", *flags, check=0)
    assert sorted(os.listdir(full.parent)) == ["nz2", "nz2.resume"]


def test_a_signal_ends_a_test_after_its_batch_and_resuming_repeats_it(unbroken, mnist, tmp_path, monkeypatch):
    log_likelihoods, tested = training.log_likelihoods, []

    def interrupted(model, *args):
        if (tmp_path / "model" / "params" / "mnist" / "nz2.resume").exists() and not model.training:
            tested.append(parameters(tmp_path))  # a checkpoint for the compression scripts is there before the test
            os.kill(os.getpid(), signal.SIGTERM)
        return log_likelihoods(model, *args)

    monkeypatch.setattr(training, "TEST_BATCH", 10)
    with monkeypatch.context() as patch:
        patch.setattr(training, "log_likelihoods", interrupted)
        done = train(mnist, tmp_path, "--epochs=2", "--resume", check=0)
    assert len(tested) == 1 and "stopped by a signal at step 5, saved in" in done.stdout
    assert "test ELBO" not in done.stdout and "its ELBO is unknown" in done.stdout
    assert parameters(tmp_path, "nz2.resume")["tested"] == 0
    done = train(mnist, tmp_path, "--epochs=2", "--resume", check=0)
    assert list(curve(tmp_path, "elbo")) == [1, 2] and done.stdout.count("test ELBO") == 2
    assert all(torch.equal(v, parameters(unbroken, "nz2.resume")["ema"][k]) for k, v in parameters(tmp_path).items())


def test_a_limit_that_was_reached_is_said_and_a_deleted_model_is_written_again(mnist, tmp_path):
    train(mnist, tmp_path, "--max-steps=5", check=0)
    before = parameters(tmp_path)
    done = train(mnist, tmp_path, "--max-steps=3", "--resume", check=0)
    assert "5 steps done already" in done.stdout and "test ELBO" not in done.stdout
    (tmp_path / "model" / "params" / "mnist" / "nz2").unlink()
    done = train(mnist, tmp_path, "--max-steps=5", "--resume", check=0)
    assert "nz2 is absent" in done.stdout and "test ELBO" in done.stdout
    assert all(torch.equal(value, before[name]) for name, value in parameters(tmp_path).items())
    assert list(curve(tmp_path, "elbo")) == [1]


def test_what_is_printed_is_per_pixel_and_what_is_saved_per_padded_one(mnist, tmp_path):
    done = train(mnist, tmp_path, "--max-steps=5", check=0)
    elbo = curve(tmp_path, "elbo")[1] * 1024 / 784
    assert f"test ELBO {elbo:.4f} bits/dim, best {elbo:.4f}, after" in done.stdout


def test_what_will_be_done_is_said_and_logged(mnist, tmp_path):
    done = train(mnist, tmp_path, "--epochs=1", "--minutes=9", check=0)
    for words in ("120 training images, 40 test images", "5 an epoch, until step 5 or minute 9", "on c", "--width=6 "):
        assert words in done.stdout
    purged = EventAccumulator(str(tmp_path / "runs" / "mnist" / "nz2" / "1")).Reload()
    texts = {
        tag: purged.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0]
        for tag in ("architecture", "hyperparams")
    }
    assert b"WnConv2d" in texts["architecture"] and b"--batch=25" in texts["hyperparams"]


def test_cudnn_is_deterministic_unless_asked_otherwise(mnist, tmp_path):
    for flags, expected in (((), True), (("--no-deterministic",), False)):
        train(mnist, tmp_path, "--max-steps=1", "--force", *flags, check=0)
        assert torch.backends.cudnn.deterministic is expected


@pytest.fixture
def terminal():
    """A terminal of 80 columns in place of stderr; returns a function that reads the lines that it got so far."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(ours, False)

    def read():
        shown = b""
        with contextlib.suppress(OSError):  # there is no more
            while chunk := os.read(ours, 1 << 16):
                shown += chunk
        return re.split("[\r\n]+", shown.decode())

    with open(theirs, "w") as stream:
        yield stream, read
    os.close(ours)


def test_bars_keep_their_numbers_at_80_columns(mnist, tmp_path, terminal, monkeypatch):
    stream, read = terminal
    monkeypatch.setattr(training, "SHOW_SECONDS", -1)
    argv = [*SMALL, "--data", str(mnist), "--output", str(tmp_path), "--max-steps=9"]
    with contextlib.redirect_stderr(stream):
        train_options.main(SETTINGS["mnist"], argv)
    lines = read()
    assert max(map(len, lines)) < 80
    number = r"epoch [12]: +\d+%\|.+\| [\d.]+/120 \[\d\d:\d\d left, ELBO \d\.\d{4}, run \d\d:\d\d, .+/s\]"
    assert sum(bool(re.fullmatch(number, line.strip())) for line in lines) > 4
    warm_up = [line for line in lines if line.startswith("warm-up")]
    assert "/120 " in warm_up[-1] and " 120/120 " in warm_up[-1]


def test_without_a_terminal_bars_are_lines_half_a_minute_apart(mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", math.inf)
    assert train(mnist, tmp_path, "--max-steps=2", check=0).stderr == ""
    monkeypatch.setattr(progress, "SECONDS", 0)
    shown = train(mnist, tmp_path, "--max-steps=9", "--resume", check=0).stderr
    assert "\r" not in shown and "epoch 2: " in shown and all(map(str.strip, shown.splitlines()))


@pytest.mark.parametrize("limit", ["-n 24", "-v 1000000"], ids=["few files", "little memory"])
def test_limits_of_the_system(mnist, tmp_path, limit):
    flags = (*SMALL, "--workers=2", "--max-steps=6", "--data", mnist, "--output", tmp_path)
    command = shlex.join(map(str, (sys.executable, ROOT / "model" / "mnist_train.py", *flags)))
    done = subprocess.run(["bash", "-c", f"ulimit {limit}; exec {command}"], capture_output=True, text=True)
    if limit.startswith("-n"):
        assert done.returncode == 0, done.stderr
    else:
        assert_one_line_error(done, "out of memory; lower --batch or --width")


def test_out_of_memory_in_a_step_names_the_flags(mnist, tmp_path, monkeypatch):
    def full(*args):
        torch.empty(1 << 60)

    monkeypatch.setattr(training, "train_step", full)
    assert_one_line_error(train(mnist, tmp_path, "--max-steps=1"), "out of memory; lower --batch or --width")


@pytest.mark.parametrize("output", ["/proc/none", "a file", "x" * 300])
def test_an_output_where_nothing_can_be_written_is_refused_before_the_data_is_read(output, tmp_path):
    (tmp_path / "a file").write_text("")
    output = tmp_path / output
    done = run_main(lambda argv: train_options.main(SETTINGS["mnist"], argv), "--data", tmp_path, "--output", output)
    assert_one_line_error(done, f"cannot write {output}")


@pytest.mark.parametrize("dataset", SETTINGS)
def test_every_number_has_its_range(dataset, monkeypatch):
    parsers = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser, argv: parsers.append(parser))
    with pytest.raises(AttributeError):  # of None, which the patched function returns
        train_options.main(SETTINGS[dataset], [])
    numbers = [action for action in parsers[0]._actions if action.type and not action.choices]
    assert {"lr", "batch", "seed"} <= {action.dest for action in numbers}
    for action in numbers:
        assert action.type not in (int, float), action.dest
        for text in ("nan", "inf", "-2", str(2**64), "x", ""):
            if action.dest == "lr" and text == str(2**64):
                continue  # a number like others, if of no use
            with pytest.raises(argparse.ArgumentTypeError):
                print(action.dest, action.type(text))  # shown where it is taken


def test_bfloat16_resumes_as_bfloat16_and_equals_the_unbroken_run(mnist, tmp_path):
    flags = ("--precision=bfloat16", "--batch=24")
    train(mnist, tmp_path / "unbroken", "--max-steps=4", *flags, check=0)
    train(mnist, tmp_path / "broken", "--max-steps=2", *flags, check=0)
    refused = train(mnist, tmp_path / "broken", "--max-steps=4", "--batch=24", "--precision=float32", "--resume")
    assert_one_line_error(refused, "precision bfloat16 is now float32")
    done = train(mnist, tmp_path / "broken", "--max-steps=4", "--batch=24", "--resume", "--precision=auto", check=0)
    assert "in bfloat16" in done.stdout
    resumed, whole = (parameters(tmp_path / name, "nz2.resume") for name in ("broken", "unbroken"))
    for part in ("model", "ema"):
        assert all(torch.equal(value, whole[part][name]) for name, value in resumed[part].items())


def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path):
    path = tmp_path / "nz2"
    checkpoints.save({"a": torch.zeros(3)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"{path}.*File too large"):
            checkpoints.save({"a": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["nz2"]


class Clock:
    """A clock for training: it advances by some seconds in every step and in every test, and at no other time."""

    def __init__(self, monkeypatch, step, test=0.0):
        self.now = 1000.0
        for name, seconds in (("train_step", step), ("test", test)):
            monkeypatch.setattr(training, name, functools.partial(self.advance, getattr(training, name), seconds))

    def advance(self, function, seconds, *args):
        self.now += seconds
        return function(*args)

    def __call__(self):
        return self.now


def train_by_clock(clock, mnist, output, *flags):
    """Train in this process; returns (what it printed, the entries of the full checkpoint)."""
    argv = [*SMALL, "--data", str(mnist), "--output", str(output), *flags]
    args = train_options.parse(SETTINGS["mnist"], argv)
    done = run_main(lambda _: training.train(SETTINGS["mnist"], args, clock))
    return done.stdout, parameters(output, "nz2.resume")


def learning_rates(output):
    events = EventAccumulator(str(output / "runs" / "mnist" / "nz2" / "1")).Reload()
    return [event.value for event in events.Scalars("lr")]


def test_minutes_end_a_run_with_a_test_and_everything_saved(mnist, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, step=60.0)
    stdout, full = train_by_clock(clock, mnist, tmp_path, "--minutes=7", "--schedule=cosine")
    # Time is voted on while the next step is computed, so that a run ends one step late.
    assert full["step"] == full["tested"] == 8 and full["seconds"] == 480
    assert "epoch 2, step 8: test ELBO" in stdout and "after 8.0 minutes" in stdout
    assert all(torch.equal(value, full["ema"][name]) for name, value in parameters(tmp_path).items())
    expected = [optimiser.cosine(2e-3, done, 7) for done in (0, 0, 1, 2, 3, 4, 5, 6)]
    assert learning_rates(tmp_path) == pytest.approx(expected)
    events = EventAccumulator(str(tmp_path / "runs" / "mnist" / "nz2" / "1")).Reload()
    assert [event.value for event in events.Scalars("minutes")] == list(range(1, 9))


def test_minutes_count_tests(mnist, tmp_path, monkeypatch):
    clock = Clock(monkeypatch, step=60.0, test=300.0)
    _, full = train_by_clock(clock, mnist, tmp_path, "--minutes=7")
    assert full["step"] == 7  # five steps and a test are ten minutes; one step, and the one that is under way
    assert full["seconds"] == 7 * 60 + 2 * 300


def test_minutes_go_on_where_a_run_was_stopped_and_may_be_changed(mnist, tmp_path, monkeypatch):
    clock, flags = Clock(monkeypatch, step=60.0), ("--schedule=cosine",)
    _, full = train_by_clock(clock, mnist, tmp_path, "--minutes=20", "--max-steps=4", *flags)
    assert full["step"] == 4 and full["seconds"] == 240
    clock.now += 10**6  # between two runs no time is counted
    _, full = train_by_clock(clock, mnist, tmp_path, "--minutes=8", "--resume", *flags)
    assert full["step"] == 9
    assert learning_rates(tmp_path)[4] == pytest.approx(optimiser.cosine(2e-3, 4, 8))
    before = parameters(tmp_path, "nz2.resume")
    stdout, full = train_by_clock(clock, mnist, tmp_path, "--minutes=3", "--resume", *flags)
    assert full["step"] == 9 and "resumed at step 9" in stdout
    assert all(torch.equal(value, before["model"][name]) for name, value in full["model"].items())
    _, full = train_by_clock(clock, mnist, tmp_path, "--minutes=12", "--resume", *flags)
    assert full["step"] == 13


@pytest.mark.parametrize(
    "limits, steps",
    [(["--minutes=3", "--epochs=2"], 4), (["--minutes=30", "--max-steps=6"], 6), (["--minutes=30", "--epochs=1"], 5)],
)
def test_the_first_limit_ends_a_run_and_its_cosine(mnist, tmp_path, monkeypatch, limits, steps):
    _, full = train_by_clock(Clock(monkeypatch, step=60.0), mnist, tmp_path, "--schedule=cosine", *limits)
    assert full["step"] == full["tested"] == steps
    if steps > 4:
        expected = [optimiser.cosine(2e-3, step, steps) for step in range(steps)]
        assert learning_rates(tmp_path) == pytest.approx(expected)
