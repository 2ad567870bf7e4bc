"""Serves configs every night, on the schedule and in the time zone that each one names.

    python flows/nightly.py configs/game-assets.yaml configs/product-shots.yaml

Schedules fire only on a real Prefect server: the one at PREFECT_API_URL, or one that is started here and stopped
with this process. A night whose config is already running exits at once (the lock is in the store). Nights that were
missed while nothing served are made up for by one run, at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server import LocalServer, answers

if TYPE_CHECKING:
    from assetmill.config import Config


def main(arguments: list[str]) -> int:
    """Checks every config, then serves until stopped. Exit code 2 for bad configs, 5 without a server."""
    parser = argparse.ArgumentParser(prog="nightly.py", description="Serve configs on their schedules.")
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG")
    parser.add_argument("--server", metavar="URL", help="API of a running Prefect server (else PREFECT_API_URL)")
    parser.add_argument("--port", type=int, default=4200, help="port for a server started here (default 4200)")
    options = parser.parse_args(arguments)

    from assetmill.config import read_config
    from assetmill.records import InputError

    try:
        configs = [(path.resolve(), read_config(path)) for path in options.configs]
    except InputError as error:
        sys.stderr.write(f"nightly: {error}\n")
        return 2
    with ExitStack() as stack:
        url = options.server or os.environ.get("PREFECT_API_URL")
        if url and not answers(url):
            sys.stderr.write(f"nightly: no Prefect server answers at {url}; start it, or leave --server out\n")
            return 5
        if not url:
            url = stack.enter_context(LocalServer(options.port, services=True)).wait()
        os.environ["PREFECT_API_URL"] = url

        from prefect import serve  # only now: Prefect reads its settings at import

        deployments = deployments_of(configs)
        make_up(configs, deployments)
        sys.stderr.write(f"nightly: serving {', '.join(c.name for _, c in configs)} at {url}\n")
        serve(*deployments, limit=1)
    return 0


def deployments_of(configs: Sequence[tuple[Path, Config]]) -> list[Any]:
    """A deployment of the flow for each config, on its schedule."""
    from prefect.schedules import Cron

    from produce import produce

    return [
        produce.to_deployment(
            name=config.name,
            schedule=Cron(config.schedule.cron, timezone=config.schedule.timezone),
            parameters={"config": str(path)},
            concurrency_limit=1,
        )
        for path, config in configs
    ]


def make_up(configs: Sequence[tuple[Path, Config]], deployments: Sequence[Any]) -> list[str]:
    """Has a flow run started at once for each config that missed nights; gives the names of those configs."""
    from prefect.deployments import run_deployment

    from assetmill.operate.nights import overdue_night
    from assetmill.storage.store import open_store

    late = []
    for (path, config), deployment in zip(configs, deployments, strict=True):
        night = overdue_night(
            open_store(config.store, config.store_url), config.name, config.schedule, datetime.now(UTC)
        )
        if night is not None:
            run_id = deployment.apply()
            run_deployment(run_id, parameters={"config": str(path), "date": night.name}, timeout=0, as_subflow=False)
            sys.stderr.write(f"nightly: {config.name} makes up for the night of {night.name}\n")
            late.append(config.name)
    return late


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
