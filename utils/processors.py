"""How many processors there are."""

import os


def count() -> int:
    """The processors that this process may use; where the system does not tell, all that there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
