"""Work that threads do ahead of time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def ahead(function: Callable[[_In], _Out], items: Iterable[_In], threads: int, count: int) -> Generator[_Out]:
    """Generate function(item) for all items, in order. Threads compute at most `count` before they are asked for."""
    pending: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
