"""Work on threads: all of it at once, or ahead of time."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from utils.compiled import processors
from utils.progress import bar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def each(function: Callable[[_In], _Out], items: Sequence[_In], desc: str, unit: str) -> list[_Out]:
    """[function(item) for all items], on as many threads as there are processors, under a bar."""
    with ThreadPoolExecutor(processors()) as pool:
        return list(bar(pool.map(function, items), total=len(items), desc=desc, unit=unit))


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
