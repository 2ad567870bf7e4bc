"""The lock of a config in its store: one run at a time, and no run blocked by a dead one.

A lock saves work and is never the truth: whatever two runs do at once, put-if-absent keeps the store right.

The lock is one small JSON object that its holder renews by compare-and-swap. Someone else may take it over when

* it is marked as released, or
* its holder lived on this machine, since the same boot, and is dead, or
* it was not renewed for its time to live. Ages are taken from the store's clock alone, so the clocks of the
  machines need not agree.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assetmill.records import canonical_json
from assetmill.storage import layout
from assetmill.storage.store import CorruptObject, MissingObject, ObjectInfo, Store, StoreUnavailable

log = logging.getLogger(__name__)

TTL = 45.0
"""Seconds without a sign of life after which a holder counts as dead."""

RENEWAL_PATIENCE = 10.0
"""Seconds that the end of a run waits for a renewal in flight."""

SCHEMA = 1


class AlreadyRunning(RuntimeError):
    """Someone else holds the lock. `owner` is what they wrote into it: host, pid, user, started …"""

    def __init__(self, config_name: str, owner: Mapping[str, Any], age: float, ttl: float) -> None:
        self.owner = dict(owner)
        who = ", ".join(
            f"{name} {owner[name]}" for name in ("run", "command", "user", "host", "pid", "started") if owner.get(name)
        )
        super().__init__(
            f"{config_name} is already running ({who or 'its owner is unreadable'}; last sign of life {age:.0f} s "
            f"ago); wait for it or stop that process: a dead one is taken over {ttl:.0f} s after its last sign of life"
        )


@dataclass(slots=True)
class Lock:
    """A lock that is held. `lost` is set when someone else took it over, say after this machine was suspended."""

    key: str
    owner: Mapping[str, Any]
    took_over: Mapping[str, Any] | None = None
    """The dead owner whose lock this was, if any: its run ended without an end."""
    lost: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def hold_lock(
    store: Store, config_name: str, *, owner: Mapping[str, Any] | None = None, ttl: float = TTL, purpose: str = ""
) -> Iterator[Lock]:
    """Holds the lock of a config while the block runs; raises AlreadyRunning at once when it is taken.

    `owner` adds to what others are told (say `run` and `command`; no secrets). A thread renews the lock every
    third of `ttl` seconds. A lock with a `purpose` is another one than that of runs. Raises StoreUnavailable when the
    store does not answer.
    """
    holder = _Holder(store, layout.lock_path(config_name, purpose), {**describe_process(), **(owner or {})}, ttl)
    lock = holder.acquire(config_name)
    stop = threading.Event()
    renewer = threading.Thread(target=holder.renew, args=(lock, stop), name=f"lock-{config_name}", daemon=True)
    renewer.start()
    try:
        yield lock
    finally:
        stop.set()
        renewer.join(RENEWAL_PATIENCE)
        if not lock.lost.is_set():
            holder.release()


def lock_holder(store: Store, config_name: str) -> Mapping[str, Any] | None:
    """Who holds a config's lock, for people to see; None when it is free, or its holder dead or long silent.

    Nothing is written, so silence is told by this machine's clock; `hold_lock` decides by the store's.
    """
    key = layout.lock_path(config_name)
    info = store.stat(key)
    try:
        found = json.loads(store.get(key))
        owner = dict(found["owner"])
        ttl = float(found["ttl"])
    except (MissingObject, CorruptObject, ValueError, KeyError, TypeError):
        return None
    if info is None or found.get("released") or is_dead(owner) or time.time() - info.modified > ttl:
        return None
    return owner


def describe_process() -> dict[str, Any]:
    """Who this process is: enough to tell, on the same machine, whether it still lives."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _read_text("/proc/sys/kernel/random/boot_id"),
        "pid": pid,
        "pid_space": _read_link("/proc/self/ns/pid"),
        "pid_start": _pid_start(pid),
        "user": _user(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the process that `describe_process` told of is known to be dead; False when that can't be known.

    Known are processes of this boot of this machine and of our own space of process ids (containers have others).
    A process id that was given to another process since is told by the time of its start.
    """
    here = describe_process()
    if not here["boot"] or any(owner.get(name) != here[name] for name in ("host", "boot", "pid_space")):
        return False
    pid = owner.get("pid")
    return isinstance(pid, int) and _pid_start(pid) != owner.get("pid_start")


class _Holder:
    """One process's side of one lock object."""

    def __init__(self, store: Store, key: str, owner: Mapping[str, Any], ttl: float) -> None:
        self._store = store
        self._key = key
        self._owner = owner
        self._ttl = ttl
        self._token = secrets.token_hex(16)
        self._beat = 0
        self._version = ""

    def acquire(self, config_name: str) -> Lock:
        for _ in range(20):
            data = self._document()
            if self._store.put_if_absent(self._key, data, media_type="application/json"):
                if self._adopt():
                    return Lock(self._key, self._owner)
                continue
            info = self._store.stat(self._key)
            found = self._read()
            if info is None or found is None:
                continue  # removed by hand since
            before: Mapping[str, Any] = found.get("owner") or {}
            if not found.get("released") and not is_dead(before):
                ttl = float(found.get("ttl") or self._ttl)
                age = self._age(info)
                if age < ttl:
                    raise AlreadyRunning(config_name, before, age, ttl)
            # `found` may be younger than `info`; then the version has moved on, and the swap fails.
            if self._store.swap(self._key, data, expected=info.version, media_type="application/json"):
                if not self._adopt():
                    continue
                if found.get("released"):
                    return Lock(self._key, self._owner)
                log.warning("took over the lock %s of a dead holder: %s", self._key, canonical_json(dict(before)))
                return Lock(self._key, self._owner, took_over=before)
        raise StoreUnavailable(f"{self._store.url}: {self._key} keeps changing hands; run again in a minute")

    def renew(self, lock: Lock, stop: threading.Event) -> None:
        """Runs in a thread until told to stop or the lock is lost."""
        while not stop.wait(self._ttl / 3):
            try:
                self._store.swap(self._key, self._document(), expected=self._version, media_type="application/json")
                # Whatever the swap said: its answer may have been lost. What the store holds tells whose lock it is.
                renewed = self._adopt()
            except StoreUnavailable as error:
                log.warning("the lock could not be renewed, trying again: %s", error)
                continue  # whether it was taken over meanwhile, the next renewal tells
            except BaseException:
                lock.lost.set()  # a thread that dies silently would leave its run believing
                raise
            if not renewed:
                log.error("the lock %s was taken over by someone else, or removed", self._key)
                lock.lost.set()
                return

    def release(self) -> None:
        """Marks the lock as free. Not by removal: that can't be conditional on every store."""
        with contextlib.suppress(StoreUnavailable):  # it expires by itself, and the next run comes through
            self._store.swap(
                self._key, self._document(released=True), expected=self._version, media_type="application/json"
            )

    def _adopt(self) -> bool:
        """Learns the version of our own lock; False when it is someone else's now."""
        info = self._store.stat(self._key)
        found = self._read()
        if info is None or found is None or found.get("token") != self._token or found.get("released"):
            return False
        self._version = info.version
        return True

    def _read(self) -> dict[str, Any] | None:
        """The lock as it is; empty when unreadable, which means: held by nobody knows whom, until it expires."""
        try:
            found = json.loads(self._store.get(self._key))
        except MissingObject:
            return None
        except (ValueError, CorruptObject):
            return {}
        return found if isinstance(found, dict) else {}

    def _document(self, *, released: bool = False) -> bytes:
        self._beat += 1
        document = {
            "record": "lock",
            "schema": SCHEMA,
            "token": self._token,
            "beat": self._beat,  # no two contents are alike, so no two versions are
            "ttl": self._ttl,
            "released": released,
            "owner": dict(self._owner),
        }
        return canonical_json(document).encode()

    def _age(self, info: ObjectInfo) -> float:
        """Seconds since the lock was last written, by the store's own clock."""
        key = f"{self._key.removesuffix('.json')}.now-{self._token}"
        self._store.replace(key, b"now")
        try:
            now = self._store.stat(key)
        finally:
            self._store.delete(key)
        return max(0.0, (now.modified if now else time.time()) - info.modified)


def _pid_start(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone (or a zombie)."""
    text = _read_text(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return "" if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's nameless user
        return str(os.getuid())
