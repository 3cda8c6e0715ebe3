"""Files that one process at a time may write."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside this context no other process enters one with the same path. The lock is a file next to it.

    The system ends the lock with the process, however that dies. Other computers see it if their shared disk passes
    locks on, as NFS does; on a disk without locks, a note says so, and the work goes on.
    Raises UserError, naming the process that has the lock.
    """
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                raise UserError(
                    f"{path} is in use by another run ({file.read()}); wait for its end, or choose another folder with "
                    "--output"
                ) from None
            except OSError as error:
                print(f"Note: {lock} cannot be locked ({error.strerror}): make sure that no second run uses {path}")
            if os.fstat(file.fileno()).st_nlink == 0:  # deleted by its owner after it was opened here
                continue
            file.truncate(0)
            print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return
