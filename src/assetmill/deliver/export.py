"""Export: the published pictures as plain files with stable names, for people and game engines.

A folder gets the pictures, `catalog.jsonl`, `catalog.csv` and, hidden in `.assetmill/`, the manifest of what the
export wrote. The next export leaves unchanged files alone (their times too), and removes only what that manifest
lists. Killed half-way, it is simply run again. One export at a time may write into a folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import stat
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from assetmill.deliver.picture import EXTENSIONS
from assetmill.records import InputError, Problem
from assetmill.storage.entries import CatalogEntry
from assetmill.storage.layout import safe_name
from assetmill.storage.store import CorruptObject, MissingObject

HIDDEN = ".assetmill"
MANIFEST = f"{HIDDEN}/manifest.json"
SCHEMA = 1

NAME_FIELDS = ("id", "rank", "seed", "template")
"""What a name pattern may hold, beside the catalog's published columns."""

_PLAIN_FIELDS = (
    "asset_id", "rank", "channel", "rendition", "score", "width", "height", "media_type", "template", "seed", "model",
    "revision", "licence", "commercial",
)  # fmt: skip
_TEXT_FIELDS = ("positive", "negative", "rank_text", "request")
_LISTS = ("catalog.jsonl", "catalog.csv")

ListWriter = Callable[[Sequence[Mapping[str, Any]]], bytes]
"""Writes what a list says of the files, a mapping for each (see `export_catalog`)."""

_FORMAT = re.compile(r"0?[0-9]?d?")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST = 69
"""Characters of a name kept where it has to be cut: with `-` and a hash that makes 78."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did; names are relative to `folder`.

    `kept` are files of the former export that would have gone but were changed by someone since. `problems` say
    which pictures the store could not give: their files, where there were any, stay as they were.
    """

    folder: Path
    written: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What the manifest says of a file; size and time (ns) spare hashing what nobody touched since."""

    sha256: str
    size: int = -1
    mtime: int = -1


def export_catalog(
    entries: Iterable[CatalogEntry],
    read_object: Callable[[str], bytes],
    folder: Path | str,
    *,
    name: str = "{id}_{rank}",
    texts: bool = False,
    channel: str = "",
    lists: Mapping[str, ListWriter] | None = None,
) -> ExportReport:
    """Writes the files that catalog entries have in a channel, or in their first one, into a folder.

    `read_object` gives the bytes of an `object_key`; they must have the hash that the catalog says. `name` is a pattern
    over NAME_FIELDS and published columns, with `/` for folders; renditions other than `image` add theirs to it.
    Prompts and requests stay inside unless `texts`. `lists` are the files that say what lies there, by name:
    `catalog.jsonl` and `catalog.csv` if left out.

    Raises InputError for a wrong pattern, an unknown channel, a damaged manifest, and where a file that no export
    wrote is in the way: then nothing has been written.
    """
    folder = Path(folder)
    lists = {"catalog.jsonl": _jsonl, "catalog.csv": _csv} if lists is None else lists
    rows = rows_of(entries, channel)
    names = make_names(rows, name)
    former = _read_manifest(folder)
    wanted = {**dict.fromkeys(lists, ""), **{file: row["sha256"] for file, row in zip(names, rows, strict=True)}}
    _refuse_strangers(folder, wanted, former)

    folder.mkdir(parents=True, exist_ok=True)
    _clear_parts(folder)
    # From here on a kill leaves no file that the next export would take for someone else's.
    _write_manifest(folder, {**{file: _Known(sha256) for file, sha256 in wanted.items()}, **former})
    files: dict[str, _Known] = {}
    written, unchanged, problems, lines = [], [], [], []
    for file, row in zip(names, rows, strict=True):
        known = _find_unchanged(folder, file, row["sha256"], former.get(file))
        if known is None:
            try:
                data = _read_checked(read_object, row)
            except (MissingObject, CorruptObject) as error:
                problems.append(f"{file}: {error}")
                if file in former:
                    files[file] = former[file]
                continue
            known = _write(folder, file, data)
            written.append(file)
        else:
            unchanged.append(file)
        files[file] = known
        lines.append(_line(file, row, texts))
    for file, write in lists.items():
        data = write(lines)
        sha256 = hashlib.sha256(data).hexdigest()
        known = _find_unchanged(folder, file, sha256, former.get(file))
        (unchanged if known else written).append(file)
        files[file] = known or _write(folder, file, data)
    removed, kept = _remove(folder, {f: k for f, k in former.items() if f not in files})
    _write_manifest(folder, files)
    return ExportReport(folder, tuple(written), tuple(unchanged), tuple(removed), tuple(kept), tuple(problems))


def rows_of(entries: Iterable[CatalogEntry], channel: str = "") -> list[dict[str, Any]]:
    """A row for each file of a channel: the entry's fields, with those of the file laid over, and its `rendition`.

    Raises InputError when no entry has a file in that channel.
    """
    rows: list[dict[str, Any]] = []
    known: dict[str, None] = {}
    for entry in entries:
        plain = {f.name: getattr(entry, f.name) for f in fields(CatalogEntry)}
        known.update((file.channel, None) for file in entry.files)
        wanted = channel or next((file.channel for file in entry.files), "")
        for file in entry.files:
            if file.channel == wanted:
                own = {f.name: getattr(file, f.name) for f in fields(file) if f.name != "name"}
                rows.append({**plain, **own, "rendition": file.name})
    if channel and known and channel not in known:
        raise InputError(
            Problem(f"nothing is published in a channel {channel!r}", f"channels are {', '.join(sorted(known))}")
        )
    rows.sort(key=lambda row: (row["asset_id"], row["rank"], row["variant_key"]))
    return rows


# --- names --------------------------------------------------------------------------------------------------


def make_names(rows: Sequence[Mapping[str, Any]], pattern: str = "{id}_{rank}") -> list[str]:
    """A relative file name for each row of `rows_of`, by the pattern, whatever ids hold.

    A name depends on its own row alone, save where two rows would share one: then both carry a short hash of what
    they are. Names that differ in case only count as shared. Raises InputError for a wrong pattern.
    """
    if not rows:  # nor are there columns to check the pattern against
        return []
    columns = {column for row in rows for column in row.get("columns") or {}}
    parts = [_parse_part(part, pattern, columns) for part in pattern.split("/")]
    stems = ["/".join(_fill_part(part, row) for part in parts) + _suffix(row) for row in rows]
    stems = [f"_{stem}" if stem.split("/")[0].casefold() in _LISTS else stem for stem in stems]
    names = [f"{stem}.{EXTENSIONS.get(row['media_type'], 'bin')}" for stem, row in zip(stems, rows, strict=True)]
    shared = Counter(name.casefold() for name in names)
    return [
        _with_hash(name, row) if shared[name.casefold()] > 1 else name for name, row in zip(names, rows, strict=True)
    ]


def _suffix(row: Mapping[str, Any]) -> str:
    """What a rendition adds to its file's name."""
    return "" if row["rendition"] == "image" else f"-{row['rendition']}"


_Part = list[tuple[str, str | None, str]]
"""A part of a pattern between slashes: pieces of (text before, field or None, format)."""


def _parse_part(part: str, pattern: str, columns: Collection[str]) -> _Part:
    known = [*NAME_FIELDS, *sorted(set(columns) - set(NAME_FIELDS))]

    def wrong(message: str, way_out: str) -> InputError:
        return InputError(Problem(message, way_out, column="publish.name", value=pattern))

    try:
        pieces = list(string.Formatter().parse(part))
    except ValueError as error:
        raise wrong(f"the name pattern cannot be read ({error})", "write it like {id}_{rank}") from error
    if not any(text.strip(". ") or field is not None for text, field, _, _ in pieces):
        raise wrong("the name pattern has an empty part", "write it like {template}/{id}_{rank}")
    for _, field, spec, conversion in pieces:
        if field is None:
            continue
        if field not in known:
            raise wrong(f"the name pattern asks for {{{field}}}", f"known are {', '.join(known)}")
        if conversion or (spec and field not in ("rank", "seed")) or not _FORMAT.fullmatch(spec or ""):
            raise wrong(f"{{{field}}} has a format that it cannot have", "only numbers can: write it like {rank:02}")
    return [(text, field, spec or "") for text, field, spec, _ in pieces]


def _fill_part(part: _Part, row: Mapping[str, Any]) -> str:
    columns = row.get("columns") or {}
    out = []
    for text, field, spec in part:
        out.append(text)
        if field in ("rank", "seed"):
            out.append(format(int(row[field]), spec))
        elif field is not None:
            value = {**columns, "id": row["asset_id"], "template": row["template"]}.get(field)
            out.append(_readable("" if value is None else str(value)))
    whole = "".join(out)
    return safe_name(whole) if len(whole) <= _LONGEST + 11 else f"{safe_name(whole[:_LONGEST])}-{_hash8(whole)}"


def _readable(value: str) -> str:
    """A value as part of a name; with a hash where the name alone says nothing of it, or only its beginning."""
    safe = safe_name(value)
    return f"{safe[: _LONGEST - 9]}-{_hash8(value)}" if safe == "unnamed" or len(safe) > _LONGEST else safe


def _with_hash(name: str, row: Mapping[str, Any]) -> str:
    stem, dot, extension = name.rpartition(".")
    return f"{stem}-{_hash8(row['asset_id'], row['variant_key'])}{dot}{extension}"


def _hash8(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:8]


# --- lists --------------------------------------------------------------------------------------------------


def _line(file: str, row: Mapping[str, Any], texts: bool) -> dict[str, Any]:
    """What the lists say of a file."""
    names = (*_PLAIN_FIELDS, *_TEXT_FIELDS) if texts else _PLAIN_FIELDS
    line = {"file": file, **{name: row[name] for name in names}, "sha256": row["sha256"]}
    return {**line, "cell": dict(row.get("cell") or {}), "columns": dict(row.get("columns") or {})}


def _jsonl(lines: Sequence[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False, default=str) + "\n" for line in lines)
    return text.encode("utf-8", "replace")


def _csv(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A CSV that spreadsheets open as text: UTF-8 with its mark, no cell that would be run as a formula."""
    plain = [name for name in (lines[0] if lines else ("file", *_PLAIN_FIELDS, "sha256", "cell")) if name != "columns"]
    columns = sorted({column for line in lines for column in line["columns"]})
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*plain, *(escape_formula(c if c not in plain else f"column.{c}") for c in columns)])
    for line in lines:
        writer.writerow([*(_cell(line[name]) for name in plain), *(_cell(line["columns"].get(c)) for c in columns)])
    return out.getvalue().encode("utf-8-sig", "replace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)  # a negative number is a number, not a formula
    return json.dumps(value, ensure_ascii=False, default=str) if value else ""


def escape_formula(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe before what begins like one.

    After OWASP, "CSV Injection": = + - @, their full-width forms, tab, carriage return and line feed; here also
    behind leading spaces, which some programs drop.
    """
    return f"'{text}" if text.lstrip(" \u00a0\u3000").startswith(_FORMULA_STARTS) else text


# --- files --------------------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, _Known]:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_bytes())
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']} is not {SCHEMA}")
        known = {file: _Known(**facts) for file, facts in data["files"].items()}
        outside = [file for file in known if not _is_inside(file)]
        if outside:
            raise ValueError(f"it lists {outside[0][:80]!r}")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        problem = Problem(
            f"the manifest of the former export is damaged ({error})",
            "delete it (the export then removes nothing), or export into an empty folder",
            file=str(path),
        )
        raise InputError(problem) from error
    return known


def _is_inside(file: str) -> bool:
    parts = file.split("/")
    return not any(part in ("", ".", "..", HIDDEN) or set(part) & set("\\:\0") for part in parts)


def _write_manifest(folder: Path, files: Mapping[str, _Known]) -> None:
    facts = {file: {"sha256": k.sha256, "size": k.size, "mtime": k.mtime} for file, k in sorted(files.items())}
    text = json.dumps({"schema": SCHEMA, "files": facts}, ensure_ascii=False, indent=0)
    _replace(folder, MANIFEST, text.encode("utf-8", "surrogatepass"))


def _refuse_strangers(folder: Path, wanted: Mapping[str, str], former: Mapping[str, _Known]) -> None:
    """Raises InputError when a file or link that no export wrote is where one has to be written."""
    problems = []
    for parent in sorted({str(parent) for file in (*wanted, MANIFEST) for parent in PurePosixPath(file).parents}):
        path = folder / parent
        if (path.is_symlink() and path != folder) or (path.exists() and not path.is_dir()):
            problems.append(Problem("not a folder of its own", "move it away", file=str(path)))
    for file, sha256 in wanted.items():
        path = folder / file
        if problems or file in former or not os.path.lexists(path):
            continue
        if path.is_symlink() or not path.is_file() or _hash_file(path) != sha256:
            problems.append(
                Problem("in the way, and no export wrote it", "move it away, or choose another folder", file=str(path))
            )
    if problems:
        raise InputError(problems)


def _find_unchanged(folder: Path, file: str, sha256: str, known: _Known | None) -> _Known | None:
    """What is known of a file that already is as wanted, else None. One nobody touched since is not read again."""
    path = folder / file
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    if known == _Known(sha256, status.st_size, status.st_mtime_ns):
        return known
    if known is not None and known.sha256 == sha256 and known.size not in (-1, status.st_size):
        return None
    return _Known(sha256, status.st_size, status.st_mtime_ns) if _hash_file(path) == sha256 else None


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_checked(read_object: Callable[[str], bytes], row: Mapping[str, Any]) -> bytes:
    data = read_object(row["object_key"])
    found = hashlib.sha256(data).hexdigest()
    if found != row["sha256"]:
        raise CorruptObject(row["object_key"], f"its SHA-256 is {found[:12]}…, the catalog says {row['sha256'][:12]}…")
    return data


def _write(folder: Path, file: str, data: bytes) -> _Known:
    _replace(folder, file, data)
    status = (folder / file).stat()
    return _Known(hashlib.sha256(data).hexdigest(), status.st_size, status.st_mtime_ns)


def _replace(folder: Path, file: str, data: bytes) -> None:
    """Whole or not at all: written beside, then renamed."""
    target, part = folder / file, folder / HIDDEN / f"{os.getpid()}.part"
    part.parent.mkdir(exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    os.replace(part, target)


def _clear_parts(folder: Path) -> None:
    for part in (folder / HIDDEN).glob("*.part"):
        part.unlink()


def _remove(folder: Path, gone: Mapping[str, _Known]) -> tuple[list[str], list[str]]:
    """Removes former files that are as they were written, and folders left empty. Gives those removed and kept."""
    removed, kept = [], []
    for file, known in sorted(gone.items()):
        path = folder / file
        if not os.path.lexists(path):
            continue
        linked = any((folder / parent).is_symlink() for parent in PurePosixPath(file).parents if parent.name)
        if linked or _find_unchanged(folder, file, known.sha256, known) is None:
            kept.append(file)
            continue
        path.unlink()
        removed.append(file)
        for parent in path.parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()
    return removed, kept
