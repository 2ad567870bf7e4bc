"""Reading ahead: the next objects are fetched while this one is worked on, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 8, ahead: int | None = None
) -> Iterator[Result]:
    """Yields `function(item)` in the order of `items`, at most `ahead` (twice the threads) of them at a time.

    Unlike `Executor.map` it never takes more of `items` than that, so that a list of 100,000 objects does not end
    up in memory. The first exception is raised where its result would have been.
    """
    ahead = ahead or 2 * threads
    with ThreadPoolExecutor(threads, thread_name_prefix="store") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
