"""Looks for what would stop a night, before the night: libraries, device, store, models, lock, credentials."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from assetmill.config import Config, ModelConfig, read_config
from assetmill.deliver.credentials import load_signer
from assetmill.engines.memory import check_memory
from assetmill.engines.protocols import EngineError
from assetmill.engines.registry import resolve_judge, resolve_model, resolve_safety, resolve_upscaler
from assetmill.operate.lock import lock_holder
from assetmill.operate.runs import list_runs, read_json
from assetmill.records import InputError
from assetmill.storage.store import MissingObject, Store, StoreRefused, StoreUnavailable, open_store

_LIBRARIES = (
    "torch", "torchvision", "diffusers", "transformers", "open-clip-torch", "spandrel", "pandas", "pyarrow",
    "boto3", "pillow", "prefect", "fastapi",
)  # fmt: skip
_LOW_DISK = 2 * 2**30
_LOW_DAYS = 14


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is in order, what was found, and the way out where it is not."""

    ok: bool
    what: str
    found: str
    way_out: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(config_path: Path | None = None) -> list[Finding]:
    """All findings about this machine and, if given, a config. Raises nothing that a finding can say."""
    found = [*_examine_machine()]
    if config_path is not None:
        try:
            config = read_config(config_path)
        except InputError as error:
            found.append(Finding(False, "config", str(error), "mend the config"))
        else:
            found.append(Finding(True, "config", f"{config.name} in {config_path}"))
            found.extend(_examine_models(config))
            found.extend(_examine_store(config))
            found.extend(_examine_credentials(config))
    return found


def _examine_machine() -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), "python", platform.python_version(), "use Python 3.11 or newer")
    for name in _LIBRARIES:
        try:
            yield Finding(True, name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(False, name, "not installed", "install from requirements.lock")
    try:
        import torch

        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
        yield Finding(True, "device", f"{', '.join(devices)}; {torch.get_num_threads()} torch threads")
    except (ImportError, RuntimeError) as error:
        yield Finding(False, "device", str(error), "reinstall torch, or check the GPU's driver")


def _examine_models(config: Config) -> Iterator[Finding]:
    models = {"model": config.model} | {f"models.{name}": section for name, section in config.models.items()}
    checks: dict[str, tuple[str, Callable[[], str]]] = {
        name: (section.source, partial(_look_at_model, section, config)) for name, section in models.items()
    } | {
        "judge": (config.judge.source, lambda: resolve_judge(config.judge, config.resolve).key),
        "upscaler": (config.upscale.source, lambda: resolve_upscaler(config.upscale, config.resolve).key),
    }
    if config.gates.safety.source is not None:
        checks["gates.safety"] = (config.gates.safety.source, partial(_look_at_safety, config))
    for what, (source, resolve) in checks.items():
        try:
            yield Finding(True, what, f"{source}: {resolve()[:16]}")
        except (InputError, EngineError) as error:
            yield Finding(False, what, str(error), f"check `{what}` in the config")


def _look_at_safety(config: Config) -> str:
    spec = resolve_safety(config.gates.safety, config.resolve)
    return spec.key if spec is not None else "off"


def _look_at_model(section: ModelConfig, config: Config) -> str:
    spec = resolve_model(section, config.resolve)
    if spec.gib:
        check_memory(spec, section)
    return spec.revision


def _examine_store(config: Config) -> Iterator[Finding]:
    try:
        store = open_store(config.store, config.store_url)
    except (StoreUnavailable, StoreRefused, InputError) as error:
        yield Finding(False, "store", str(error), "check store.url and the credentials")
        return
    yield Finding(True, "store", f"{store.url} keeps put-if-absent")
    place = store.local_path("blobs")
    if place is not None:
        nearest = next(p for p in (place, *place.parents) if p.exists())
        free = shutil.disk_usage(nearest).free
        yield Finding(free > _LOW_DISK, "disk", f"{free / 2**30:.1f} GiB free", "make room before the night")
    holder = lock_holder(store, config.name)
    who = "free" if holder is None else ", ".join(f"{k} {holder[k]}" for k in ("user", "host", "pid") if holder.get(k))
    yield Finding(holder is None, "lock", who, "wait for that run, or stop its process")
    yield from _examine_versions(config, store)


def _examine_credentials(config: Config) -> Iterator[Finding]:
    if config.publish.credentials is None:
        return
    try:
        signer = load_signer(config.publish.credentials, config.resolve)
    except InputError as error:
        yield Finding(False, "credentials", str(error), "mend publish.credentials")
        return
    left = (signer.expires - datetime.now(UTC)).days
    found = f"{signer.algorithm}, certificate valid for {left} more days, {signer.reserve:,} bytes a file"
    yield Finding(left >= _LOW_DAYS, "credentials", found, "renew the certificate before it expires")


def _examine_versions(config: Config, store: Store) -> Iterator[Finding]:
    """Compares libraries with those of the last run that made pictures: a changed one may change them."""
    last = None
    for run in list_runs(store, config.name):
        if run.report.get("versions"):
            last = run
    if last is None:
        return
    try:
        before = read_json(store, config.name, last.id, "report.json")["versions"]
    except (ValueError, KeyError, MissingObject):
        return
    changed = {}
    for name, old in before.items():
        try:
            new = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a version that is no package's, such as a device's name
        if new != old:
            changed[name] = f"{old} → {new}"
    yield Finding(
        not changed,
        "libraries since the last run",
        ", ".join(f"{k} {v}" for k, v in changed.items()) or "unchanged",
        "pictures may change: install requirements.lock, or look at a few assets with --only first",
    )
