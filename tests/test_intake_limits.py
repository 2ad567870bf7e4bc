"""No sheet unpacks to more than it may, whatever it says about itself."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from assetmill.intake.sheet import read_assets, read_sheet_file
from assetmill.records import InputError
from sheet_files import (
    SHEET,
    as_xlsx,
    make_config,
    problems_of,
    read,
    repack,
    timed_problem,
)


def test_files_are_read_once_within_limits(tmp_path: Path) -> None:
    """Missing files, folders and large files are refused; the fingerprint is that of the bytes."""
    path = tmp_path / "s.csv"
    for bad in (path, tmp_path):
        with pytest.raises(InputError, match=r"sheet\.path"):
            read_sheet_file(make_config(), bad)
    path.write_bytes(b"id,a\n1,x\n")
    data = read_sheet_file(make_config(), path)
    path.write_bytes(b"id,a\n2,y\n")
    assert [a.id for a in read_assets(make_config(), path, data).assets] == ["1"]
    assert read_assets(make_config(), path).fingerprint != read_assets(make_config(), path, data).fingerprint
    with pytest.raises(InputError, match="max_bytes"):
        read_assets(make_config(max_bytes=4), path)
    with pytest.raises(InputError, match="max_cells"):
        read(b"id,a\n" + b"1,x\n" * 10, max_cells=12)


def test_zip_bombs_are_refused_at_once() -> None:
    """A part that unpacks to hundreds of times its size is refused by the directory, or cut off when that lies."""
    small = as_xlsx([["id"], ["a"]])
    bomb = repack(small, {"xl/bomb.xml": b" " * 40_000_000})
    assert "max_ratio" in timed_problem(bomb).message
    assert "max_bytes" in timed_problem(bomb, max_bytes=1_000_000).message
    sheet = b"<worksheet>" + b" " * 30_000_000 + b"</worksheet>"
    lying = repack(small, {SHEET: sheet}).replace(len(sheet).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    timed_problem(lying)


def test_damaged_archives_are_refused() -> None:
    """A cut or flipped workbook, two parts of one name, an unusual packing and a plain zip are named as such."""
    good = as_xlsx([["id"], ["a"]])
    assert "broken" in problems_of(good[:-100])[0].message
    at = good.index(SHEET.encode()) + len(SHEET) + 20
    assert problems_of(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])
    assert "of one name" in problems_of(repack(good, {SHEET.upper(): b"<worksheet/>"}))[0].message
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("xl/workbook.xml", b"<workbook/>")
    assert "unusual way" in problems_of(other.getvalue())[0].message
    assert "neither" in problems_of(repack(b"PK\x05\x06" + b"\0" * 18, {"a.txt": b"x"}))[0].message


ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "part", [SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/_rels/workbook.xml.rels", "xl/sharedStrings.xml"]
)
def test_entities_are_refused_in_every_part(part: str) -> None:
    """No document type, no entity bomb, no external entity."""
    link = b'<Relationship Id="rId99" Type="http://x/sharedStrings" Target="/xl/sharedStrings.xml"/></Relationships>'
    data = repack(as_xlsx([["id"], ["a"]]), {
        "xl/_rels/workbook.xml.rels": lambda old: old.replace(b"</Relationships>", link),
        "xl/sharedStrings.xml": b"<sst><si><t>x</t></si></sst>",
    })  # fmt: skip
    assert read(data).assets
    bad = repack(
        data, {part: lambda old: ENTITIES + old.partition(b"?>")[2] if old.startswith(b"<?xml") else ENTITIES + old}
    )
    assert "declares entities" in timed_problem(bad).message
