"""Limits on what a sheet may unpack to, held before any reader sees it.

A workbook is a zip of XML: 1.4 KB of it can claim seventeen billion cells, 200 KB can unpack to a gigabyte. Parts
are therefore unpacked piece by piece against a budget, and the reader that follows is handed a zip that was packed
again from exactly those bytes, so that a lying directory cannot show two readers two different files.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from assetmill.config import SheetConfig
from assetmill.records import InputError, Problem

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_PIECE = 2**20
_HARMLESS = 16 * 2**20
"""Bytes below which the ratio of unpacked to packed size does not matter."""
_MAX_PARTS = 10_000
_LARGE_GRID = 1_000_000


def read_sheet_file(config: SheetConfig, path: Path) -> bytes:
    """The bytes of a sheet, read once, so that an edit during the run changes nothing.

    Raises InputError when the file is missing, unreadable or larger than `max_bytes`.
    """
    file = str(path)
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise InputError(Problem(f"the sheet {kind}", "correct `sheet.path` in the config", file=file))
        with path.open("rb") as stream:
            data = stream.read(config.max_bytes + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(Problem(f"the sheet cannot be read ({reason})", "check its rights", file=file)) from error
    check_bytes(config, len(data), file)
    return data


def check_bytes(config: SheetConfig, size: int, file: str) -> None:
    """Raises InputError when a file of `size` bytes is larger than `max_bytes`."""
    if size > config.max_bytes:
        raise InputError(
            Problem(
                f"the sheet is larger than sheet.max_bytes allows ({config.max_bytes:,} bytes)",
                "split it, or raise `sheet.max_bytes` if the file is meant to be that large",
                file=file,
            )
        )


def check_cells(config: SheetConfig, rows: int, columns: int, file: str, sheet: str = "") -> None:
    """Raises InputError when a grid of `rows` × `columns` has more cells than `max_cells`."""
    if rows * columns > config.max_cells:
        raise InputError(
            Problem(
                f"the sheet spans {rows:,} rows × {columns:,} columns, more cells than sheet.max_cells allows "
                f"({config.max_cells:,})",
                "delete stray cells far from the data (Ctrl+End goes to the last one), or raise `sheet.max_cells`",
                file=file,
                sheet=sheet,
            )
        )


def check_filling(rows: int, columns: int, cells: int, file: str, sheet: str = "") -> None:
    """Raises InputError when a large grid holds next to nothing: readers fill it all in, for minutes."""
    if rows * columns > _LARGE_GRID and cells * 100 < rows * columns:
        raise InputError(
            Problem(
                f"the sheet spans {rows:,} rows × {columns:,} columns but holds only {cells:,} cells",
                "delete stray cells far from the data (Ctrl+End goes to the last one)",
                file=file,
                sheet=sheet,
            )
        )


def check_text(config: SheetConfig, size: int, file: str, sheet: str = "") -> None:
    """Raises InputError when the texts of all cells together hold more than `max_bytes` characters."""
    if size > config.max_bytes:
        raise InputError(
            Problem(
                f"the texts of the cells unpack to {size:,} characters, more than sheet.max_bytes allows "
                f"({config.max_bytes:,})",
                "shorten the texts that repeat, or raise `sheet.max_bytes` if the sheet is meant to be that large",
                file=file,
                sheet=sheet,
            )
        )


class Archive:
    """The parts of a workbook's zip, unpacked within limits.

    Raises InputError for a broken, encrypted or oversized archive.
    """

    def __init__(self, config: SheetConfig, data: bytes, file: str) -> None:
        self.file = file
        self._budget = config.max_bytes
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
            raise self._broken(str(error)) from error
        members = self._zip.infolist()
        # readers look names up without regard to case, so two that differ only there are two truths
        self._members = {member.filename.lower(): member for member in members}
        if len(members) > _MAX_PARTS or len(self._members) < len(members):
            raise self._broken(
                f"{len(members)} parts, some of one name" if len(members) <= _MAX_PARTS else "too many parts"
            )
        total = sum(member.file_size for member in members)
        if total > config.max_bytes:
            raise InputError(
                Problem(
                    f"the workbook unpacks to {total:,} bytes, more than sheet.max_bytes allows ({config.max_bytes:,})",
                    "save the data as CSV or Parquet, or raise `sheet.max_bytes`",
                    file=file,
                )
            )
        if total > _HARMLESS and total > config.max_ratio * len(data):
            raise InputError(
                Problem(
                    f"the workbook unpacks to {total / len(data):,.0f} times its size, more than sheet.max_ratio "
                    f"allows ({config.max_ratio:g})",
                    "save it again from a spreadsheet program, or raise `sheet.max_ratio` if you trust it",
                    file=file,
                )
            )

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._members

    def read(self, name: str) -> bytes:
        """A part's bytes; raises InputError when it is missing or not what the archive says it is."""
        member = self._members.get(name.lower())
        if member is None:
            raise self._broken(f"it lacks {name}")
        if member.flag_bits & 0x1:
            raise InputError(Problem("the workbook is encrypted", "save it without a password", file=self.file))
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._broken(f"{name} is packed in an unusual way")
        pieces: list[bytes] = []
        try:
            with self._zip.open(member) as stream:
                # In pieces: a part that unpacks to more than the directory says is cut off, never held whole.
                while piece := stream.read(_PIECE):
                    pieces.append(piece)
                    self._budget -= len(piece)
                    if self._budget < 0:
                        raise self._broken("it unpacks to more than sheet.max_bytes")
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise self._broken(f"{name}: {error}") from error
        return b"".join(pieces)

    def _broken(self, reason: str) -> InputError:
        return InputError(
            Problem(
                f"the workbook is broken or not a workbook ({reason})",
                "open it in a spreadsheet program and save it again as .xlsx, .ods or CSV",
                file=self.file,
            )
        )


def pack(parts: Iterable[tuple[str, bytes]]) -> io.BytesIO:
    """A zip of exactly these parts, uncompressed, rewound."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts:
            archive.writestr(name, data)
    stream.seek(0)
    return stream


def scan_xml(
    data: bytes,
    name: str,
    file: str,
    handlers: Callable[[expat.XMLParserType], None],
) -> None:
    """Streams one XML part through expat; `handlers` sets the callbacks on the parser.

    A document type declaration is refused, and with it every entity bomb and every external entity; so is an
    encoding other than UTF-8, which the reader that follows would see differently. Raises InputError.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: Any) -> None:
        raise _bad_xml(name, file, "it declares entities or a document type")

    def declare(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding and encoding.lower() not in ("utf-8", "utf8", "us-ascii"):
            raise _bad_xml(name, file, f"its encoding is {encoding}")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.XmlDeclHandler = declare
    handlers(parser)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:64]:
        raise _bad_xml(name, file, "its encoding is UTF-16 or UTF-32")
    try:
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            parser.Parse(bytes(view[start : start + _PIECE]), False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise _bad_xml(name, file, str(error)) from error


def parse_xml(data: bytes, name: str, file: str) -> Element:
    """A small XML part as a tree; document types and entities are refused. Raises InputError."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        return fromstring(data, forbid_dtd=True)  # type: ignore[no-any-return]
    except DefusedXmlException as error:
        raise _bad_xml(name, file, "it declares entities or a document type") from error
    except (ParseError, ValueError, LookupError) as error:
        raise _bad_xml(name, file, str(error)) from error


def _bad_xml(name: str, file: str, reason: str) -> InputError:
    return InputError(
        Problem(
            f"the workbook's part {name} is refused: {reason}",
            "open it in a spreadsheet program and save it again",
            file=file,
        )
    )
