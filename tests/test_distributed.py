"""Training in two processes is training in one, whatever launched them; and no process lives on when another dies."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, digits, run_main

from model import train_options, training
from model.vae import Model
from utils import distributed
from utils.cli import UserError
from utils.published import SETTINGS

SPY = str(ROOT / "tests" / "spy_train.py")
SMALL = ("--nz=2", "--width=6", "--blocks=2", "--nprocessing=1", "--interval=1", "--gpu=-1")
FLAGS = (
    *SMALL, "--batch=24", "--dropout=0", "--no-fp16-allreduce", "--test-every=2", "--precision=float32"
)  # fmt: skip
STEPS, COUNT = 20, 121  # 121 images in batches of 24: the last batch is a single one, which only one rank can have
STARTUP = 180  # seconds; generous, for busy machines

try:
    import horovod.torch as hvd

    HOROVOD = hvd.mpi_built()
except (ImportError, AttributeError):
    HOROVOD = False
MPIEXEC = shutil.which("mpiexec")
HOW = ("torchrun", "mpiexec without Horovod", "Horovod")
FORKED = "two_processes.py"  # starts sooner than torchrun
MOST = (FORKED, *(pytest.param(how, marks=pytest.mark.slow) for how in HOW[:2]), "Horovod")


def launcher(how, folder):
    """(command, environment) that start two processes; how: as the fixture `two` is parametrised."""
    hidden = []
    if how == "mpiexec without Horovod":
        hidden = [str(folder / "hidden")]
        (folder / "hidden" / "horovod").mkdir(parents=True)
        (folder / "hidden" / "horovod" / "__init__.py").write_text('raise ImportError("hidden from this test")')
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([*hidden, str(ROOT)]),
    }
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    if how == FORKED:
        return [sys.executable, str(ROOT / "tests" / FORKED)], environment
    if how == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"], environment
    return ["mpiexec", "-np", "2", sys.executable], environment


def needs(how):
    if how in HOW[1:] and not MPIEXEC:
        pytest.skip("NOT TESTED: there is no mpiexec; apt-get install openmpi-bin libopenmpi-dev")
    if how == "Horovod" and not HOROVOD:
        pytest.skip("NOT TESTED: Horovod is not installed; make horovod")


def start(how, folder, *flags):
    """Start two spied processes; a Popen with a session of its own, so that nothing can be left over."""
    needs(how)
    folder.mkdir(exist_ok=True)
    command, environment = launcher(how, folder)
    return subprocess.Popen(
        [*command, SPY, str(folder), *map(str, flags)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process, timeout=STARTUP):
    """Wait for a process; (stdout, stderr). Fails, and ends its session, where it has not ended in time."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not ended after {timeout} s")
    finally:
        for pid in processes(process.pid):
            os.kill(pid, signal.SIGKILL)


def processes(session):
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its_session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:  # ended meanwhile
                continue
            if int(its_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def pids(folder, process):
    """The process ids of rank 0 and 1, once both are at their first step."""
    paths = [Path(folder) / f"{rank}.pid" for rank in (0, 1)]
    deadline = time.monotonic() + STARTUP
    while not all(path.exists() and path.read_text() for path in paths):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail("\n".join(finish(process, 1)))
        time.sleep(0.05)
    return [int(path.read_text()) for path in paths]


def wait_for(path, process):
    deadline = time.monotonic() + STARTUP
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, finish(process, 1)
        time.sleep(0.05)


def train(data, output, *flags, check=0):
    """Train in this process, from the same data."""
    done = run_main(
        lambda argv: train_options.main(SETTINGS["mnist"], argv), *FLAGS, "--data", data, "--output", output, *flags
    )
    assert done.returncode == check, done.stderr
    return done


def full(output):
    return torch.load(full_path(output), weights_only=True)


def full_path(output):
    return Path(output) / "model" / "params" / "mnist" / "nz2.resume"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    np.save(folder / "mnist" / "train.npy", digits(COUNT, seed=1))
    np.save(folder / "mnist" / "test.npy", digits(300, seed=2))  # two batches
    return folder


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """One process: what it started from, the (loss, ELBO, gradient norm) of its steps, and its output."""
    output = tmp_path_factory.mktemp("one")
    metrics, first, step = [], {}, training.train_step

    def spied_step(objective, *args):
        if not first:
            first.update({name: value.clone() for name, value in objective.model.state_dict().items()})
        metrics.append(step(objective, *args))
        return metrics[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_step", spied_step)
        train(data, output, f"--max-steps={STEPS}")
    return SimpleNamespace(output=output, start=first, metrics=torch.stack(metrics))


@pytest.fixture(scope="module", params=HOW)
def two(request, data, tmp_path_factory):
    """Two processes with the same settings: their records, their output and what they printed."""
    needs(request.param)
    folder, output = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("output")
    flags = (*FLAGS, "--data", data, "--output", output, f"--max-steps={STEPS}")
    process = start(request.param, folder, *flags)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stdout + stderr
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    return SimpleNamespace(how=request.param, ranks=ranks, output=output, stdout=stdout, stderr=stderr)


def test_rank_0_says_once_how_the_processes_talk(two):
    expected = {
        "torchrun": "launched by torchrun: torch.distributed over Gloo",
        "mpiexec without Horovod": "launched by mpiexec: torch.distributed over Gloo (Horovod cannot be imported",
        "Horovod": "launched by mpiexec: Horovod 0.28.1 over MPI",
    }[two.how]
    assert two.stdout.count(f"training in 2 processes, {expected}") == 1
    assert two.stdout.count("training images") == two.stdout.count("epoch 4, step 20: test ELBO") == 1


def test_ranks_start_from_the_same_initialised_parameters(two, one):
    first, second = (rank["start"] for rank in two.ranks)
    assert list(first) == list(second) == list(one.start)
    for name, value in one.start.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)
    # It is the data that initialised them, not their constructor.
    assert (first["infer_in.1.gain"] != 0).all()


def test_losses_are_those_of_one_process(two, one):
    first, second = (torch.stack(rank["metrics"]) for rank in two.ranks)
    assert len(first) == STEPS and one.metrics[-1, 0] < one.metrics[0, 0] - 0.1
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one.metrics, rtol=1e-3, atol=1e-4)
    # The first few before rounding has been amplified, so that no small systematic difference passes.
    torch.testing.assert_close(first[:6], one.metrics[:6], rtol=1e-5, atol=1e-5)


def test_every_image_is_seen_once_in_an_epoch(two, data):
    shares = [[len(x) for x in rank["images"]] for rank in two.ranks]
    assert [a + b for a, b in zip(*shares, strict=True)] == ([24] * 5 + [1]) * 3 + [24] * 2
    assert all(a == b for a, b in zip(*shares, strict=True) if a + b == 24)
    images = np.load(data / "mnist" / "train.npy")
    for epoch in range(3):
        seen = torch.cat([x for rank in two.ranks for x in rank["images"][6 * epoch : 6 * epoch + 6]])
        seen = seen[:, 0, 2:30, 2:30].numpy()
        assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in images)


def test_epochs_are_in_different_orders(two):
    first, second = (torch.cat(two.ranks[0]["images"][6 * epoch : 6 * epoch + 5]) for epoch in (0, 1))
    assert first.shape == second.shape and not torch.equal(first, second)


def test_ranks_draw_different_random_numbers(two):
    first, second = (torch.stack(rank["noise"]) for rank in two.ranks)
    assert (first != second).all()
    assert len(first.unique(dim=0)) == STEPS


def test_test_metrics_are_of_the_whole_test_set(two, one, data):
    first, second = (rank["tests"] for rank in two.ranks)
    assert first == second and len(first) == 2
    model = Model.from_state_dict(full(two.output)["ema"])
    images = np.load(data / "mnist" / "test.npy")
    alone = training.test(model, images, distributed.Job())
    assert first[-1] == pytest.approx(alone, rel=1e-6)


def test_only_rank_0_writes(two, data):
    places = tuple(map(str, (two.output, data, ROOT)))  # libraries have folders of their own
    first, second = ([path for path in rank["written"] if path.startswith(places)] for rank in two.ranks)
    assert any(path.startswith(str(two.output)) for path in first) and second == []


def test_rank_1_prints_nothing(two):
    assert two.stderr.count("epoch 1: 100%") <= 2 and "Traceback" not in two.stderr


def test_one_process_goes_on_from_two(two, one, data, tmp_path):
    target = full_path(tmp_path)
    target.parent.mkdir(parents=True)
    shutil.copy(full_path(two.output), target)
    done = train(data, tmp_path, f"--max-steps={STEPS + 2}", "--resume")
    assert f"resumed at step {STEPS}" in done.stdout
    shutil.copytree(one.output, tmp_path / "one")
    train(data, tmp_path / "one", f"--max-steps={STEPS + 2}", "--resume")
    assert_same_parameters(tmp_path, tmp_path / "one")


def assert_same_parameters(output, other):
    one, two = full(output), full(other)
    assert one["step"] == two["step"] and one["identity"] == two["identity"]
    for part in ("model", "ema"):
        for name, value in one[part].items():
            torch.testing.assert_close(value, two[part][name], rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("how", MOST)
def test_two_processes_go_on_from_one_and_from_a_signal(how, data, one, tmp_path):
    """One process, then two that rank 1 is asked to stop, then one: the same training as without a break."""
    output = tmp_path / "output"
    train(data, output, "--max-steps=3")
    flags = (*FLAGS, "--data", data, "--output", output, "--max-steps=100000", "--resume")
    process = start(how, tmp_path / "spy", *flags)
    os.kill(pids(tmp_path / "spy", process)[1], signal.SIGTERM)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stdout + stderr
    step = full(output)["step"]
    assert "resumed at step 3" in stdout and stdout.count(f"stopped by a signal at step {step}, ") == 1
    assert f"{full_path(output)}; to go on, add --resume" in stdout
    assert 3 < step < 100000
    train(data, output, f"--max-steps={step + 2}", "--resume")
    train(data, tmp_path / "unbroken", f"--max-steps={step + 2}")
    if step <= STEPS:  # over more, rounding errors grow
        assert_same_parameters(output, tmp_path / "unbroken")


@pytest.mark.parametrize("how", MOST)
def test_the_clock_of_rank_0_ends_all_processes_at_the_same_step(how, data, tmp_path, monkeypatch):
    monkeypatch.setenv("SPY_CLOCK", "1000")
    flags = (*FLAGS, "--data", data, "--output", tmp_path / "output", "--minutes=7", "--schedule=cosine")
    process = start(how, tmp_path / "spy", *flags)
    stdout, stderr = finish(process)
    assert process.returncode == 0, stdout + stderr
    first, second = (torch.load(tmp_path / "spy" / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert len(first["lr"]) == 8 and first["lr"] == second["lr"]
    assert first["tests"] == second["tests"] and len(first["tests"]) == 1
    assert full(tmp_path / "output")["seconds"] == 480 and "step 8: test ELBO" in stdout


MORE_KILLS = [("torchrun", 0), ("Horovod", 1), ("mpiexec without Horovod", 0), ("mpiexec without Horovod", 1)]
KILLS = [("torchrun", 1), ("Horovod", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_KILLS)]


@pytest.mark.parametrize("how, victim", KILLS)
def test_a_killed_rank_ends_the_job(how, victim, data, tmp_path):
    output = tmp_path / "output"
    process = start(how, tmp_path / "spy", *FLAGS, "--data", data, "--output", output)
    ranks = pids(tmp_path / "spy", process)
    wait_for(full_path(output), process)
    os.kill(ranks[victim], signal.SIGKILL)
    began = time.monotonic()
    stdout, stderr = finish(process, timeout=90)
    assert process.returncode not in (0, None)
    assert time.monotonic() - began < 60
    assert "lost contact with the other processes" in stderr or "exited on signal 9" in stdout + stderr
    assert "[rank" not in stderr  # what PyTorch puts before the lines of a process's traceback
    assert how == "torchrun" or "Traceback" not in stderr  # torchrun's own
    deadline = time.monotonic() + 30
    while processes(process.pid):  # a process that was told to end may take a moment
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert full(output)["step"] > 0


@pytest.mark.parametrize("how", MOST)
def test_nan_ends_the_job_and_spares_the_checkpoints(how, data, one, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(one.output / "model", output / "model")
    before = {path.name: path.read_bytes() for path in full_path(output).parent.iterdir()}
    flags = (*FLAGS, "--data", data, "--output", output, "--lr=1e30", "--schedule=0", "--resume")
    process = start(how, tmp_path / "spy", *flags)
    stdout, stderr = finish(process)
    assert process.returncode not in (0, None)
    line = next(line for line in (stdout + stderr).splitlines() if "error: the loss is" in line)
    assert "after step 2" in line and "continue with --resume and a lower --lr" in line
    assert before == {path.name: path.read_bytes() for path in full_path(output).parent.iterdir()}


def test_a_signal_stops_one_process_with_a_checkpoint(data, one, tmp_path, monkeypatch):
    step, steps = training.train_step, []

    def signalled_step(*args):
        steps.append(len(steps))
        if len(steps) in (4, 13):
            os.kill(os.getpid(), signal.SIGTERM if len(steps) == 4 else signal.SIGUSR1)
        return step(*args)

    monkeypatch.setattr(training, "train_step", signalled_step)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    for expected in (5, 14):
        done = train(data, tmp_path, f"--max-steps={STEPS}", "--resume")
        assert f"stopped by a signal at step {expected}, saved in {full_path(tmp_path)}" in done.stdout
        assert full(tmp_path)["step"] == expected
    train(data, tmp_path, f"--max-steps={STEPS}", "--resume")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    for name, value in full(one.output)["model"].items():
        assert torch.equal(value, full(tmp_path)["model"][name])


@pytest.mark.slow
def test_killed_at_20_random_moments(data, tmp_path, monkeypatch):
    """Every time it goes on from a whole checkpoint; the end is that of an unbroken run."""
    rng = random.Random(0)
    for name, value in (("PYTHONPATH", str(ROOT)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    context = multiprocessing.get_context("forkserver")  # imports PyTorch once for all processes
    context.set_forkserver_preload(["model.mnist_train"])

    def run(name, steps):
        flags = (*FLAGS, "--data", data, "--output", tmp_path / name, f"--max-steps={steps}", "--resume")
        process = context.Process(target=train_options.main, args=(SETTINGS["mnist"], list(map(str, flags))))
        process.start()
        return process

    began = time.monotonic()
    run("timed", 30).join()
    five_epochs = time.monotonic() - began  # on this machine, now
    reached = [0]
    while len(reached) < 21:
        process = run("killed", 10**6)
        process.join(rng.uniform(0, five_epochs))
        assert process.is_alive(), process.exitcode
        process.kill()
        process.join()
        path = full_path(tmp_path / "killed")
        reached.append(full(tmp_path / "killed")["step"] if path.exists() else 0)
        assert reached[-1] >= reached[-2]
    print("checkpoints after each kill:", reached)
    assert len(set(reached)) > 5
    for name in ("killed", "unbroken"):
        process = run(name, reached[-1] + 6)
        process.join()
        assert process.exitcode == 0
    for part in ("model", "ema"):
        for name, value in full(tmp_path / "unbroken")[part].items():
            assert torch.equal(value, full(tmp_path / "killed")[part][name])
    curves = [tmp_path / output / "plots" / "mnist2" / "elbo.csv" for output in ("killed", "unbroken")]
    rows = [[line.split(",")[1:] for line in path.read_text().splitlines()] for path in curves]
    assert rows[0] == rows[1] and len(rows[0]) > 2
    assert not list(full_path(tmp_path / "killed").parent.glob(".*.tmp"))


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
OPEN_MPI = {
    f"OMPI_COMM_WORLD_{k}": v for k, v in (("RANK", "3"), ("SIZE", "8"), ("LOCAL_RANK", "3"), ("LOCAL_SIZE", "8"))
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "20", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "8(x2),4"
}  # fmt: skip


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (0, 1, 0, 1, None)),
        (TORCHRUN, (5, 16, 1, 4, "torchrun")),
        (OPEN_MPI, (3, 8, 3, 8, "mpiexec")),
        (MPICH, (1, 2, 1, 2, "mpiexec")),
        (SRUN, (9, 20, 1, 8, "srun")),
        (SRUN | OPEN_MPI, (3, 8, 3, 8, "mpiexec")),  # mpiexec starts its daemons with srun
        (SRUN | {"PMI_RANK": "9", "PMI_SIZE": "20"}, (9, 20, 1, 8, "srun")),  # srun --mpi=pmi2
        (SRUN | TORCHRUN, (5, 16, 1, 4, "torchrun")),
        ({"RANK": "0", "WORLD_SIZE": "1"} | OPEN_MPI, (3, 8, 3, 8, "mpiexec")),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1, 0, 1, "mpiexec")),
        # A batch script of Slurm: nothing has been launched yet.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, (0, 1, 0, 1, None)),
    ],
)
def test_launch(environment, expected):
    assert distributed.launch(environment) == expected


@pytest.mark.parametrize("changes", [{"LOCAL_RANK": "first"}, {"LOCAL_RANK": ""}, {"RANK": "-1"}, {"RANK": "16"}])
def test_unclear_launches_and_impossible_ranks_are_refused(changes):
    with pytest.raises(UserError, match=r"RANK WORLD_SIZE LOCAL_RANK .*'16'.* which process"):
        distributed.launch(TORCHRUN | changes)


def test_a_process_without_the_others_says_for_whom_it_waits_and_can_be_interrupted(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    command = [sys.executable, str(ROOT / "model" / "mnist_train.py"), *FLAGS, "--output", str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | place | address, stdout=-1, text=True) as process:
        line = process.stdout.readline()
        assert line == f"rank 0 is waiting for 1 more at 127.0.0.1:{address['MASTER_PORT']}\n"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def test_rendezvous():
    one_node, two_nodes = distributed.Launch(0, 8, 0, 8, "mpiexec"), distributed.Launch(0, 8, 0, 4, "mpiexec")
    jobs = [distributed.rendezvous(one_node, {"PMIX_NAMESPACE": job}) for job in ("1", "1", "2")]
    assert jobs[0] == jobs[1] != jobs[2]
    assert jobs[0][0] == "127.0.0.1" and 20000 <= jobs[0][1] < 30000
    assert distributed.rendezvous(two_nodes, {"MASTER_ADDR": "node1", "MASTER_PORT": "7"}) == ("node1", 7)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        distributed.rendezvous(two_nodes, {"PMIX_NAMESPACE": "1"})


def launched(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_dist_0_never_trains_many_copies(data, tmp_path, monkeypatch):
    launched(monkeypatch, OPEN_MPI)
    done = run_main(lambda argv: train_options.main(SETTINGS["mnist"], argv), "--dist=0", "--output", tmp_path)
    assert_one_line_error(done, "--dist=0", "mpiexec launched 8 processes")
    assert not any(tmp_path.iterdir())


def test_dist_1_takes_a_launcher_of_one_process(data, tmp_path, monkeypatch):
    launched(monkeypatch, {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"})
    assert "training in one process" in train(data, tmp_path, "--dist=1", "--max-steps=1").stdout


def test_gpu_index_with_several_processes_is_refused(monkeypatch):
    launched(monkeypatch, OPEN_MPI)
    with pytest.raises(UserError, match=r"--gpu=0 .*CUDA_VISIBLE_DEVICES"), distributed.joined("training", gpu=0):
        pass


@pytest.mark.parametrize("gpus, local_rank, expected", [(8, 3, "cuda:3"), (1, 3, "cuda:0"), (0, 3, "cpu")])
def test_each_rank_takes_its_gpu(monkeypatch, gpus, local_rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    place = distributed.Launch(3, 8, local_rank, 8, "mpiexec")
    assert str(distributed.device_of(None, place)) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="8 processes on this node and 4 GPUs"):
        distributed.device_of(None, distributed.Launch(3, 8, 3, 8, "mpiexec"))


def test_batch_must_split_evenly(data, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "joined", lambda *args: contextlib.nullcontext(distributed.Job(0, 5)))
    done = train(data, tmp_path, check=1)
    assert_one_line_error(done, "--batch=24", "5 processes")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 16])
def test_shares_partition_the_batch(size, count):
    shares = [range(count)[distributed.share(distributed.Job(rank, size), count)] for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


AVERAGE = """
import sys, torch
from utils import distributed
with distributed.joined("training", gpu=-1) as job:
    module = torch.nn.Linear(1, 2, bias=False)
    optimiser = torch.optim.Adam(module.parameters())
    module, optimiser = distributed.average_gradients(job, module, optimiser, fp16=True)
    for _ in range(2):
        loss = (module(torch.ones(1 - job.rank, 1)) * torch.tensor([60000.0, 8.0])).sum()  # rank 1 has nothing
        distributed.backward(loss, optimiser)
        distributed.step(optimiser)
    loss = (module(torch.ones(1, 1)) * torch.tensor([50016.0, 8.0])).sum()
    distributed.backward(loss, optimiser)
    print([p.grad.tolist() for p in module.parameters()], file=open(sys.argv[1] + str(job.rank), "w"))
"""


@pytest.mark.parametrize("how", MOST)
def test_float16_gradients_are_divided_before_they_are_summed(how, tmp_path):
    """50016 + 50016 is infinite in float16, whose largest number is 65504."""
    needs(how)
    command, environment = launcher(how, tmp_path)
    (tmp_path / "average.py").write_text(AVERAGE)
    process = subprocess.Popen(
        [*command, tmp_path / "average.py", tmp_path / "gradients"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    stdout, stderr = finish(process)
    assert process.returncode == 0, stdout + stderr
    for rank in (0, 1):
        assert (tmp_path / f"gradients{rank}").read_text() == "[[[50016.0], [8.0]]]\n"


def test_bfloat16_stays_near_float32(data, tmp_path):
    elbo = {}
    for precision in ("float32", "bfloat16"):
        train(data, tmp_path / precision, "--max-steps=6", f"--precision={precision}")  # the last one counts
        elbo[precision] = full(tmp_path / precision)["best"]
        assert {value.dtype for value in full(tmp_path / precision)["model"].values()} == {torch.float32}
    assert elbo["bfloat16"] != elbo["float32"]
    assert elbo["bfloat16"] == pytest.approx(elbo["float32"], rel=0.05)
