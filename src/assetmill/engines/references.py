"""Reference images that a sheet or config names: found, checked, and pinned by the hash of their bytes.

A text may be a path inside the allowed folders, a picture of the store (`blobs/<aa>/<sha256>.png`, or the 64 digits
alone), or an http or https URL, which is fetched behind a guard (`engines/fetch.py`).

A file is read and decoded once and then remembered by path, size and times, so that an unchanged sheet costs a `stat`
per picture. A URL's bytes go into the store at once, and the store remembers what it gave: it is asked again, with the
validators of its last answer, only when that is older than `references.refresh_hours`. When a server does not answer,
the stored picture is used, with a warning. Before a run makes anything, all pictures that it needs are in the store:
from then on, here, on another machine and when a picture is made again, that is where they are read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assetmill.engines.fetch import FetchError, Guard, fetch
from assetmill.engines.folders import cache_folder
from assetmill.records import InputError, Problem, Request, blob_key
from assetmill.storage.layout import blob_path, references_path
from assetmill.storage.store import CorruptObject, MissingObject, Store, get_blob, put_blob, set_aside

if TYPE_CHECKING:
    import numpy as np

    from assetmill.config import ReferencesConfig

log = logging.getLogger(__name__)

Decode = Callable[..., "np.ndarray"]
"""`decode(data, alpha=…, max_pixels=…)`: uint8 (H, W, 3), with alpha (H, W, 4), upright, in sRGB; else ValueError."""

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
)
_MAGIC = (("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF"), ("avif", b"\0\0\0"))
_STORED = re.compile(r"(?:blobs/[0-9a-f]{2}/)?([0-9a-f]{64})(?:\.([a-z0-9]{1,16}))?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=//|[^\\/])")
_READERS, _FETCHERS = 4, 8
_REMEMBERED = 200_000
"""Files that the cache knows at most."""


class UnusableReference(ValueError):
    """A text names no usable reference image; the message says why, `way_out` what to do."""

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(message)
        self.way_out = way_out


@dataclass(frozen=True, slots=True)
class Picture:
    """A reference image: the SHA-256 of its bytes, its format, its size in pixels as it stands upright.

    `alpha` is the blob of its transparency as a mask (white where it is opaque), empty where all of it is.
    """

    blob: str
    extension: str
    width: int
    height: int
    alpha: str = ""


class References:
    """Finds the pictures that texts name, each of them once. Safe to call from several threads after `prepare`."""

    def __init__(
        self,
        store: Store,
        config: ReferencesConfig,
        config_name: str,
        base: Path,
        folders: Sequence[Path],
        decode: Decode,
    ) -> None:
        self.store = store
        self.config = config
        self.base = base
        self.folders = tuple(folder.resolve() for folder in (base, *folders))
        self.guard = Guard(config.hosts, tuple(config.networks), config.max_bytes, config.timeout)
        self._decode = decode
        self._found: dict[str, Picture | UnusableReference] = {}
        self._files: dict[str, Path] = {}
        self._masks: dict[str, str] = {}
        self._pictures: dict[str, Picture] = {}
        self._memory = _FileMemory()
        self._urls = _UrlMemory(store, config_name)

    def prepare(self, texts: Iterable[str]) -> None:
        """Looks all these texts up: files are read and URLs fetched several at a time. Faults wait for `find`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._found]
        if not new:
            return
        remote = [text for text in new if _is_url(text)]
        for some, size in ((remote, _FETCHERS), ([t for t in new if not _is_url(t)], _READERS)):
            if some:
                with ThreadPoolExecutor(min(size, len(some)), thread_name_prefix="reference") as pool:
                    self._found.update(zip(some, pool.map(self._try, some), strict=True))
        self._memory.save()
        self._urls.save()

    def find(self, text: str) -> Picture:
        """The picture a text names. Raises UnusableReference."""
        if text not in self._found:
            self.prepare([text])
        found = self._found[text]
        if isinstance(found, UnusableReference):
            raise found
        return found

    def keep(self, blobs: Collection[str]) -> None:
        """Puts pictures that were found here into the store where they are not there yet.

        Raises InputError for files that changed since they were found.
        """
        with ThreadPoolExecutor(_READERS, thread_name_prefix="keep") as pool:
            problems = [p for p in pool.map(self._keep, sorted(set(blobs))) if p is not None]
        if problems:
            raise InputError(problems)

    # --- inside -----------------------------------------------------------------------------------------------

    def _try(self, text: str) -> Picture | UnusableReference:
        try:
            picture = self._look_up(text)
        except UnusableReference as error:
            return error
        self._pictures[picture.blob] = picture
        if picture.alpha:
            self._masks[picture.alpha] = picture.blob
        return picture

    def _look_up(self, text: str) -> Picture:
        if _is_url(text):
            return self._from_url(text)
        if stored := _STORED.fullmatch(text):
            return self._from_store(stored[1], stored[2])
        if scheme := _SCHEME.match(text):
            raise UnusableReference(f"{scheme[1]}: is no place for reference images", "give a path, or an https URL")
        return self._from_file(text)

    def _from_file(self, text: str) -> Picture:
        try:
            path = (self.base / text).resolve()
            inside = any(path.is_relative_to(folder) for folder in self.folders)
            state = path.stat() if inside and path.is_file() else None
        except (OSError, ValueError, RuntimeError) as error:
            raise UnusableReference(f"the image cannot be read ({error})", "check the path") from error
        if not inside:
            raise UnusableReference(
                f"the path leads out of {self.base}", "copy the image there, or add its folder to references.folders"
            )
        if state is None:
            raise UnusableReference(f"there is no image at {path}", "check the path; it starts at the config's folder")
        if state.st_size > self.config.max_bytes:
            raise UnusableReference(
                f"the file is larger than {self.config.max_bytes:,} bytes",
                "make it smaller, or raise references.max_bytes",
            )
        picture = self._memory.get(path, state)
        if picture is None:
            try:
                picture = self._measure(path.read_bytes())
            except OSError as error:
                raise UnusableReference(f"the image cannot be read ({error.strerror})", "check its rights") from error
            self._memory.put(path, state, picture)
        self._files[picture.blob] = path
        return picture

    def _from_store(self, sha256: str, extension: str | None) -> Picture:
        found = find_extension(self.store, sha256) if extension is None else extension
        try:
            if found is None:
                raise MissingObject(sha256, self.store.url)
            picture = self._measure(get_blob(self.store, sha256, found))
        except (MissingObject, CorruptObject, ValueError) as error:
            if isinstance(error, UnusableReference):
                raise
            raise UnusableReference(str(error), "name a picture that the store holds") from error
        return picture

    def _from_url(self, url: str) -> Picture:
        known = self._urls.get(url)
        if known is not None and not self._urls.is_old(url, self.config.refresh_hours):
            return known
        etag, modified = self._urls.validators(url)
        try:
            fetched = fetch(url, self.guard, etag=etag, modified=modified)
        except FetchError as error:
            if known is None or not error.gone:
                raise UnusableReference(str(error), error.way_out) from error
            log.warning("%s; the picture it gave before is used", error)
            return known
        if fetched.data is None and known is not None:
            self._urls.put(url, known, etag, modified)
            return known
        data = fetched.data or b""
        picture = self._measure(data)
        put_blob(self.store, data, picture.extension, MEDIA_TYPES[picture.extension])
        self._urls.put(url, picture, fetched.etag, fetched.modified)
        return picture

    def _measure(self, data: bytes) -> Picture:
        """Decodes a picture to find its size and transparency, and whether it can be decoded at all."""
        try:
            pixels = self._decode(data, alpha=True, max_pixels=self.config.max_pixels)
        except ValueError as error:
            raise UnusableReference(
                f"the image cannot be used: {error}", "give a sound PNG, JPEG, WebP or AVIF"
            ) from error
        height, width = pixels.shape[:2]
        mask = alpha_mask(pixels)
        extension = next(name for name, magic in _MAGIC if data.startswith(magic))
        return Picture(blob_key(data), extension, width, height, blob_key(mask) if mask else "")

    def _keep(self, blob: str) -> Problem | None:
        source = self._pictures.get(self._masks.get(blob, blob))
        extension = "png" if blob in self._masks else (source.extension if source else None)
        if extension is None or source is None:
            extension = find_extension(self.store, blob)
            missing = Problem(f"the reference image {blob[:12]} is not in the store", "run again", value=blob)
            return missing if extension is None else None
        if self.store.stat(blob_path(blob, extension)) is not None:
            return None
        path = self._files.get(source.blob)
        try:
            data = path.read_bytes() if path else get_blob(self.store, source.blob, source.extension)
        except (OSError, MissingObject, CorruptObject) as error:
            return Problem(f"the reference image is gone ({error})", "restore it, or plan again", file=str(path or ""))
        if blob_key(data) != source.blob:
            return Problem("the reference image changed since it was planned", "run again", file=str(path))
        if blob in self._masks:
            data = alpha_mask(self._decode(data, alpha=True, max_pixels=self.config.max_pixels))
        put_blob(self.store, data, extension, MEDIA_TYPES[extension])
        return None


class StoredPictures:
    """Reads the reference images of requests from the store, decoded; remembers the latest ones by their bytes.

    `__call__` gives uint8 (H, W, 3) by blob, or (H, W) for masks. Raises MissingObject or CorruptObject, after setting
    a corrupt one aside, so that the next run puts it there again.
    """

    def __init__(self, store: Store, decode: Decode, *, max_bytes: int = 512 * 2**20) -> None:
        self.store = store
        self.max_bytes = max_bytes
        self._decode = decode
        self._recent: OrderedDict[tuple[str, bool], np.ndarray] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    def __call__(self, requests: Sequence[Request]) -> dict[str, np.ndarray]:
        wanted = {r.blob: r.role == "mask" for request in requests for r in request.references}
        return {blob: self._get(blob, is_mask) for blob, is_mask in wanted.items()}

    def _get(self, blob: str, is_mask: bool) -> np.ndarray:
        key = (blob, is_mask)
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        extension = find_extension(self.store, blob)
        if extension is None:
            raise MissingObject(blob, self.store.url)
        try:
            data = get_blob(self.store, blob, extension)
        except CorruptObject:
            set_aside(self.store, blob_path(blob, extension))
            raise
        pixels = self._decode(data)
        if is_mask:
            pixels = luminance(pixels)
        with self._lock:
            if key not in self._recent:
                self._recent[key] = pixels
                self._num_bytes += pixels.nbytes
                while self._num_bytes > self.max_bytes and len(self._recent) > 1:
                    self._num_bytes -= self._recent.popitem(last=False)[1].nbytes
        return pixels


def find_extension(store: Store, sha256: str) -> str | None:
    """Under which extension the store holds a picture; None where it does not."""
    return next((e for e in MEDIA_TYPES if store.stat(blob_path(sha256, e)) is not None), None)


def alpha_mask(pixels: np.ndarray) -> bytes:
    """The transparency of uint8 (H, W, 4) pixels as a grey PNG, white where opaque; empty where all of it is.

    Written without compression, byte for byte the same everywhere: its hash is part of request keys.
    """
    alpha = pixels[..., 3]
    if int(alpha.min(initial=255)) == 255:
        return b""
    height, width = alpha.shape
    rows = b"".join(b"\0" + row.tobytes() for row in alpha)
    # RFC 1950 and 1951: stored blocks of at most 65,535 bytes between a header and the Adler-32 of all
    parts = [rows[i : i + 65535] for i in range(0, len(rows), 65535)]
    blocks = [
        struct.pack("<BHH", i == len(parts) - 1, len(part), len(part) ^ 0xFFFF) + part for i, part in enumerate(parts)
    ]
    packed = b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def luminance(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) as uint8 (H, W): ITU-R BT.601's luma, as Pillow's mode L has it."""
    red, green, blue = (pixels[..., channel].astype("uint32") for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype("uint8")


# --- what is remembered -------------------------------------------------------------------------------------


class _FileMemory:
    """Pictures by path, size and times, in the user's cache folder: an unchanged file is not read again."""

    def __init__(self) -> None:
        self._path = cache_folder() / "pictures.json"
        self._known: dict[str, list[Any]] | None = None
        self._changed = False
        self._lock = threading.Lock()

    def get(self, path: Path, state: os.stat_result) -> Picture | None:
        with self._lock:
            if self._known is None:
                self._known = _read_object(self._path)
            entry = self._known.get(str(path))
        if not isinstance(entry, list) or entry[:3] != [state.st_size, state.st_mtime_ns, state.st_ctime_ns]:
            return None
        return Picture(*entry[3:]) if len(entry) == 8 else None

    def put(self, path: Path, state: os.stat_result, picture: Picture) -> None:
        with self._lock:
            if self._known is None:
                self._known = {}
            self._known.pop(str(path), None)
            self._known[str(path)] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, *astuple(picture)]
            self._changed = True

    def save(self) -> None:
        if not self._changed or self._known is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(dict(list(self._known.items())[-_REMEMBERED:])), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            return  # a home that cannot be written to only costs the next start its decoding
        self._changed = False


class _UrlMemory:
    """What URLs gave, in one document of the store. It can always be made again, by asking all of them."""

    def __init__(self, store: Store, config_name: str) -> None:
        self._store = store
        self._key = references_path(config_name)
        self._known: dict[str, dict[str, Any]] | None = None
        self._changed = False
        self._lock = threading.Lock()

    def get(self, url: str) -> Picture | None:
        entry = self._entry(url)
        try:
            return Picture(**entry["picture"])
        except (KeyError, TypeError):
            return None

    def is_old(self, url: str, hours: float | None) -> bool:
        return hours is not None and time.time() - float(self._entry(url).get("asked", 0)) >= hours * 3600

    def validators(self, url: str) -> tuple[str, str]:
        entry = self._entry(url)
        return str(entry.get("etag", "")), str(entry.get("modified", ""))

    def put(self, url: str, picture: Picture, etag: str, modified: str) -> None:
        with self._lock:
            assert self._known is not None
            self._known[_hash_url(url)] = {
                "picture": asdict(picture), "etag": etag, "modified": modified, "asked": time.time(),
            }  # fmt: skip
            self._changed = True

    def save(self) -> None:
        if self._changed:
            data = json.dumps({"schema": 1, "urls": self._known}, indent=0).encode()
            self._store.replace(self._key, data, media_type="application/json")
            self._changed = False

    def _entry(self, url: str) -> dict[str, Any]:
        with self._lock:
            if self._known is None:
                try:
                    found = json.loads(self._store.get(self._key))["urls"]
                    self._known = found if isinstance(found, dict) else {}
                except (MissingObject, CorruptObject, ValueError, KeyError, TypeError):
                    self._known = {}  # none yet, or a damaged one: all URLs are asked
            entry = self._known.get(_hash_url(url), {})
        return entry if isinstance(entry, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # no cache, or a torn one: reading the files again is always right
    return data if isinstance(data, dict) else {}


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _hash_url(url: str) -> str:
    """URLs may hold secrets: the store keeps their hashes."""
    return blob_key(url.encode("utf-8", "surrogatepass"))
