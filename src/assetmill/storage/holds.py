"""Holds on a catalog, and their releases: records in order, of which the last one counts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assetmill.storage.store import CorruptObject, Store

_HOLD_NAME = re.compile(r"\d{8,}\.json")


def read_hold(store: Store, prefix: str) -> dict[str, Any] | None:
    """The hold on the catalog under a prefix (`to`, `from`, `reason`, `by`, `created`), or None.

    Raises CorruptObject when the last record cannot be read: then nobody knows.
    """
    key = _last_record(store, prefix)
    if key is None:
        return None
    try:
        record: dict[str, Any] = json.loads(store.get(key))
        if record["action"] == "release":
            return None
        if record["action"] == "hold" and {"to", "created"} <= record.keys():
            return record
        raise ValueError("it is neither a hold nor a release")
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # MissingObject is a KeyError
        raise CorruptObject(
            key,
            f"whether the catalog is held cannot be read ({error!r}); `assetmill catalog release CONFIG` ends it",
        ) from error


def append_hold(store: Store, prefix: str, record: Mapping[str, Any]) -> None:
    """Writes a hold (`action: hold`) or a release behind those there are."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    data = json.dumps({"schema": 1, **record, "created": now, "token": os.urandom(8).hex()}, indent=1).encode()
    last = _last_record(store, prefix)
    number = int(Path(last).stem) + 1 if last else 1
    while not store.put_if_absent(f"{prefix}/hold/{number:08d}.json", data, media_type="application/json"):
        number += 1


def _last_record(store: Store, prefix: str) -> str | None:
    last = None
    for info in store.list(f"{prefix}/hold/"):
        if _HOLD_NAME.fullmatch(info.key.rpartition("/")[2]):
            last = info.key
    return last
