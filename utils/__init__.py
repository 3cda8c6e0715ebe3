import os
import sys

# Threads that wait for others spin for a moment and then sleep. OpenMP's default is to spin for long, which slows down
# everything if another program runs as well; sleeping at once costs a fifth on an idle machine. OpenMP reads this when
# PyTorch loads it, so it stands in a module that every script imports first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


# float32 means float32 in oneDNN's convolutions, whatever a machine's settings for other programs are.
os.environ["DNNL_DEFAULT_FPMATH_MODE"] = "STRICT"
os.environ.pop("ONEDNN_DEFAULT_FPMATH_MODE", None)


def _report(kind, error, trace):
    """Ctrl-C while a script imports its modules ends it in one line; cli.script() has not begun by then."""
    if issubclass(kind, KeyboardInterrupt):
        print("\ninterrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _report
