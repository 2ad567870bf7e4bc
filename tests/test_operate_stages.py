"""Times by stage, added up from any thread."""

from __future__ import annotations

import threading
import time

from assetmill.operate.stages import Stages


def test_totals() -> None:
    """Seconds, counts and bytes of a stage add up, in the order in which stages were first seen."""
    stages = Stages()
    stages.add("store", 0.5, 1, 100)
    stages.add("encode", 0.25, 1)
    stages.add("store", 1.0, 2, 50)
    assert stages.as_dict() == {
        "store": {"seconds": 1.5, "count": 3, "bytes": 150},
        "encode": {"seconds": 0.25, "count": 1, "bytes": 0},
    }
    assert (stages.seconds("store"), stages.count("store"), stages.num_bytes("store")) == (1.5, 3, 150)


def test_unknown_stage() -> None:
    """A stage that never ran took nothing."""
    stages = Stages()
    assert (stages.seconds("x"), stages.count("x"), stages.num_bytes("x"), stages.as_dict()) == (0.0, 0, 0, {})


def test_time_is_counted_when_it_fails() -> None:
    """A stage that raises took its time all the same."""
    stages = Stages()
    try:
        with stages.time("generate", 4):
            time.sleep(0.01)
            raise ValueError
    except ValueError:
        pass
    assert stages.count("generate") == 4
    assert stages.seconds("generate") >= 0.01


def test_threads() -> None:
    """Nothing is lost between threads."""
    stages = Stages()

    def work() -> None:
        for _ in range(500):
            stages.add("store", 0.0, 1, 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (stages.count("store"), stages.num_bytes("store")) == (4000, 8000)
