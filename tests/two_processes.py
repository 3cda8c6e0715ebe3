"""Run a script in two processes, which find each other as torchrun's do: two_processes.py SCRIPT [FLAG ...]

They are forked from this one, which has imported PyTorch for both. If one fails, the other is ended.
"""

import os
import runpy
import signal
import socket
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401  (the optimisers import it)


def become(rank, port):
    """Run the script as one of the two."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in (place | address).items()})
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def main():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = set()
    for rank in range(2):
        process = os.fork()
        if not process:
            become(rank, port)
        running.add(process)
    status = 0
    while running:
        ended, how = os.wait()
        running.remove(ended)
        if how and not status:
            status = 1
            for process in running:
                os.kill(process, signal.SIGTERM)
    sys.exit(status)


main()
