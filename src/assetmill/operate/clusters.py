"""What a cluster of machines must have before a run may use it: a server and a store that all reach, and room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from assetmill.config import Config
from assetmill.records import InputError, Problem

Node = Mapping[str, Any]
"""A node as `ray.nodes()` describes it."""


def demand_server(config: Config, url: str | None) -> str:
    """The Prefect API of a run on a cluster. Raises InputError where none is set: each worker would start its own."""
    if not url:
        raise InputError(
            Problem(
                f"run.execution is {config.run.execution}, but PREFECT_API_URL is not set: every worker would start a "
                "server of its own",
                "start one (`prefect server start --host 0.0.0.0`) and set PREFECT_API_URL to an address that all "
                "machines of the cluster reach, as http://10.0.0.5:4200/api",
                column="run.execution",
            )
        )
    return url


def check_reach(config: Config, url: str, machines: Sequence[str]) -> None:
    """Raises InputError where workers on several machines would not reach the server, or not share the store."""
    if len(machines) < 2:
        return
    problems = []
    host = urlsplit(url).hostname or ""
    if host in ("localhost", "0.0.0.0", "::1") or host.startswith("127."):
        problems.append(
            Problem(
                f"PREFECT_API_URL is {url}: each of the {len(machines)} machines would look for the server on itself",
                "give the address under which the others reach it",
            )
        )
    if "://" not in config.store_url and not config.run.ray.shared_folder:
        problems.append(
            Problem(
                f"the store is a folder, but the cluster has {len(machines)} machines ({', '.join(machines)})",
                "use a bucket, or say `run.ray.shared_folder: true` where it is one folder for all of them (NFS)",
                column="store.url",
                value=config.store_url,
            )
        )
    if problems:
        raise InputError(problems)


def machines_of(nodes: Sequence[Node]) -> list[str]:
    """The addresses of the machines that living nodes are on."""
    return sorted({str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]})


def count_workers(nodes: Sequence[Node], gpus: float, cpus: float) -> int:
    """How many workers of that size the living nodes have room for."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            fits = [int(has.get(name, 0.0) / each + 1e-9) for name, each in (("GPU", gpus), ("CPU", cpus)) if each]
            room += min(fits, default=1)
    return room
