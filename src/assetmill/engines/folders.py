"""Model folders before anything is loaded: their fingerprint, and what makes them unfit to load.

Nothing here imports torch: a plan, and a night with nothing to do, name their models through this alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from assetmill.records import InputError, Problem, content_key

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
"""Suffixes of weights that run code when they are read; never loaded here."""

_UNREAD = (".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".gitattributes", ".gitignore", ".lock", ".svg", ".pdf")
_UNREAD_NAMES = ("assetmill.json", "LICENSE", "LICENSE.txt", "NOTICE", ".DS_Store")
_POINTER = b"version https://git-lfs.github.com/spec/"


def cache_folder() -> Path:
    """Where hashes of weight files are remembered: `$XDG_CACHE_HOME/assetmill`, else `~/.cache/assetmill`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "assetmill"


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that can decide a picture, by their path with `/` inside the folder, sorted.

    Model cards, licences, sample pictures, hidden folders and `assetmill.json` (whose settings stand in each request)
    are left out: editing them renames nothing.
    """
    found: dict[str, Path] = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(_UNREAD) or name in _UNREAD_NAMES:
                continue
            path = Path(root, name)
            found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def fingerprint_folder(folder: Path, *, trust_cache: bool = True) -> str:
    """64 hex digits over the path and SHA-256 of each file of `model_files`.

    Hashes are remembered by path, size and times, so an unchanged folder costs a `stat` per file. With
    `trust_cache=False` every byte is read again: done once before weights are loaded, because a flipped byte in
    safetensors loads silently. Raises InputError where the folder cannot be read.
    """
    files = model_files(folder)
    if not files:
        raise InputError(Problem("the model folder is empty", "check `source` in the config", file=str(folder)))
    hashes = hash_files(list(files.values()), trust_cache=trust_cache)
    return content_key("folder", {"files": [[name, hashes[path]] for name, path in files.items()]})


def hash_files(paths: Sequence[Path], *, trust_cache: bool = True) -> dict[Path, str]:
    """SHA-256 of each file in hex, remembered in the user's cache folder. Raises InputError for unreadable files."""
    known = _read_cache()
    states: dict[Path, list[Any]] = {}
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise InputError(Problem(f"cannot be read ({error.strerror})", "check the path", file=str(path))) from error
        states[path] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    out: dict[Path, str] = {}
    stale = []
    for path, state in states.items():
        entry = known.get(str(path.absolute()))
        if trust_cache and entry is not None and entry[:3] == state:
            out[path] = entry[3]
        else:
            stale.append(path)
    if stale:
        with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib lets other threads run while it digests
            for path, digest in zip(stale, pool.map(_sha256, stale), strict=True):
                out[path] = digest
                known[str(path.absolute())] = [*states[path], digest]
        _write_cache(known)
    return out


def check_weights(files: Mapping[str, Path], folder: Path) -> list[Problem]:
    """What is wrong with weight files on the face of them: pointers in place of weights, cut-off or missing shards."""
    problems = []
    for name, path in files.items():
        if _is_pointer(path):
            problems.append(
                Problem(
                    "is a Git LFS pointer, not the file itself",
                    "run `git lfs pull` in its repository, or download the file again",
                    file=str(path),
                )
            )
        elif name.endswith(".safetensors"):
            fault = _safetensors_fault(path)
            if fault:
                problems.append(Problem(fault, "download or copy the file again", file=str(path)))
        elif name.endswith(".safetensors.index.json"):
            problems.extend(_missing_shards(path))
    return problems


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            Problem(f"is not readable JSON ({error})", "download or copy the file again", file=str(path))
        ) from error
    if not isinstance(data, dict):
        raise InputError(Problem("is not a JSON object", "download or copy the file again", file=str(path)))
    return data


def read_card(folder: Path) -> dict[str, Any]:
    """The YAML front matter of a folder's model card (README.md), empty where there is none."""
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    try:
        data = yaml.safe_load(text[4 : text.index("\n---", 4)])
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def safetensors_header(path: Path) -> dict[str, Any]:
    """Names, dtypes, shapes and offsets of a safetensors file, without its tensors. Raises ValueError if cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("is too short to be safetensors")
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, 100 * 2**20):
            raise ValueError("has no safetensors header")
        header = json.loads(file.read(length))
    end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    if size != 8 + length + end:
        raise ValueError(f"has {size} bytes where its header promises {8 + length + end}: it is cut off or overwritten")
    return header


# --- inside -------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(Problem(f"cannot be read ({error.strerror})", "check its rights", file=str(path))) from error


def _is_pointer(path: Path) -> bool:
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _safetensors_fault(path: Path) -> str:
    try:
        safetensors_header(path)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        return str(error) if "header" in str(error) or "short" in str(error) else "is not valid safetensors"
    return ""


def _missing_shards(index: Path) -> Iterator[Problem]:
    shards = sorted(set(read_json(index).get("weight_map", {}).values()))
    for shard in shards:
        if not (index.parent / shard).is_file():
            yield Problem(f"names the shard {shard!r}, which is missing", "download the missing file", file=str(index))


def _cache_file() -> Path:
    return cache_folder() / "files.json"


def _read_cache() -> dict[str, list[Any]]:
    try:
        data = json.loads(_cache_file().read_text(encoding="utf-8"))
        return {k: v for k, v in data.items() if isinstance(v, list) and len(v) == 4}
    except (OSError, ValueError, AttributeError):
        return {}  # no cache, or a torn one: hashing again is always right


def _write_cache(known: Mapping[str, list[Any]]) -> None:
    file = _cache_file()
    kept = dict(list(known.items())[-5000:])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(temporary, file)
    except OSError:
        return  # a home that cannot be written to only costs the next start its hashing
