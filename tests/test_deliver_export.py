"""Exports: names that stay, files that stay untouched, and nothing of anyone else's ever harmed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assetmill.deliver.export import MANIFEST, escape_formula, export_catalog, make_names, rows_of
from assetmill.records import InputError
from assetmill.storage.entries import CatalogEntry, Rendition
from assetmill.storage.store import MissingObject


class Objects:
    """Published objects in memory that count how often they are read."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.num_reads = 0

    def __call__(self, key: str) -> bytes:
        self.num_reads += 1
        if key not in self.data:
            raise MissingObject(key, "memory")
        return self.data[key]

    def entry(self, asset_id: str, rank: int = 1, content: str = "", **values: Any) -> CatalogEntry:
        """An entry of before there were renditions: its file is its master."""
        data = f"picture of {asset_id} {rank} {content}".encode("utf-8", "surrogatepass")
        master = hashlib.sha256(data).hexdigest()
        self.data[f"published/{master}"] = data
        key = hashlib.sha256(f"{asset_id}/{rank}".encode("utf-8", "surrogatepass")).hexdigest()
        plain: dict[str, Any] = {
            "asset_id": asset_id, "rank": rank, "variant_key": key, "request_key": key, "blob": master,
            "master": master, "object_key": f"published/{master}", "media_type": "image/png", "width": 8, "height": 8,
            "score": 0.25, "template": "icon", "seed": 7, "model": "starter", "revision": "abc",
            "licence": "Apache-2.0", "commercial": True, "positive": "a secret prompt", "rank_text": "a sword",
        }  # fmt: skip
        return CatalogEntry(**{**plain, **values})

    def file(self, entry: CatalogEntry, channel: str, name: str = "image", media_type: str = "image/webp") -> Rendition:
        """A published file of an entry."""
        data = f"{channel} {name} of {entry.asset_id}".encode()
        key = f"published/{channel}/{entry.asset_id}/{name}"
        self.data[key] = data
        return Rendition(
            channel=channel, name=name, object_key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data),
            media_type=media_type, width=4, height=6,
        )  # fmt: skip


@pytest.fixture
def objects() -> Objects:
    return Objects()


def visible(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the hidden manifest, by its relative name."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".assetmill" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def pictures(folder: Path) -> set[str]:
    return {name for name in visible(folder) if not name.startswith("catalog.")}


def test_pictures_get_plain_names_and_lists(objects: Objects, tmp_path: Path) -> None:
    """Each entry becomes `{id}_{rank}.png`, and both lists name every file."""
    entries = [objects.entry("sword", 1), objects.entry("sword", 2), objects.entry("bow", media_type="image/webp")]
    report = export_catalog(entries, objects, tmp_path)
    assert pictures(tmp_path) == {"sword_1.png", "sword_2.png", "bow_1.webp"}
    assert len(report.written) == 5
    assert (tmp_path / "sword_2.png").read_bytes() == b"picture of sword 2 "
    lines = [json.loads(line) for line in (tmp_path / "catalog.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["bow_1.webp", "sword_1.png", "sword_2.png"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "catalog.csv").read_text(encoding="utf-8-sig"))))
    assert [row["file"] for row in rows] == [line["file"] for line in lines]
    assert rows[1]["sha256"] == entries[0].master
    assert rows[1]["commercial"] == "true"


def test_prompts_stay_inside_unless_asked(objects: Objects, tmp_path: Path) -> None:
    """What leaves by default holds published columns and licences, never a prompt."""
    entry = objects.entry("sword", columns={"title": "Sword"}, cell={"style": "ink"})
    export_catalog([entry], objects, tmp_path / "plain")
    assert not any(b"secret prompt" in data for data in visible(tmp_path / "plain").values())
    assert b'"title": "Sword"' in visible(tmp_path / "plain")["catalog.jsonl"]
    export_catalog([entry], objects, tmp_path / "full", texts=True)
    assert b"secret prompt" in visible(tmp_path / "full")["catalog.csv"]


def test_files_of_a_channel(objects: Objects, tmp_path: Path) -> None:
    """An export takes the files of one channel, the first if none is named; renditions add their name."""
    entry = objects.entry("sword")
    files = (
        objects.file(entry, "shop"),
        objects.file(entry, "game", "icon-64"),
        objects.file(entry, "game", "icon-32"),
    )
    entry = replace(entry, renditions=files)
    assert export_catalog([entry], objects, tmp_path / "first").written[0] == "sword_1.webp"
    report = export_catalog([entry], objects, tmp_path / "game", channel="game")
    assert report.written[:2] == ("sword_1-icon-64.webp", "sword_1-icon-32.webp")
    line = json.loads(visible(tmp_path / "game")["catalog.jsonl"].splitlines()[0])
    assert (line["channel"], line["rendition"], line["width"], line["height"]) == ("game", "icon-64", 4, 6)
    assert line["sha256"] == files[1].sha256
    with pytest.raises(InputError, match="nothing is published in a channel 'print'; channels are game, shop"):
        export_catalog([entry], objects, tmp_path / "none", channel="print")


def test_second_export_touches_nothing(objects: Objects, tmp_path: Path) -> None:
    """Exporting the same catalog again reads no object and changes no file, not even its time."""
    entries = [objects.entry("sword"), objects.entry("bow")]
    export_catalog(entries, objects, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()}
    reads = objects.num_reads
    report = export_catalog(reversed(entries), objects, tmp_path)
    assert (report.written, report.removed, len(report.unchanged)) == ((), (), 4)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()} == before
    assert objects.num_reads == reads


def test_changes_and_removals_follow_the_catalog(objects: Objects, tmp_path: Path) -> None:
    """A changed picture is rewritten under its name, one that left goes, with folders left empty."""
    old = [objects.entry("sword"), objects.entry("bow", template="old")]
    export_catalog(old, objects, tmp_path, name="{template}/{id}_{rank}")
    new = [objects.entry("sword", content="again")]
    report = export_catalog(new, objects, tmp_path, name="{template}/{id}_{rank}")
    assert report.written[0] == "icon/sword_1.png"
    assert report.removed == ("old/bow_1.png",)
    assert pictures(tmp_path) == {"icon/sword_1.png"}
    assert not (tmp_path / "old").exists()
    assert b"again" in (tmp_path / "icon/sword_1.png").read_bytes()


def test_files_of_others_are_neither_removed_nor_overwritten(objects: Objects, tmp_path: Path) -> None:
    """A person's files beside stay; one in the way stops the export before it writes anything."""
    export_catalog([objects.entry("sword")], objects, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "bow_1.png").write_bytes(b"my own bow")
    before = visible(tmp_path)
    with pytest.raises(InputError, match=r"bow_1\.png.*in the way.*move it away"):
        export_catalog([objects.entry("bow"), objects.entry("axe")], objects, tmp_path)
    assert visible(tmp_path) == before
    (tmp_path / "bow_1.png").unlink()
    export_catalog([objects.entry("bow")], objects, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_edited_files_are_kept_when_their_asset_leaves(objects: Objects, tmp_path: Path) -> None:
    """A picture that someone painted over isn't deleted with its asset; the report says so."""
    export_catalog([objects.entry("sword"), objects.entry("bow")], objects, tmp_path)
    (tmp_path / "bow_1.png").write_bytes(b"hours of work")
    report = export_catalog([objects.entry("sword")], objects, tmp_path)
    assert report.kept == ("bow_1.png",)
    assert (tmp_path / "bow_1.png").read_bytes() == b"hours of work"


def test_edited_files_of_the_catalog_are_restored(objects: Objects, tmp_path: Path) -> None:
    """A file that belongs to the catalog is what the catalog says, whoever changed or removed it."""
    entries = [objects.entry("sword"), objects.entry("bow")]
    export_catalog(entries, objects, tmp_path)
    whole = visible(tmp_path)
    (tmp_path / "sword_1.png").write_bytes(b"x" * len(whole["sword_1.png"]))
    (tmp_path / "bow_1.png").unlink()
    report = export_catalog(entries, objects, tmp_path)
    assert set(report.written) == {"sword_1.png", "bow_1.png"}
    assert visible(tmp_path) == whole


def test_missing_and_corrupt_objects_are_told_and_harm_nothing(objects: Objects, tmp_path: Path) -> None:
    """What the store cannot give is reported; the file of the last export stays, the others are written."""
    export_catalog([objects.entry("sword")], objects, tmp_path)
    changed, corrupt, good = objects.entry("sword", content="2"), objects.entry("bow"), objects.entry("axe")
    del objects.data[changed.object_key]
    objects.data[corrupt.object_key] = b"bit rot"
    report = export_catalog([changed, corrupt, good], objects, tmp_path)
    assert len(report.problems) == 2
    assert "bow_1.png" in report.problems[0]
    assert "corrupt" in report.problems[0]
    assert "not in the store" in report.problems[1]
    assert pictures(tmp_path) == {"axe_1.png", "sword_1.png"}
    assert (tmp_path / "sword_1.png").read_bytes() == b"picture of sword 1 "
    objects.entry("sword", content="2")
    assert export_catalog([changed, good], objects, tmp_path).written[0] == "sword_1.png"


def test_killed_export_is_simply_run_again(objects: Objects, tmp_path: Path) -> None:
    """After a kill at any read, running again ends with the same folder, and nothing counts as a stranger's."""
    old = [objects.entry(name) for name in ("axe", "bow", "sword")]
    new = [objects.entry(name, content="new") for name in ("axe", "sword", "wand")]
    newest = [objects.entry(name, content="newest") for name in ("axe", "wand", "xylophone")]

    class Killed(BaseException):
        pass

    for kill_at in range(3):
        folder = tmp_path / str(kill_at)
        export_catalog(old, objects, folder)
        reads = 0

        def read(key: str, kill_at: int = kill_at) -> bytes:
            nonlocal reads
            if reads == kill_at:
                raise Killed
            reads += 1
            return objects(key)

        with pytest.raises(Killed):
            export_catalog(new, read, folder)
        (folder / ".assetmill" / "9.part").write_bytes(b"half a pict")
        export_catalog(newest, objects, folder)
        assert {"axe_1.png", "wand_1.png", "xylophone_1.png"} <= pictures(folder)
        assert b"newest" in (folder / "axe_1.png").read_bytes()
        assert not list(folder.rglob("*.part"))


# --- names --------------------------------------------------------------------------------------------------

NASTY = [
    "../../etc/passwd",
    "a\x00b",
    "CON",
    "a" * 1025,
    "..",
    "/",
    "剣",
    "-",
    "a/b",
    "a:b",
    "\ud800",
    ".hidden",
    "C:\\x",
]


def test_nasty_ids_stay_in_the_folder(objects: Objects, tmp_path: Path) -> None:
    """No id becomes a path, a device or too long a name; every one gets a file of its own."""
    folder = tmp_path / "deep" / "er" / "export"
    export_catalog([objects.entry(asset_id) for asset_id in NASTY], objects, folder, name="{id}")
    assert len(pictures(folder)) == len(NASTY)
    assert all(p.is_relative_to(folder) for p in tmp_path.rglob("*") if p.is_file())
    assert all(len(name) <= 100 and "/" not in name and name.isascii() for name in pictures(folder))
    assert "CON.png" not in pictures(folder)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.integers(1, 3)), unique=True, max_size=12), st.randoms())
def test_names_are_distinct_and_independent_of_order(pairs: list[tuple[str, int]], random: Any) -> None:
    """Whatever ids there are, no two files share a name on any file system, and the order changes none."""

    def rows(pairs: list[tuple[str, int]]) -> list[dict[str, Any]]:
        same = {"media_type": "image/png", "template": "", "rendition": "image"}
        return [{**same, "asset_id": i, "rank": r, "variant_key": f"{i}/{r}"} for i, r in pairs]

    names = dict(zip(pairs, make_names(rows(pairs)), strict=True))
    assert len({name.casefold() for name in names.values()}) == len(pairs)
    mixed = random.sample(pairs, len(pairs))
    assert dict(zip(mixed, make_names(rows(mixed)), strict=True)) == names


def test_shared_names_carry_a_hash_and_others_stay(objects: Objects) -> None:
    """Two ids that read alike both get a hash; a third asset keeps the name it would have alone."""

    def names(*ids: str) -> list[str]:
        return make_names(rows_of(map(objects.entry, ids)))

    first, second, third = names("a/b", "a:b", "bow")
    assert first != second
    assert first.startswith("a-b_1-")
    assert third == "bow_1.png"
    assert names("剣")[0].startswith("unnamed-")
    assert names("剣", "弓")[0] == names("剣")[0]


def test_patterns_over_columns_and_formats(objects: Objects, tmp_path: Path) -> None:
    """Published columns, seeds and padded ranks may name files; a column cannot break out."""
    entries = [objects.entry("sword", columns={"set": "../north"})]
    export_catalog(entries, objects, tmp_path, name="{set}/{rank:03}-{seed}")
    assert pictures(tmp_path) == {"north/001-7.png"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{sku}", "known are id, rank, seed, template, title"),
        ("{id.__class__}", "known are"),
        ("{id", "cannot be read"),
        ("{id:>9}", "only numbers can"),
        ("{id!r}", "only numbers can"),
        ("{rank:999999999}", "only numbers can"),
        ("../{id}", "empty part"),
        ("/{id}", "empty part"),
        ("", "empty part"),
    ],
)
def test_wrong_patterns_are_refused(objects: Objects, tmp_path: Path, pattern: str, words: str) -> None:
    """A pattern that asks for what there isn't, or would leave the folder, is an input error."""
    with pytest.raises(InputError, match=words):
        export_catalog([objects.entry("a", columns={"title": "A"})], objects, tmp_path / "out", name=pattern)
    assert not (tmp_path / "out").exists()


def test_pictures_never_take_the_place_of_the_lists(objects: Objects, tmp_path: Path) -> None:
    """A folder or file that would be called like a list is called otherwise."""
    export_catalog([objects.entry("a", template="catalog.csv")], objects, tmp_path, name="{template}/{id}")
    assert (tmp_path / "catalog.csv").is_file()
    assert len(visible(tmp_path)) == 3


# --- what spreadsheets would run ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "  =1"])
def test_formulas_are_defused(objects: Objects, tmp_path: Path, text: str) -> None:
    """No cell of the CSV, in no column and no header, begins like a formula."""
    entry = objects.entry(text, columns={"title": text, text: "x"}, licence=text, score=-0.5)
    export_catalog([entry], objects, tmp_path)
    sheet = (tmp_path / "catalog.csv").read_bytes().decode("utf-8-sig")
    header, row = list(csv.reader(io.StringIO(sheet, newline="")))
    assert [c for c in (*header, *row) if c.strip()[:1] in tuple("=+-@＝")] == ["-0.5"]
    assert row[header.index("asset_id")] == "'" + text
    assert json.loads((tmp_path / "catalog.jsonl").read_text())["asset_id"] == text


def test_ordinary_texts_are_left_alone() -> None:
    """What begins with a letter, a digit or a quote stays as it is."""
    assert [escape_formula(t) for t in ("sword", "1-2", "a=b", "", "'x", "é")] == ["sword", "1-2", "a=b", "", "'x", "é"]


# --- the manifest and links ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"schema": 9, "files": {}}',
        '{"schema": 1, "files": {"../../victim": {"sha256": "x"}}}',
        '{"schema": 1, "files": {"/etc/passwd": {"sha256": "x"}}}',
        '{"schema": 1, "files": {"a": {"oops": 1}}}',
    ],
)
def test_damaged_manifest_removes_nothing(objects: Objects, tmp_path: Path, content: str) -> None:
    """A manifest that is damaged, newer, or names files outside stops the export with the way out."""
    (tmp_path / ".assetmill").mkdir()
    (tmp_path / MANIFEST).write_text(content)
    (tmp_path / "a").write_text("mine")
    with pytest.raises(InputError, match="delete it"):
        export_catalog([objects.entry("sword")], objects, tmp_path)
    assert visible(tmp_path) == {"a": b"mine"}


def test_links_lead_nowhere(objects: Objects, tmp_path: Path) -> None:
    """A linked folder or file is neither written through nor removed through."""
    folder, outside = tmp_path / "export", tmp_path / "outside"
    outside.mkdir()
    export_catalog([objects.entry("sword"), objects.entry("bow")], objects, folder, name="{template}/{id}")
    (outside / "bow.png").write_bytes((folder / "icon/bow.png").read_bytes())
    for file in (folder / "icon").iterdir():
        file.unlink()
    (folder / "icon").rmdir()
    (folder / "icon").symlink_to(outside)
    with pytest.raises(InputError, match="not a folder of its own"):
        export_catalog([objects.entry("sword")], objects, folder, name="{template}/{id}")
    report = export_catalog([objects.entry("sword")], objects, folder, name="{id}")
    assert report.kept == ("icon/bow.png",)
    assert (outside / "bow.png").exists()
