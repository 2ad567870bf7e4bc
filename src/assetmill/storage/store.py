"""The store: a folder or a bucket through one protocol, and blobs in it.

Three rules hold for every store, and one contract suite holds every store to them:

* an object is there whole or not at all;
* `put_if_absent` of one key succeeds for one caller only, whoever races;
* a commit mark (a JSON document) is never there before the bytes it names were.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from assetmill.records import blob_key
from assetmill.storage import layout

if TYPE_CHECKING:
    from assetmill.config import StoreConfig

log = logging.getLogger(__name__)


class MissingObject(KeyError):
    """No object has this key."""

    def __init__(self, key: str, url: str) -> None:
        self.key = key
        super().__init__(f"{key} is not in the store {url}")

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the repr of its message


class StoreUnavailable(RuntimeError):
    """The store cannot be used now: it is down, full, or refuses the credentials. Says where and what to do."""


class StoreRefused(RuntimeError):
    """The store cannot be used at all: it lacks something the pipeline's promises stand on."""


class CorruptObject(RuntimeError):
    """Stored bytes are not those that were stored."""

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        super().__init__(f"{key} is corrupt: {reason}; restore it from a backup, or let a run make it again")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows about an object without reading it.

    `size` in bytes; `version` differs between any two different contents the key ever had; `modified` in seconds
    since 1970 by the store's clock.
    """

    key: str
    size: int
    version: str
    modified: float


class Store(Protocol):
    """Named immutable bytes, and two kinds of change for the few names that are mutable.

    Every method raises StoreUnavailable when the store does not answer, and ValueError for a key that
    `layout.check_key` refuses. Methods may be called from any thread. No key may be a folder of another one
    (`a` beside `a/b`): a file system has no room for both.
    """

    url: str

    def get(self, key: str) -> bytes:
        """The bytes of an object; raises MissingObject."""

    def put_if_absent(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> bool:
        """Stores an object under a new key: True when this call made it, False when the key was taken.

        `media_type` and `cache_control` are what a bucket tells those who fetch the object; a folder keeps neither.

        One exception: after a lost answer (the write was retried, and the retry found the key taken) equal bytes
        count as our own. Data that must have one owner, such as a lock or a manifest, therefore holds something
        unique to its writer.
        """

    def replace(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> None:
        """Stores an object whether or not the key is taken. Only for hints that can be made again."""

    def swap(
        self, key: str, data: bytes, *, expected: str, media_type: str = "application/octet-stream"
    ) -> bool:  # fmt: skip
        """Replaces an object that still has the version `expected`; False when it has another one or is gone.

        A bucket's versions are hashes of the content: give every content something unique, such as a counter.
        """

    def stat(self, key: str) -> ObjectInfo | None:
        """What is known about an object, or None when there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose key begins with `prefix` (a text, not only a folder), in the byte order of their keys.

        The store may change meanwhile: what was there before and is there after is listed.
        """

    def delete(self, key: str) -> None:
        """Removes an object; no error when there is none."""

    def local_path(self, key: str) -> Path | None:
        """Where a person finds the object's file, or None when the store is no folder of this machine."""


def open_store(config: StoreConfig, url: str, *, read_only: bool = False) -> Store:
    """The store at `url`: a folder's path, `file:///path` or `s3://bucket/prefix`.

    Unless `read_only`, the first opening in a process writes and removes a probe object, and raises StoreRefused
    when the store does not keep the rules (see this module). Raises StoreUnavailable when it does not answer.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        from assetmill.storage.s3 import open_bucket

        return open_bucket(config, url, read_only=read_only)
    if separator and scheme != "file":
        raise StoreRefused(f"no store can be at {scheme}://…: give a folder's path or s3://bucket/prefix as store.url")
    from assetmill.storage.folder import open_folder

    return open_folder(config, Path(rest if separator else url), read_only=read_only)


# --- blobs --------------------------------------------------------------------------------------------------


def put_blob(store: Store, data: bytes, extension: str, media_type: str) -> str:
    """Stores immutable bytes under their SHA-256 and gives its 64 hex digits.

    When the blob is there already its bytes are compared: a corrupt one is set aside, with a warning, and stored
    anew, so that making a candidate again heals it.
    """
    sha256 = blob_key(data)
    key = layout.blob_path(sha256, extension)
    for _ in range(8):
        if store.put_if_absent(key, data, media_type=media_type):
            return sha256
        try:
            if store.get(key) == data:
                return sha256
        except MissingObject:
            continue  # removed since: put again
        except CorruptObject:
            pass
        aside = set_aside(store, key)
        log.warning("%s in %s was corrupt: set aside as %s and stored anew", key, store.url, aside)
    raise StoreUnavailable(
        f"{store.url}: {key} is there, then not, again and again; find out who else removes objects there"
    )


def get_blob(store: Store, sha256: str, extension: str) -> bytes:
    """The bytes of a blob, checked against their name; raises MissingObject or CorruptObject."""
    key = layout.blob_path(sha256, extension)
    data = store.get(key)
    found = blob_key(data)
    if found != sha256:
        raise CorruptObject(key, f"its {len(data)} bytes have the SHA-256 {found}")
    return data


def set_aside(store: Store, key: str) -> str | None:
    """Moves an unusable object to `aside/` for a look, and gives its new key; None when nothing could be kept."""
    aside = None
    try:
        data = store.get(key)
    except CorruptObject:
        pass  # the server itself refuses to hand it out: nothing to keep
    except MissingObject:
        return None
    else:
        aside = layout.aside_path(key, hashlib.sha256(data).hexdigest()[:8])
        store.put_if_absent(aside, data)
    store.delete(key)
    return aside
