"""Chains and samples that are dealt to several processes: the files are those of one."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_main
from test_distributed import FORKED, MOST, finish, launcher, needs

from codec import command
from utils.distributed import Job
from utils.errors import UserError
from utils.processes import check_enough, deal

SMALL = ("--quantbits=6", "--experiments=5", "--ndatapoints=3", "--bitswap=1", "--gpu=-1")


def run_two(how, folder, script, *flags):
    """Run a script in two processes; returns its CompletedProcess."""
    needs(how)
    folder.mkdir(exist_ok=True)
    start, environment = launcher(how, folder)
    process = subprocess.Popen(
        [*start, str(ROOT / script), *map(str, flags)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    stdout, stderr = finish(process)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def files(folder):
    """The bytes of everything written, {path: bytes}, and the ELBOs by themselves, {path: array}."""
    found = {path.relative_to(folder): path for path in folder.rglob("*.np?")}
    elbos = {name: np.load(path) for name, path in found.items() if name.match("*_elbos.npy")}
    return {name: path.read_bytes() for name, path in found.items() if name not in elbos}, elbos


@pytest.mark.parametrize("how", MOST)
def test_exact_results_are_those_of_one_process(how, mnist, checkpoint, tmp_path):
    flags = (*SMALL, "--exact", "--data", mnist, "--checkpoint", checkpoint, "--output")
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run_main(lambda argv: command.main("mnist", argv), *flags, one)
    assert alone.returncode == 0, alone.stderr
    together = run_two(how, tmp_path / how, "mnist_compress.py", *flags, two)
    assert together.returncode == 0, together.stderr
    for done in (alone, together):
        assert done.stdout.count("all pixels of 15 images and all initial words are identical") == 1
    ours, elbos = files(two)
    theirs, their_elbos = files(one)
    assert len(ours) == 6  # the bins, which were sampled, the exact networks, the bitstreams; nets, cmas and total
    assert ours == theirs
    (elbo,), (their_elbo,) = elbos.values(), their_elbos.values()
    np.testing.assert_allclose(elbo, their_elbo, rtol=1e-5)  # in floats, in smaller batches


def test_floats_decode_in_as_many_processes_as_they_were_coded_in(mnist, checkpoint, tmp_path):
    flags = (*SMALL, "--precision=bfloat16", "--data", mnist, "--checkpoint", checkpoint, "--output", tmp_path)
    done = run_two(FORKED, tmp_path / "run", "mnist_compress.py", *flags)
    assert done.returncode == 0 and "15 images and all initial words are identical" in done.stdout, done.stderr
    done = run_two(FORKED, tmp_path / "run", "mnist_compress.py", *flags, "--verify-only")
    assert done.returncode == 0 and "15 images and all initial words are identical" in done.stdout, done.stderr
    done = run_main(lambda argv: command.main("mnist", argv), *flags, "--verify-only")
    assert_one_line_error(done, "processes 2 instead of 1")


def test_items_are_dealt_like_cards():
    jobs = [Job(rank=rank, size=3) for rank in range(3)]
    assert [deal(job, list("abcde")) for job in jobs] == [["a", "d"], ["b", "e"], ["c"]]
    check_enough(jobs[0], 3, "chain")
    with pytest.raises(UserError, match="3 processes were launched for 2 chains; launch at most 2"):
        check_enough(jobs[0], 2, "chain")


def test_importing_leaves_pytorch_out():
    code = "import sys, utils.processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
