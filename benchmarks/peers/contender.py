"""One contender in a process of its own: loads, works, and says how long each took.

    python -m peers.contender NAME WORK.json OUT STARTED SETTINGS…

STARTED is the time at which the parent started this process; SETTINGS are JSON objects, one run for each. The last
line on stdout is {"ready": seconds to imported, loaded and warmed up, "runs": [seconds of work, …]}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from peers.work import Settings, Work

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "pure": "pure forwards (F)",
        "assetmill": "assetmill (P)",
        "per-picture": "script, a call per picture",
        "per-prompt": "script, a call per prompt",
        "tuned": "tuned script",
        "ray": "Ray Data actor pool",
    }
)
"""Every contender and what it is called in a report."""


class Contender(Protocol):
    """Made ready by its constructor; `run` leaves its pictures in `out` and gives the seconds of its work.

    `late` are seconds of the last run that still went into loading; they are no work.
    """

    late: float

    def run(self, work: Work, settings: Settings, out: Path) -> float: ...


def missing_reason(name: str) -> str:
    """Why a contender cannot run here; empty where it can."""
    if name == "ray" and find_spec("ray") is None:
        return "ray is not installed: pip install 'assetmill[bench]'"
    return ""


def make_ready(name: str, work: Work, settings: Settings) -> Contender:
    """Imports, loads and warms up."""
    if name == "pure":
        from peers.pure import Pure

        return Pure(work, settings)
    if name == "assetmill":
        from peers.assetmill_run import Assetmill

        return Assetmill(work, settings)
    if name in ("per-picture", "per-prompt"):
        from peers.per_prompt import PerPrompt

        return PerPrompt(work, settings, whole_prompt=name == "per-prompt")
    if name == "tuned":
        from peers.tuned import Tuned

        return Tuned(work, settings)
    if name == "ray":
        from peers.ray_pool import RayPool

        return RayPool(work, settings)
    raise SystemExit(f"no contender {name!r}; there are {', '.join(TITLES)}")


def main() -> None:
    name, work_file, out, started, *texts = sys.argv[1:]
    work, settings = Work.load(Path(work_file)), [Settings(**json.loads(text)) for text in texts]
    ready, runs = work_through(name, work, settings, Path(out), float(started))
    print(json.dumps({"ready": ready, "runs": runs}))


def work_through(
    name: str, work: Work, settings: Sequence[Settings], out: Path, started: float
) -> tuple[float, list[float]]:
    """Seconds from `started` (by `time.time`) until a contender was ready, and those of a run with each settings.

    Run n leaves its result in `out`/n.
    """
    contender = make_ready(name, work, settings[0])
    ready = time.time() - started
    first = contender.run(work, settings[0], out / "0")
    ready += contender.late
    return ready, [first, *(contender.run(work, own, out / str(n)) for n, own in enumerate(settings[1:], 1))]


if __name__ == "__main__":
    main()
