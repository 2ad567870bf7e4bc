"""Work that goes on beside other work, and work that must be alone: suspects of having killed the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Solitude:
    """Many may work `beside` one another; who works `alone` waits until they have ended and keeps others out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Beside others of this kind. Who waits to be alone goes first."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._alone or self._waiting))
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """With nothing else under way."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not (self._alone or self._beside))
            self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
