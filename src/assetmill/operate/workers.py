"""The chunks of a run, handed to worker processes and booked by the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from assetmill.operate.admission import Books, admit_chunk, note_crash, take_in
from assetmill.operate.crew import Crew, WorkerCrashed
from assetmill.operate.produce import BreakerTripped, ChunkResult, Progress


class CrewWorkers:
    """Makes a run's chunks in one process per device."""

    def __init__(self, run: Books, crew: Crew, progress: Progress, dispatch: bool) -> None:
        self.run, self.crew, self.progress, self.dispatch = run, crew, progress, dispatch
        self.num_slots = crew.num_slots

    def make_all(self) -> None:
        """Makes all chunks, suspects last. Raises the first error, when what is under way has come to its end."""
        for alone in (False, True):
            numbers = [n for n, chunk in enumerate(self.run.chunks) if chunk.alone is alone]
            with ThreadPoolExecutor(self.num_slots, thread_name_prefix="crew") as slots:
                for making in [slots.submit(self._make_or_end, n) for n in numbers]:
                    making.result()

    def make_one(self, number: int) -> ChunkResult | None:
        """Makes one chunk; None when it was not admitted, was dropped, or its process died twice.

        Raises what the worker raised, and BreakerTripped; then the other workers drain.
        """
        run, chunk = self.run, self.run.chunks[number]
        if not admit_chunk(run, chunk):
            return None
        try:
            return take_in(run, self.crew.make(number, alone=chunk.alone), self.progress, dispatch=self.dispatch)
        except WorkerCrashed as error:
            note_crash(run, chunk, error.tries, str(error))
            return None
        except BreakerTripped as error:
            self._end(error)
            raise

    # --- inside -----------------------------------------------------------------------------------------------

    def _make_or_end(self, number: int) -> None:
        try:
            self.make_one(number)
        except Exception as error:
            self._end(error)
            raise

    def _end(self, error: Exception) -> None:
        self.run.reason = self.run.reason or str(error)  # no further chunk is admitted
        self.crew.drain()


@contextmanager
def draining(run: Books, drain: Callable[[], None]) -> Iterator[None]:
    """Passes it on, while the block runs, when the run is told to stop."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if run.stop.wait(0.2):
                drain()
                return

    thread = threading.Thread(target=watch, name="drain", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
