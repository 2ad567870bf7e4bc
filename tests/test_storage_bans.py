"""Bans: records that nothing changes, and what they cover, asked in three ways with one answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assetmill.records import Adapter, InputError, Reference, request_from_json
from assetmill.storage.bans import Ban, Bans, ban, lift, open_bans, read_bans, wildcard
from assetmill.storage.entries import CatalogEntry, entries_to_table
from assetmill.storage.folder import FolderStore
from assetmill.storage.layout import bans_prefix
from assetmill.storage.store import CorruptObject
from storage_samples import damage, entry, request_of, sha


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store", sync=False)


def test_a_ban_holds_until_it_is_lifted(store: FolderStore) -> None:
    """Both are records; the same ban again is none; after a lift it can be banned again."""
    assert not open_bans(store, "c")
    one = ban(store, "c", "model", "tiny", reason="no licence", by="ann")
    assert ban(store, "c", "model", "tiny", reason="again") == one
    assert (one.reason, one.by, one.at[:2]) == ("no licence", "ann", "20")
    assert open_bans(store, "c").bans == (one,)
    assert not open_bans(store, "other"), "bans belong to a config"
    assert lift(store, "c", [one.id[:20].lower()], reason="bought", by="bob") == [one]
    assert not open_bans(store, "c")
    ((old, lifted),) = read_bans(store, "c")
    assert lifted is not None
    assert (old, lifted["reason"], lifted["by"], lifted["lifts"]) == (one, "bought", "bob", [one.id])
    assert ban(store, "c", "model", "tiny").id != one.id
    assert len(list(store.list(bans_prefix("c")))) == 3


def test_a_ban_on_more_is_another_ban(store: FolderStore) -> None:
    """A second recall of a picture that by now belongs to more assets is written too."""
    ban(store, "c", "blob", "a" * 64, assets=["x"])
    ban(store, "c", "blob", "a" * 64, assets=["x", "y"], blobs=["b" * 64])
    found = open_bans(store, "c")
    assert len(found.bans) == 2
    assert (found.blobs, found.blobs_of("y")) == ({"a" * 64, "b" * 64}, ["a" * 64, "b" * 64])


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("colour", "red", "nothing can be recalled by 'colour'; use one of model"),
        ("model", " ", "needs a value"),
        ("licence", "**", "not all"),
        ("blob", "abc", "64 hex digits"),
    ],
)
def test_what_cannot_be_banned(store: FolderStore, kind: str, value: str, message: str) -> None:
    """Unknown kinds, empty values and a ban on everything are refused."""
    with pytest.raises(InputError, match=message):
        ban(store, "c", kind, value)
    assert not list(store.list("bans/"))


def test_what_cannot_be_lifted(store: FolderStore) -> None:
    """An id that names no ban, or several, is refused, and nothing is lifted."""
    ban(store, "c", "model", "tiny")
    ban(store, "c", "model", "large")
    for text, message in (("", "no ban"), ("ZZZ", "no ban"), ("0", "2 bans")):
        with pytest.raises(InputError, match=f"{message} that holds now .*assetmill catalog bans"):
            lift(store, "c", [text])
    assert len(open_bans(store, "c").bans) == 2


def test_unreadable_bans_stop_everything(store: FolderStore) -> None:
    """A damaged record is no reason to publish what was taken back."""
    one = ban(store, "c", "model", "tiny")
    damage(store.root / f"{bans_prefix('c')}{one.id}.json")
    with pytest.raises(CorruptObject, match="whether something was recalled cannot be read"):
        open_bans(store, "c")


FULL = replace(
    request_of("a"),
    adapters=(Adapter("lora", sha("lora")),),
    references=(Reference("init", sha("photo")),),
)
ENTRY = entry(
    "a", engine="torch-free", model="org/tiny", revision="f" * 40, licence="cc-by-nc-4.0", template="hero.j2",
    reviewer="ann", upscaler=sha("up"), request=replace(FULL, model="org/tiny", revision="f" * 40).payload(),
)  # fmt: skip
COVERING = [
    ("model", "org/tiny"), ("model", "ORG/*"), ("model", "torch-free/org/tiny"), ("model", "f" * 40),
    ("model", "org/tiny@" + "f" * 40), ("model", sha("up")), ("adapter", sha("lora")), ("licence", "CC-BY-NC-4.0"),
    ("licence", "cc-by-nc*"), ("template", "hero.j2"), ("template", "hero*"), ("asset", "a"), ("reviewer", "ann"),
    ("blob", ENTRY.blob), ("blob", ENTRY.master), ("blob", sha("photo")),
]  # fmt: skip
NOT_COVERING = [
    ("model", "tiny"), ("model", "org/tin"), ("model", "org/tin?"), ("model", "org/[t]iny"), ("adapter", sha("other")),
    ("licence", "cc-by"), ("template", "hero"), ("asset", "A"), ("asset", "*"), ("reviewer", "an"),
    ("blob", sha("other")),
]  # fmt: skip


def bans_of(kind: str, value: str) -> Bans:
    return Bans((Ban("1", kind, value, blobs=(value,) if kind == "blob" else ()),))


def ask(bans: Bans, one: CatalogEntry) -> str:
    return bans.reason(
        asset_id=one.asset_id, template=one.template, request=request_from_json(one.request), licence=one.licence,
        reviewer=one.reviewer, blob=one.blob, upscaler=one.upscaler,
    ) or bans.reason(blob=one.master)  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [*COVERING, *NOT_COVERING])
def test_what_a_ban_covers(kind: str, value: str) -> None:
    """An entry, its row in a table and its parts give the same answer; the reason names the ban."""
    bans = bans_of(kind, value)
    table = entries_to_table([ENTRY, entry("b")]).select(bans.row_columns)
    answers = [ask(bans, ENTRY), bans.reason_of(ENTRY), bans.reasons(table)[0]]
    assert [bool(a) for a in answers] == [(kind, value) in COVERING] * 3
    assert len(set(answers)) == 1
    assert bans.reasons(table)[1] == ""
    assert ("request" in table.column_names) == (kind in ("adapter", "blob")), "the large column only where needed"


def test_no_bans_cover_nothing() -> None:
    """Without bans nothing is asked of anything."""
    assert (ask(Bans(), ENTRY), Bans().reason_of(ENTRY), Bans().digest) == ("", "", "")
    assert Bans().reasons(entries_to_table([ENTRY])) == [""]


@given(st.text(max_size=12), st.text(max_size=4))
def test_wildcards(text: str, more: str) -> None:
    """Only `*` is special: a text without one matches itself alone."""
    plain = text.replace("*", "+")
    assert wildcard(plain).fullmatch(plain)
    assert wildcard(plain + "*").fullmatch(plain + more)
    if more:
        assert not wildcard(plain).fullmatch(plain + more)
