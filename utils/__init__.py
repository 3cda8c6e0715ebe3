import os
import sys

# Threads that wait for others spin for a moment and then sleep. OpenMP's own choice is to spin for long, which makes
# everything wait where another program runs as well; to sleep at once costs a fifth on an idle machine
# (docs/benchmarks.md). OpenMP reads this when PyTorch loads it, so it stands where every script passes before.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _report(kind, error, trace):
    """Ctrl-C while a script imports its modules ends it in one line; cli.script() has not begun by then."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
