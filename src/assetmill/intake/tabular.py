"""Files of rows as text, before anyone asks what the columns mean: delimited text and Parquet.

Every cell is text exactly as it is in the file: `00123`, `NA`, `1E5` and `TRUE` stay what they are. Python's own
`csv` reads delimited text here: nothing is guessed about types, the line a record begins on is known even after
quoted line breaks, and a row with too few or too many cells is seen as such.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from assetmill.config import SheetConfig
from assetmill.intake.limits import check_cells, check_text
from assetmill.records import InputError, Problem

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE = 65_536
_BYTE_ORDER_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text and where they stand.

    `rows` yields (row number, cells), the number 1-based as a person finds it: the line a record begins on in
    text, the row in a worksheet, the record in Parquet. Iterating may raise InputError. `errors` holds, by row
    number and 0-based column, the error values (`#N/A`) of a workbook. `names` are column names that the format
    itself carries. `notes` are remarks for people.
    """

    rows: Iterator[tuple[int, list[str]]]
    sheet: str = ""
    names: tuple[str, ...] | None = None
    errors: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def text_of(value: Any) -> str:
    """A typed cell as a person reads it: 123 for 123.0, at most 15 digits, ISO dates, TRUE and FALSE."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return _text_of_float(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.datetime):
        if value.tzinfo is None and value.time() == dt.time():
            return value.date().isoformat()
        return value.isoformat(sep=" ")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        seconds = round(value.total_seconds())
        sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value)


def _text_of_float(value: float) -> str:
    if value != value:
        return ""
    if value.is_integer() and abs(value) < 1e22:
        return str(int(value))
    short = f"{value:.15g}"  # what spreadsheets show: 0.1 + 0.2 is 0.3
    return format(Decimal(short), "f") if "e" in short and abs(value) < 1 else short


def column_letter(index: int) -> str:
    """The name a spreadsheet gives to a 0-based column: A, B, … Z, AA."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


# --- delimited text -----------------------------------------------------------------------------------------


def read_delimited(config: SheetConfig, data: bytes, file: str, expected: Sequence[str]) -> Table:
    """CSV, TSV and their kin. `expected` are headers that ought to occur: they tell the delimiter best.

    Raises InputError when the encoding or the quoting cannot be made out.
    """
    notes: list[str] = []
    encoding = _find_encoding(config, data, file, notes)
    stream = io.TextIOWrapper(io.BytesIO(data), encoding=encoding, newline="")
    sample = stream.read(_SAMPLE)
    stream.seek(0)
    skipped = 0
    if first := re.match(r'"?sep=([^\r\n"])"?(?:\r\n|\r|\n)', sample):  # Excel's own way to say it
        stream.readline()
        skipped, sample = 1, sample[first.end() :]
    if config.delimiter is not None:
        delimiter = _given_delimiter(config.delimiter, file)
    else:
        delimiter = first[1] if first else _find_delimiter(config, sample, len(data) > _SAMPLE, expected)
    return Table(_records(stream, delimiter, skipped, config, file), notes=tuple(notes))


def _records(
    stream: io.TextIOWrapper, delimiter: str, skipped: int, config: SheetConfig, file: str
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    start, cells = skipped + 1, 0
    try:
        for row in reader:
            cells += len(row)
            if cells > config.max_cells:
                check_cells(config, cells, 1, file)
            yield start, row
            start = reader.line_num + skipped + 1
    except csv.Error as error:
        # Where records begin and end after a broken quotation cannot be known: never a matter of one row.
        reason = str(error)
        if "field larger" in reason:
            message = f"a cell holds more than {csv.field_size_limit():,} characters"
        elif "end of data" in reason:
            message = "a quotation mark that opens in this record is never closed"
        else:
            message = f"the quotation marks of this record don't match up ({reason})"
        way_out = 'close the quotation, and write a quotation mark inside a quoted cell twice ("")'
        raise InputError(Problem(message, way_out, file=file, row=start)) from error


def _find_encoding(config: SheetConfig, data: bytes, file: str, notes: list[str]) -> str:
    marked = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if config.encoding is not None:
        encoding = config.encoding
        try:
            # with a mark in front, the codec that swallows it
            if marked and codecs.lookup(encoding).name.replace("-le", "").replace("-be", "") in marked:
                encoding = marked
            data.decode(encoding)
        except LookupError as error:
            way_out = "use a name such as utf-8, cp1252, iso8859-15, utf-16-le or cp932 for `sheet.encoding`"
            raise InputError(Problem("the encoding is unknown", way_out, file=file, value=encoding)) from error
        except UnicodeDecodeError as error:
            raise InputError(
                _undecodable(error, data, file, f"is not {encoding}", "correct `sheet.encoding`")
            ) from error
        return encoding
    if marked:
        try:
            data.decode(marked)
        except UnicodeDecodeError as error:
            way_out = "save it again as UTF-8: it seems to be cut off or damaged"
            raise InputError(
                _undecodable(error, data, file, f"is not the {marked} it claims to be", way_out)
            ) from error
        return marked
    if data[:4096].count(0) * 10 > len(data[:4096]):
        raise InputError(
            Problem(
                "the file is binary, or UTF-16 without a byte order mark",
                "save it as CSV in UTF-8, or set `sheet.encoding: utf-16-le`",
                file=file,
            )
        )
    try:
        data.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        problem = _undecodable(
            error,
            data,
            file,
            "is neither UTF-8 nor plainly Western European (cp1252)",
            "save it as UTF-8, or name its encoding in `sheet.encoding`, say cp1251, cp932 or mac_roman",
        )
        if not _plainly_western(data):
            raise InputError(problem) from error
        notes.append(f"{file}: read as cp1252, as it is not UTF-8; set `sheet.encoding` to be sure")
        return "cp1252"


def _plainly_western(data: bytes) -> bool:
    """Whether bytes that are not UTF-8 read as Western European text.

    cp1252 gives a character for nearly every byte, so decoding proves little. Western words mix few accented
    letters into plain ones: four high letters in a row are another alphabet (cp1251, cp1253, KOI8), and the signs
    that are rarest here are lead bytes in Shift-JIS and letters in MacRoman.
    """
    high = re.sub(rb"[\x00-\x7f]+", b"", data)
    if re.search(rb"[\x81\x8d\x8f\x90\x9d]", high) or re.search(rb"[\xc0-\xff]{4}", data):
        return False
    rare = len(re.findall(rb"[\x82\x83\x86\x87\x88\x8e\x98\x9a\x9e]", high))
    return rare < 3 or rare * 5 < len(high)


def _undecodable(error: UnicodeDecodeError, data: bytes, file: str, what: str, way_out: str) -> Problem:
    line = data.count(b"\n", 0, error.start) + 1
    return Problem(
        f"the text {what} ({error.reason})", way_out, file=file, row=line, value=repr(data[error.start :][:12])
    )


def _given_delimiter(delimiter: str, file: str) -> str:
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        way_out = r'use one character in `sheet.delimiter`, such as ";" or "\t"'
        raise InputError(Problem("the delimiter cannot be used", way_out, file=file, value=delimiter))
    return delimiter


def _find_delimiter(config: SheetConfig, sample: str, cut: bool, expected: Sequence[str]) -> str:
    """The delimiter under which the expected headers occur; then the one under which most rows agree in width."""

    def fitness(delimiter: str) -> tuple[float, ...]:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row]
        except csv.Error:
            return (-1.0,)
        if cut and len(rows) > 1:
            rows.pop()
        if not rows:
            return (0.0,)
        width = len(rows[0]) if config.header else len(config.names or ())
        header = {cell.strip() for cell in rows[0]}
        hits = sum(name in header for name in expected) if config.header else 0
        agree = round(sum(len(row) == width for row in rows) / len(rows), 1)
        return (hits, agree >= 0.5, width > 1, agree, width)

    return max(DELIMITERS, key=fitness)


# --- Parquet ------------------------------------------------------------------------------------------------


def read_parquet(config: SheetConfig, data: bytes, file: str) -> Table:
    """A Parquet file's records; numbers and dates as a person reads them. Raises InputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        reader = pq.ParquetFile(pa.BufferReader(data))
        rows, schema = reader.metadata.num_rows, reader.schema_arrow
        check_cells(config, rows, len(schema), file)
        groups = range(reader.metadata.num_row_groups)
        check_text(config, sum(reader.metadata.row_group(i).total_byte_size for i in groups), file)
        unreadable = [f for f in schema if not _has_one_text(f.type)]
        if unreadable:
            way_out = "write the column as text, or leave it out of the file"
            raise InputError(
                [
                    Problem(f"a column of type {f.type} has no one text", way_out, file=file, column=f.name)
                    for f in unreadable
                ]
            )
        names = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        # Dictionaries keep a text that repeats once: a small file cannot swell to a large one.
        table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=names).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        way_out = "write it again; it is cut off or damaged"
        raise InputError(Problem(f"the Parquet file cannot be read ({error})", way_out, file=file)) from error
    columns = [_texts(column) for column in table.columns]
    cells = zip(*columns, strict=True) if columns else iter(())
    return Table(((number, list(row)) for number, row in enumerate(cells, 1)), names=tuple(schema.names))


def _has_one_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (pa.types.is_nested(kind) or binary)


def _texts(column: Any) -> list[str]:
    import pyarrow as pa

    texts: list[str] = []
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            words = [text_of(value) for value in chunk.dictionary.to_pylist()]
            texts += ["" if index is None else words[index] for index in chunk.indices.to_pylist()]
        elif pa.types.is_float16(chunk.type) or pa.types.is_float32(chunk.type):
            # the shortest text that means this float32: 0.1, not 0.10000000149
            texts += ["" if v is None else text_of(float(str(v))) for v in chunk.to_numpy(zero_copy_only=False)]
        else:
            texts += [text_of(value) for value in chunk.to_pylist()]
    return texts
