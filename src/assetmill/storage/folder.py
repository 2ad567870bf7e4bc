"""A store in a folder.

What is promised, and how:

* Whole or not at all: bytes are written to a hidden temporary file of the same file system and appear under their
  key by one hard link (`put_if_absent`, which fails when the name is taken) or one rename. A killed process leaves
  at most a hidden temporary file, swept a day later.
* Killed process: needs no more than that, since the kernel keeps what was written.
* Power loss: pictures are not synced one by one, which would cost more than making them small; they are
  remembered, and synced together just before the next commit mark (`layout.is_commit`) appears, which is synced
  itself. So a record that survives a power loss never names a picture that did not. `durability: process` in
  `store.options` leaves the syncing out, for scratch stores.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from assetmill.storage import layout
from assetmill.storage.store import MissingObject, ObjectInfo, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from assetmill.config import StoreConfig

HIDDEN = ".assetmill"
"""The store's own folder inside the root: temporary files and the mutex of `swap`."""

STALE_AFTER = 24 * 3600.0
"""Seconds after which a temporary file belongs to nobody: no single write takes that long."""

MAX_UNSYNCED = 2048
"""Pictures that may wait for a commit mark before they are synced anyway."""

SYNC_THREADS = 8


def open_folder(config: StoreConfig, root: Path, *, read_only: bool = False) -> FolderStore:
    """A store in the folder `root`, which is made unless `read_only`; see `open_store` for the errors."""
    options = dict(config.options)
    durability = options.pop("durability", "power")
    if durability not in ("power", "process"):
        raise StoreRefused(f"store.options.durability is {durability!r}; give 'power' (the default) or 'process'")
    if options:
        raise StoreRefused(f"store.options: a folder has no {', '.join(sorted(options))}; it knows only 'durability'")
    store = FolderStore(root, sync=durability == "power")
    if not read_only:
        store.prepare()
    return store


class FolderStore:
    """Implements `Store` on a POSIX file system with hard links. `sync` asks for safety from power loss."""

    def __init__(self, root: Path | str, *, sync: bool = True) -> None:
        self.root = Path(root).absolute()
        self.url = str(self.root)
        self._base = os.path.join(self.url, "")
        self._temp = os.path.join(self.url, HIDDEN, "tmp")
        self._sync = sync
        self._unsynced: dict[str, None] = {}
        self._syncing = threading.Lock()
        self._names = itertools.count()

    def prepare(self) -> None:
        """Makes the folder, removes what dead writers left, and checks that it can hold a store."""
        with self._errors("the store's folder"):
            os.makedirs(self._temp, exist_ok=True)
            self._sweep()
            first = self._write(b"probe", sync=False)
            second = f"{first}-link"
            try:
                os.link(first, second)
                try:
                    os.link(first, second)
                except FileExistsError:
                    return
                raise StoreRefused(f"{self.url}: this file system overwrites by hard link; use a local disk or s3://")
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                raise StoreRefused(
                    f"{self.url}: its file system has no hard links ({error.strerror}), which a folder store needs to "
                    "keep two runs from overwriting each other; use a folder on a local disk, or s3://bucket/prefix"
                ) from error
            finally:
                for path in (first, second):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)

    # --- reading ---

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with self._errors(key):
            try:
                with open(path, "rb", buffering=0) as file:
                    return file.readall()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise MissingObject(key, self.url) from error

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._errors(key):
            try:
                found = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _info(key, found) if _is_file(found) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, beginning = layout.check_prefix(prefix).rpartition("/")
        with self._errors(prefix or "the store's folder"):
            yield from self._walk(f"{folder}/" if folder else "", beginning)

    def _walk(self, folder: str, beginning: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(self._base + folder) as entries:
                # A folder sorts as "name/": that is what makes the order of the walk the byte order of the keys.
                found = [
                    (name + "/" if entry.is_dir(follow_symlinks=False) else name, entry)
                    for entry in entries
                    if (name := entry.name).startswith(beginning) and not name.startswith(".")
                ]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, entry in sorted(found, key=lambda pair: os.fsencode(pair[0])):
            if name.endswith("/"):
                yield from self._walk(folder + name, "")
                continue
            with contextlib.suppress(FileNotFoundError):  # removed while we look
                status = entry.stat()
                if _is_file(status):
                    yield _info(folder + name, status)

    def local_path(self, key: str) -> Path | None:
        return Path(self._path(key))

    # --- writing ---

    def put_if_absent(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> bool:
        path = self._path(key)
        commit = layout.is_commit(key)
        with self._errors(key):
            created = not _is_taken(path, key)  # spares the write where nothing is new
            if created:
                temporary = self._write(data, sync=commit)
                try:
                    if commit:
                        self._sync_earlier()
                    self._place(os.link, temporary, path, key)
                except FileExistsError:
                    created = False
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(temporary)
            # Also when another process made it: it may not have synced it yet, and our next record may name it.
            self._settle(path, key, commit)
        return created

    def replace(
        self, key: str, data: bytes, *, media_type: str = "application/octet-stream", cache_control: str = ""
    ) -> None:
        with self._errors(key), self._mutex():
            self._overwrite(key, data)

    def swap(
        self, key: str, data: bytes, *, expected: str, media_type: str = "application/octet-stream"
    ) -> bool:  # fmt: skip
        with self._errors(key), self._mutex():
            now = self.stat(key)
            if now is None or now.version != expected:
                return False
            self._overwrite(key, data)
            return True

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors(key), self._mutex():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
        with self._syncing:
            self._unsynced.pop(path, None)

    def _overwrite(self, key: str, data: bytes) -> None:
        path, commit = self._path(key), layout.is_commit(key)
        temporary = self._write(data, sync=commit)
        try:
            # Clocks of file systems tick every few milliseconds and inodes are used again: two contents in one tick
            # could look alike, so time is made to go on at each key.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                before, after = os.stat(path).st_mtime_ns, os.stat(temporary).st_mtime_ns
                if after <= before:
                    os.utime(temporary, ns=(before + 1, before + 1))
            if commit:
                self._sync_earlier()
            self._place(os.replace, temporary, path, key)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        self._settle(path, key, commit)

    def _write(self, data: bytes, *, sync: bool) -> str:
        """A complete temporary file; nothing is left when writing fails."""
        name = f"{os.getpid()}-{threading.get_ident()}-{next(self._names)}-{time.monotonic_ns():x}"
        path = os.path.join(self._temp, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:  # opened for reading only, or someone tidied up
            os.makedirs(self._temp, exist_ok=True)
            descriptor = os.open(path, flags, 0o666)
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                if sync and self._sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            os.unlink(path)
            raise
        return path

    def _place(self, place: object, temporary: str, path: str, key: str) -> None:
        for last in (False, True):
            try:
                place(temporary, path)  # type: ignore[operator]
                return
            except FileNotFoundError:
                if last:
                    raise
                self._make_parents(path, key)
            except (NotADirectoryError, IsADirectoryError) as error:
                raise _in_the_way(key) from error

    def _make_parents(self, path: str, key: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _in_the_way(key) from error

    # --- safety from power loss ---

    def _settle(self, path: str, key: str, commit: bool) -> None:
        if not self._sync or key.startswith("locks/"):
            return
        if commit:
            _sync_all(list(self._with_parents({os.path.dirname(path)})))
            return
        with self._syncing:
            self._unsynced[path] = None
            full = len(self._unsynced) >= MAX_UNSYNCED
        if full:
            self._sync_earlier()

    def _sync_earlier(self) -> None:
        """Syncs the pictures stored since the last commit mark, then the folders that name them."""
        if not self._sync:
            return
        with self._syncing:  # held to the end: a second record waits until the first one's pictures are safe
            paths = list(self._unsynced)
            _sync_all([*paths, *self._with_parents({os.path.dirname(path) for path in paths})])
            self._unsynced.clear()

    def _with_parents(self, folders: set[str]) -> set[str]:
        every = set(folders)
        for folder in folders:
            while len(folder) > len(self.url):
                folder = os.path.dirname(folder)
                every.add(folder)
        return every

    # --- helpers ---

    def _path(self, key: str) -> str:
        return self._base + layout.check_key(key)

    def _sweep(self) -> None:
        oldest = time.time() - STALE_AFTER
        with os.scandir(self._temp) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < oldest:
                        os.unlink(entry.path)

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        """One writer of mutable keys at a time, over all threads and processes of the store."""
        path = os.path.join(self.url, HIDDEN, "mutex")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # goes with the descriptor, also when we are killed
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"{self.url}: {what}: {error.strerror or error}; {_way_out(error)}") from error


def _is_taken(path: str, key: str) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise _in_the_way(key) from error
    if not _is_file(status):
        raise _in_the_way(key)
    return True


def _is_file(status: os.stat_result) -> bool:
    return (status.st_mode & 0o170000) == 0o100000


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    # Files are never written in place: another content is another inode, or a later time on the same key.
    version = f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"
    return ObjectInfo(key, status.st_size, version, status.st_mtime)


def _sync_path(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(paths: list[str]) -> None:
    """Syncs files and folders that still exist.

    Many at once, because a file system commits those together that wait together: measured on ext4, 128 pictures
    of 100 kB took 1.1 s one after the other and 0.15 s from eight threads.
    """

    def sync(path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            _sync_path(path)

    if len(paths) < 2 * SYNC_THREADS:
        for path in paths:
            sync(path)
        return
    with ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync") as pool:
        for _ in pool.map(sync, paths):
            pass


def _in_the_way(key: str) -> ValueError:
    return ValueError(f"{key[:120]!r}: one object of the store is a folder of another; give it another name")


def _way_out(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there (nothing half-written is left), then run again: it resumes"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable for this user, or choose another store.url"
    if error.errno == errno.EFBIG:
        return "raise the limit on file sizes (ulimit -f)"
    if error.errno == errno.EMFILE:
        return "raise the limit on open files (ulimit -n)"
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
        return "something that is not a folder is in the way; move it, or choose another store.url"
    if error.errno == errno.EXDEV:
        return "the store's folder must lie on one file system: mount or link the whole of it, not a part"
    return "check the disk, then run again: it resumes"
